"""Recipe -> tensors and folders: the exporter's way of building what the engine builds in place.

Streaming: one tensor at a time; memory is one output shard and the largest tensor's sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergefront.checkpoint import DTYPES, SHARD_BYTES, CheckpointWriter, copy_companions
from mergefront.errors import CheckpointError
from mergefront.recipe import Recipe

from . import METHODS
from .arithmetic import weighted_sum
from .plan import UNTOUCHED, group_weights, touched_parts
from .sources import Sources, check_heads, is_finite


def check(sources: Sources, recipe: Recipe) -> None:
    """Check that a recipe fits its opened models, before anything is built.

    Raises:
        UserError: the method needs a base that was not named, the recipe names a group that the
            receiver has not, or it touches an embedding or head that cannot be merged.
    """
    sources.check_method(METHODS[recipe.method], recipe.parameters)
    for source in recipe.overridden(sources.groups).values():
        if source != "zero":
            sources.model(source)
    check_heads(sources, touched_parts(recipe, sources.groups))


def merged_tensor(sources: Sources, recipe: Recipe, name: str) -> Tensor:
    """Return one of the receiver's tensors as the recipe makes it, in the checkpoint's dtype.

    Tensors of groups that the recipe leaves alone, and of other towers, are the receiver's own.

    Raises:
        CheckpointError: if a value overflows the checkpoint's dtype.
    """
    plan = group_weights(recipe, sources.groups)
    group = {member: one.name for one in sources.groups for member in one.tensors}.get(name)
    return combined(sources, recipe, name, plan[group] if group is not None else UNTOUCHED)


def combined(sources: Sources, recipe: Recipe, name: str, weights: Mapping[str, float]) -> Tensor:
    """Return a receiver tensor as the sum of its group's terms (see `plan.group_weights`)."""
    if weights == UNTOUCHED:
        return sources.receiver.tensor(name)
    method = METHODS[recipe.method]
    header = sources.receiver.headers[name]
    terms = [
        method.prepare(term, lambda source: sources.tensor(source, name), recipe.parameters)
        for term in weights
    ]
    dtype = DTYPES[header.dtype]
    out = torch.empty(header.shape, dtype=dtype)
    weighted_sum(terms, tuple(weights.values()), dtype, out)
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
    plan = group_weights(recipe, sources.groups)
    weights_of = {member: plan[group.name] for group in sources.groups for member in group.tensors}
    account: dict[str, list[str]] = {"merged": [], "copied": []}
    names = list(sources.receiver.headers)
    with CheckpointWriter(out, shard_bytes) as writer:
        for done, name in enumerate(names, start=1):
            weights = weights_of.get(name, UNTOUCHED)
            account["copied" if weights == UNTOUCHED else "merged"].append(name)
            writer.add(name, combined(sources, recipe, name, weights))
            if progress is not None:
                progress(done, len(names))
    companions = copy_companions(sources.receiver.folder, out)
    return account | {"companions": companions, "bytes": writer.total_bytes}
