"""Does the live model hold its weights where and as its own loader puts them?

Writing in place relies on it. Some layers repack their weights once they are loaded (the experts
of a mixture on a CPU, some kernels on a GPU); they keep shape and dtype, so that what is written
into them later would be wrong in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from mergefront.engine.inplace import Target
from mergefront.errors import EngineError
from mergefront.records import Group

_NUMBER: Final = re.compile(r"(?:^|\.)\d+(?=\.|$)")


def refuse_repacked(
    targets: Sequence[Target], staged: Callable[[Sequence[Group]], Mapping[str, Tensor]]
) -> None:
    """Compare live parameters with what the loader makes of the receiver's own tensors.

    One parameter of each kind is compared, that is of each name without its numbers; embedding
    and head, which are large and never repacked, are not. `staged` returns, for some groups, the
    parameters' tensors as the loader fills them. To be called before anything is written.

    Raises:
        EngineError: one differs, naming the parameter.
    """
    kinds: dict[str, str] = {}
    for target in targets:
        if target.group.part not in ("embedding", "head"):
            kinds.setdefault(_NUMBER.sub(".N", target.parameter), target.parameter)
    chosen = [target for target in targets if target.parameter in kinds.values()]
    groups = {target.group.name: target.group for target in chosen}
    filled = staged(list(groups.values())) if groups else {}
    for target in chosen:
        live = target.live
        expected = target.cut(filled[target.parameter]).to(live.device, live.dtype)
        if not torch.equal(live, expected):
            raise EngineError(
                f"parameter {target.parameter} is kept in a layout of the engine's own: what is "
                "written into it would be wrong",
                hint="use the transformers engine for this model, or another machine: a mixture "
                "of experts is repacked on a CPU",
            )
