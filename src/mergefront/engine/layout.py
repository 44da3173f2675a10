"""Running a live model's own loader on other tensors, and what that tells of its layout.

Writing in place relies on one thing: that the model holds its weights where its loader puts them,
and unchanged. `refuse_repacked` checks it. Some layers repack their weights once they are loaded
(the experts of a mixture on a CPU, some kernels on a GPU). They keep shape and dtype, so that what
is written into them later would be wrong without any error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

from mergefront.engine.inplace import Target, as_rows
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
    compared = [target for target in targets if target.parameter in kinds.values()]
    groups = {target.group.name: target.group for target in compared}
    filled = staged(list(groups.values())) if groups else {}
    for target in compared:
        live = target.live
        expected = target.cut(filled[target.parameter]).to(live.device, live.dtype)
        if not torch.equal(live, expected):
            raise EngineError(
                f"parameter {target.parameter} is kept in a layout of the engine's own: what is "
                "written into it would be wrong",
                hint="use the transformers engine for this model, or another machine: a mixture "
                "of experts is repacked on a CPU",
            )


@contextmanager
def swapped(parameters: Mapping[str, nn.Parameter], data: Mapping[str, Tensor]) -> Iterator[None]:
    """Let `data` (of any dtype and device) stand in for the parameters of the same names."""
    live = {name: (parameters[name].data, parameters[name].requires_grad) for name in data}
    try:
        for name, tensor in data.items():
            parameters[name].requires_grad_(False).data = tensor
        yield
    finally:
        for name, (tensor, requires_grad) in live.items():
            parameters[name].data = tensor
            parameters[name].requires_grad_(requires_grad)


@contextmanager
def same_modules(model: nn.Module) -> Iterator[None]:
    """Undo whatever is done to a model's tree of modules and parameters meanwhile.

    A loader that is given a part of a checkpoint may draw conclusions from the rest: vLLM's
    Phi-3-V takes a missing word embedding for a tied one, and puts the language model's own, which
    was never read, in its place.
    """
    before = [
        (module, dict(module._modules), dict(module._parameters)) for module in model.modules()
    ]
    try:
        yield
    finally:
        for module, children, parameters in before:
            for live, saved in ((module._modules, children), (module._parameters, parameters)):
                live.clear()
                live.update(saved)  # type: ignore[arg-type]


def uniform_rows(name: str, codes: Tensor) -> list[tuple[tuple[int, int], int]]:
    """Split a parameter into runs of rows of one nonzero code: [((first, end), code), ...].

    Raises:
        EngineError: a row holds elements of several tensors.
    """
    if codes.numel() == 0 or not codes.any():
        return []
    rows = as_rows(codes)
    flat = rows.reshape(len(rows), -1)
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    if not torch.equal(low, high):
        raise EngineError(f"parameter {name} mixes tensors within a row and cannot be rewritten")
    values, counts = torch.unique_consecutive(low, return_counts=True)
    runs, first = [], 0
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if value:
            runs.append(((first, first + count), value))
        first += count
    return runs
