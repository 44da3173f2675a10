"""Recipe -> tensors and folders: the exporter's way of building what the engine builds in place.

Streaming: one tensor at a time, written as soon as it is made.
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
from .arithmetic import CPU_CHUNK, combine
from .common import DELTA, difference
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
    """Carry out a mix piece by piece: deltas of a whole tensor would not fit in any cache."""
    pieces = [_pieces(method, slot, term, parameters) for term in mix.terms]
    out = torch.empty(slot.read("receiver").shape, dtype=dtype)
    flat = out.view(-1)
    for start in range(0, flat.numel(), CPU_CHUNK):
        at = slice(start, start + CPU_CHUNK)
        combine(mix, [piece(at) for piece in pieces], dtype, flat[at])
    return out


def _pieces(
    method: Method, slot: Slot, term: str, parameters: Mapping[str, Any]
) -> Callable[[slice], Tensor]:
    """Return what gives any range of a term's entries; a delta's are worked out when asked for."""
    if term.startswith(DELTA):
        source, anchor = (slot.read(one).reshape(-1) for one in method.reads(term, parameters))
        return lambda at: difference(source[at], anchor[at])
    whole = method.prepare(term, slot, parameters).reshape(-1)
    return lambda at: whole[at]


def combined(sources: Sources, recipe: Recipe, name: str, choice: Choice) -> Tensor:
    """Return a receiver tensor as its group's choice makes it (see `plan.plan_of`).

    Raises:
        CheckpointError: if a value overflows the checkpoint's dtype.
    """
    if choice == UNTOUCHED:
        mergeable = name in sources.models["receiver"].pairs
        return sources.tensor("receiver", name) if mergeable else sources.receiver.tensor(name)
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
    copied. Wrap the call in `checkpoint.whole_folder`. `progress(done, all)` is told of bytes.

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
    planned = {
        name: torch.empty(header.shape, dtype=DTYPES[header.dtype], device="meta")
        for name, header in sources.receiver.headers.items()
    }
    with CheckpointWriter(out, planned, shard_bytes) as writer:
        done, total = 0, sources.receiver.n_bytes
        for name in names:
            choice = choices.get(name, UNTOUCHED)
            account["copied" if choice == UNTOUCHED else "merged"].append(name)
            writer.add(name, combined(sources, recipe, name, choice))
            done += sources.receiver.headers[name].n_bytes
            if progress is not None:
                progress(done, total)
    companions = copy_companions(sources.receiver.folder, out)
    return account | {"companions": companions, "bytes": writer.total_bytes}
