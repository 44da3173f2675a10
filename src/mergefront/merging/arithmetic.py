"""The arithmetic that makes every candidate, in both engines and in the exporter.

All of them call `combine`, so that the scored model can be exported bit for bit.
Not here: what the terms are (one file for each method) and which tensors get them (`plan`).

The order of operations is part of the definition. In a weighted sum, weights are rounded to fp32
and terms with weight zero are left out. The others are taken in fp32 in the given order. Each is
multiplied and then added: two roundings, never one (`torch.add(x, y, alpha=a)`, `lerp` and
`addcmul` fuse the two and differ in 0.8 % of fp32 elements). The sum is rounded once to the
checkpoint's dtype. A method's own `join` is elementwise in fp32, and rounded once as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from torch import Tensor

from mergefront.merging.method import Join, Mix

CPU_CHUNK: Final = 1 << 18
JOIN_CHUNK: Final = 1 << 17
"""On a CPU; a join has half a dozen fp32 chunks at work, which should stay in a core's cache."""
DEVICE_CHUNK: Final = 1 << 26
_ROWS: Final = torch.contiguous_format


def combine(
    mix: Mix,
    terms: Sequence[Tensor],
    checkpoint_dtype: torch.dtype,
    out: Tensor,
    *,
    chunk: int | None = None,
) -> None:
    """Write one tensor of a candidate into `out`, rounded once to `checkpoint_dtype`.

    `terms` are those that `mix` names, in its order, of `out`'s shape and device. The result
    depends neither on `chunk` (elements worked on at a time) nor on the number of threads, nor
    on which part of the tensor `out` is.

    Raises:
        ValueError: if shapes or the number of terms differ.
    """
    if mix.join is None:
        weighted_sum(terms, mix.weights, checkpoint_dtype, out, chunk=chunk)
        return
    if len(terms) != len(mix.terms):
        raise ValueError(f"{len(terms)} tensors for {len(mix.terms)} terms")
    _check_shapes(terms, out)
    whole = out if out.is_contiguous() else torch.empty_like(out, memory_format=_ROWS)
    _join_in_chunks(mix.join, terms, checkpoint_dtype, whole, chunk)
    if whole is not out:
        out.copy_(whole)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch's CPU work in this thread.

    Pieces that fit a cache are too small to share out among threads: torch's threads wait for each
    other actively after every operation, which on a busy machine cost twenty times the work.
    """
    before = torch.get_num_threads()
    # vLLM's CPU worker replaces torch.set_num_threads; this is the function behind it.
    torch._C.set_num_threads(1)
    try:
        yield
    finally:
        torch._C.set_num_threads(before)


def weighted_sum(
    terms: Sequence[Tensor],
    weights: Sequence[float],
    checkpoint_dtype: torch.dtype,
    out: Tensor,
    *,
    chunk: int | None = None,
) -> None:
    """Write sum_i weights[i] * terms[i] into `out`, rounded once to `checkpoint_dtype`.

    `terms` have `out`'s shape and device, and any floating dtype; `out` may have another dtype
    than the checkpoint (the engine's) and receives the rounded value converted. A single nonzero
    term of weight one is a copy; no nonzero term gives zeros. The result depends neither on
    `chunk` (elements worked on at a time) nor on the number of threads.

    Raises:
        ValueError: if shapes or the numbers of terms and weights differ.
    """
    if len(terms) != len(weights):
        raise ValueError(f"{len(terms)} terms but {len(weights)} weights")
    _check_shapes(terms, out)
    nonzero = [
        (term, weight)
        for term, weight in zip(terms, map(as_float32, weights), strict=True)
        if weight != 0.0
    ]
    if not nonzero:
        out.zero_()
    elif len(nonzero) == 1 and nonzero[0][1] == 1.0:
        out.copy_(nonzero[0][0].to(checkpoint_dtype))
    elif not out.is_contiguous():
        whole = torch.empty_like(out, memory_format=_ROWS)
        _sum_in_chunks(nonzero, checkpoint_dtype, whole, chunk)
        out.copy_(whole)
    else:
        _sum_in_chunks(nonzero, checkpoint_dtype, out, chunk)


def _check_shapes(terms: Sequence[Tensor], out: Tensor) -> None:
    for term in terms:
        if term.shape != out.shape:
            raise ValueError(f"term of shape {list(term.shape)} for out {list(out.shape)}")


def as_float32(weight: float) -> float:
    """Round a weight to fp32, as the multiplication would."""
    with np.errstate(over="ignore"):  # the merged tensor's overflow is reported, by name
        return float(np.float32(weight))


def _sum_in_chunks(
    weighted: Sequence[tuple[Tensor, float]],
    checkpoint_dtype: torch.dtype,
    out: Tensor,
    chunk: int | None,
) -> None:
    """Sum the nonzero terms into a contiguous `out`, chunk by chunk to stay in cache."""
    step = chunk or step_of(out.device, joined=False)
    flat_out = out.view(-1)
    flat_terms = [(term.reshape(-1), weight) for term, weight in weighted]
    size = min(step, flat_out.numel())
    total = torch.empty(size, dtype=torch.float32, device=out.device)
    scaled = torch.empty_like(total)
    for start in range(0, flat_out.numel(), step):
        target = flat_out[start : start + step]
        acc, work = total[: target.numel()], scaled[: target.numel()]
        for position, (term, weight) in enumerate(flat_terms):
            part = acc if position == 0 else work
            piece = term[start : start + step]
            # fp32 terms are multiplied straight out of their memory. Others are widened first: a
            # product in bf16 would be rounded to bf16.
            if weight != 1.0 and piece.dtype == torch.float32:
                torch.mul(piece, weight, out=part)
            else:
                part.copy_(piece)
                if weight != 1.0:
                    part.mul_(weight)
            # Not torch.add(acc, piece, alpha=weight): it rounds once where this rounds twice.
            if position > 0:
                acc.add_(work)
        # copy_ rounds once, from fp32 to the checkpoint's dtype (bf16). A live tensor of another
        # dtype needs that rounding before its own.
        target.copy_(acc if target.dtype == checkpoint_dtype else acc.to(checkpoint_dtype))


def _join_in_chunks(
    join: Join,
    terms: Sequence[Tensor],
    checkpoint_dtype: torch.dtype,
    out: Tensor,
    chunk: int | None,
) -> None:
    """Join flat chunks of the terms into a contiguous `out`."""
    step = chunk or step_of(out.device, joined=True)
    flat_out = out.view(-1)
    flat_terms = [term.reshape(-1) for term in terms]
    for start in range(0, flat_out.numel(), step):
        parts = [_working_copy(term[start : start + step]) for term in flat_terms]
        flat_out[start : start + step].copy_(join(parts).to(checkpoint_dtype))


def _working_copy(part: Tensor) -> Tensor:
    """Return a chunk for a join: floats as an fp32 copy, integer terms unchanged."""
    return part.to(torch.float32, copy=True) if part.is_floating_point() else part


def step_of(device: torch.device, *, joined: bool) -> int:
    """Return how many entries to work on at a time, by a method's join or a sum."""
    if device.type != "cpu":
        return DEVICE_CHUNK
    return JOIN_CHUNK if joined else CPU_CHUNK
