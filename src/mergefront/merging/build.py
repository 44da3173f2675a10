"""Recipe -> checkpoint: the exporter writes what an engine builds in place, bit for bit.

Tensors are streamed one after the other, in pieces that fit a cache, and each piece is written as
soon as it is merged. Not here: what a tensor is made of (`plan`, `methods`).

Reading order: `write`, `combined_pieces`, `mixed_pieces`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergefront.errors import CheckpointError
from mergefront.merging.arithmetic import combine, one_thread, step_of
from mergefront.merging.method import Method, Mix, Slot
from mergefront.merging.plan import COPY_RECEIVER, GroupContent, Plan, copy_of, plan_of
from mergefront.merging.recipe import Recipe
from mergefront.merging.slots import SourceSlot
from mergefront.models.sources import Sources, is_finite
from mergefront.models.writer import (
    SHARD_BYTES,
    CheckpointWriter,
    copy_companions,
    set_config_dtype,
)
from mergefront.records import Dtype


def mixed_pieces(method: Method, slot: Slot, mix: Mix, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield a mixed tensor in order, in flat pieces; each is overwritten by the next."""
    pieces = [method.pieces(term, slot) for term in mix.terms]
    n = slot.read("receiver").numel()
    step = step_of(torch.device("cpu"), joined=mix.join is not None)
    out = torch.empty(min(step, n), dtype=dtype)
    with one_thread():
        for start in range(0, n, step):
            at = slice(start, min(start + step, n))
            merged = out[: at.stop - start]
            combine(mix, [piece(at) for piece in pieces], dtype, merged)
            yield merged


def combined_pieces(
    sources: Sources, plan: Plan, name: str, content: GroupContent, dtype: Dtype = "auto"
) -> Iterator[Tensor]:
    """Yield one merged or copied tensor in flat pieces; `content` is its group's (`GroupContent`).

    `dtype` is the floating type that the tensor is rounded to, once, from the fp32 arithmetic or
    from the receiver's own value (of F64 by way of fp32). "auto" is the receiver's own type of this
    tensor. Pieces come in order; each is overwritten by the next.

    Raises:
        CheckpointError: if a source holds NaN or infinity, or a value overflows that type.
    """
    out_dtype = sources.receiver.headers[name].written_type(dtype)
    if content == COPY_RECEIVER:
        mergeable = name in sources.models["receiver"].pairs
        read = sources.tensor("receiver", name) if mergeable else sources.receiver.tensor(name)
        yield _cast(name, read, out_dtype).reshape(-1)
        return
    method, donors, slot = plan.method, plan.recipe.donors, SourceSlot(sources, name)
    if isinstance(content, str):
        mix = copy_of(content)
    else:
        mix = method.mix(content, donors, method.measure(slot, donors))
    reader = replace(slot, checked=not _shows_all(mix))
    for piece in mixed_pieces(method, reader, mix, out_dtype):
        if not is_finite(piece):
            for source in dict.fromkeys(s for t in mix.terms for s in method.reads(t)):
                sources.tensor(source, name)  # refuses one that is damaged
            raise _overflow("merged", name, out_dtype)
        yield piece


def _shows_all(mix: Mix) -> bool:
    """Whether a NaN or infinity in a source surely shows in the merged tensor.

    It does in weighted sums of sources and deltas, so that looking at the merged tensor is enough.
    A join may clamp it away, and a decomposition may fail at it.
    """
    plain = all(term.kind in ("source", "delta") for term in mix.terms)
    return mix.join is None and plain


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Round a copied tensor; NaN and infinity of the receiver stay, new ones are refused."""
    if tensor.dtype == dtype:
        return tensor
    out = tensor.to(dtype)
    if not is_finite(out) and not torch.equal(out.isfinite(), tensor.isfinite()):
        raise _overflow("copied", name, dtype)
    return out


def _overflow(kind: str, name: str, dtype: torch.dtype) -> CheckpointError:
    written, largest = str(dtype).removeprefix("torch."), torch.finfo(dtype).max
    ways = ["lower the coefficients of its group"] if kind == "merged" else []
    ways += ["write it in bfloat16 or float32"] if dtype == torch.float16 else []
    return CheckpointError(
        f"{kind} tensor {name!r} overflows {written}, whose largest value is {largest:g}",
        hint=", or ".join(ways) or "leave the tensors their own type",
    )


def write(
    sources: Sources,
    recipe: Recipe,
    out: Path,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
    dtype: Dtype = "auto",
) -> dict[str, Any]:
    """Write the recipe's complete checkpoint into the existing folder `out`.

    Every receiver tensor is merged or copied; companions (config, tokenizer, processor, ...) are
    copied. Wrap the call in `writer.whole_folder`. `progress(written, total)` is called with bytes
    after each tensor. `dtype` is the type of all floating tensors (see `combined_pieces`), and
    config.json says so. With "auto" each has the receiver's, and config.json is copied as it is.

    Returns:
        {"merged": names, "copied": names, "companions": file names, "bytes": of the tensors}.

    Raises:
        UserError: whatever `plan_of` and `combined_pieces` raise.
    """
    plan = plan_of(recipe, sources)
    contents = {n: plan.contents[group.name] for group in sources.groups for n in group.tensors}
    account: dict[str, list[str]] = {"merged": [], "copied": []}
    planned = sources.receiver.planned_tensors(dtype)
    with CheckpointWriter(out, planned, shard_bytes) as writer:
        written = 0
        for name, tensor in planned.items():
            content = contents.get(name, COPY_RECEIVER)
            account["copied" if content == COPY_RECEIVER else "merged"].append(name)
            writer.add(name, combined_pieces(sources, plan, name, content, dtype))
            written += tensor.nbytes
            if progress is not None:
                progress(written, writer.total_bytes)
    companions = copy_companions(sources.receiver.folder, out)
    if dtype != "auto":
        set_config_dtype(out / "config.json", dtype)
    return account | {"companions": companions, "bytes": writer.total_bytes}
