"""Recipe -> tensors and folders: the exporter's way of building what the engine builds in place.

Streaming: one tensor at a time; memory is one output shard and the largest tensor's sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergefront.checkpoint import DTYPES, SHARD_BYTES, CheckpointWriter, copy_companions
from mergefront.errors import CheckpointError
from mergefront.recipe import Recipe

from . import METHODS
from .arithmetic import combine
from .method import Method, Mix, Slot
from .plan import UNTOUCHED, ZERO, Choice, copied, plan_of, touched_parts
from .slots import SourceSlot
from .sources import Sources, check_heads, is_finite


def check(sources: Sources, recipe: Recipe) -> None:
    """Check that a recipe fits its opened models, before anything is built.

    Raises:
        UserError: the method needs a base that was not named, the recipe names a group that the
            receiver has not, or it touches an embedding or head that cannot be merged.
    """
    sources.check_method(METHODS[recipe.method], recipe.parameters)
    for source in recipe.overridden(sources.groups).values():
        if source != ZERO:
            sources.model(source)
    check_heads(sources, touched_parts(recipe, sources.groups))


def merged(
    method: Method,
    slot: Slot,
    row: Mapping[str, float],
    donors: Sequence[str],
    parameters: Mapping[str, Any],
    dtype: torch.dtype,
) -> Tensor:
    """Return one tensor as `method` makes it at a row of coefficients, rounded once to `dtype`."""
    mix = method.mix(row, donors, parameters, method.measure(slot, donors, parameters))
    return _carried_out(method, slot, mix, parameters, dtype)


def _carried_out(
    method: Method, slot: Slot, mix: Mix, parameters: Mapping[str, Any], dtype: torch.dtype
) -> Tensor:
    terms = [method.prepare(term, slot, parameters) for term in mix.terms]
    out = torch.empty(slot.read("receiver").shape, dtype=dtype)
    combine(mix, terms, dtype, out)
    return out


def combined(sources: Sources, recipe: Recipe, name: str, choice: Choice) -> Tensor:
    """Return a receiver tensor as its group's choice makes it (see `plan.plan_of`).

    Raises:
        CheckpointError: if a value overflows the checkpoint's dtype.
    """
    if choice == UNTOUCHED:
        return sources.receiver.tensor(name)
    method, parameters = METHODS[recipe.method], recipe.parameters
    slot = SourceSlot(sources, name)
    header = sources.receiver.headers[name]
    dtype = DTYPES[header.dtype]
    if isinstance(choice, str):
        out = _carried_out(method, slot, copied(choice), parameters, dtype)
    else:
        out = merged(method, slot, choice, recipe.donors, parameters, dtype)
    if not is_finite(out):
        raise CheckpointError(
            f"merged tensor {name!r} overflows {header.dtype}",
            hint="the coefficients of its group are too large",
        )
    return out


def write(
    sources: Sources,
    recipe: Recipe,
    out: Path,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the recipe's complete checkpoint into the existing folder `out`.

    Every receiver tensor is merged or copied; companions (config, tokenizer, processor, ...) are
    copied. Wrap the call in `checkpoint.whole_folder`. `progress(done, all)` is told of tensors.

    Returns:
        {"merged": names, "copied": names, "companions": file names, "bytes": of the tensors}.

    Raises:
        UserError: whatever `check` and `combined` raise.
    """
    check(sources, recipe)
    plan = plan_of(recipe, sources.groups)
    choices = {member: plan[group.name] for group in sources.groups for member in group.tensors}
    account: dict[str, list[str]] = {"merged": [], "copied": []}
    names = list(sources.receiver.headers)
    with CheckpointWriter(out, shard_bytes) as writer:
        for done, name in enumerate(names, start=1):
            choice = choices.get(name, UNTOUCHED)
            account["copied" if choice == UNTOUCHED else "merged"].append(name)
            writer.add(name, combined(sources, recipe, name, choice))
            if progress is not None:
                progress(done, len(names))
    companions = copy_companions(sources.receiver.folder, out)
    return account | {"companions": companions, "bytes": writer.total_bytes}
