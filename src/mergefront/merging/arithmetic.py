"""The one weighted sum by which every candidate is made, wherever it is made.

The search engine, the transformers engine and the exporter call this same function, so that what
was scored can be exported bit for bit. Not here: what the terms are (`linear`,
`task_arithmetic`) and which tensors get them (`plan`).

The order of operations is part of the definition: weights are rounded to fp32; terms with weight
zero are left out; the rest are taken in fp32 in the given order, each multiplied and then added,
two roundings, never one (`torch.add(x, y, alpha=a)`, `lerp` and `addcmul` fuse them and differ in
0.8 % of fp32 elements); the sum is rounded once to the checkpoint's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

CPU_CHUNK: Final = 1 << 18
DEVICE_CHUNK: Final = 1 << 26


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
    for term in terms:
        if term.shape != out.shape:
            raise ValueError(f"term of shape {list(term.shape)} for out {list(out.shape)}")
    chosen = [
        (term, weight)
        for term, weight in zip(terms, map(as_float32, weights), strict=True)
        if weight != 0.0
    ]
    if not chosen:
        out.zero_()
    elif len(chosen) == 1 and chosen[0][1] == 1.0:
        out.copy_(chosen[0][0].to(checkpoint_dtype))
    elif not out.is_contiguous():
        whole = torch.empty_like(out, memory_format=torch.contiguous_format)
        _sum_in_chunks(chosen, checkpoint_dtype, whole, chunk)
        out.copy_(whole)
    else:
        _sum_in_chunks(chosen, checkpoint_dtype, out, chunk)


def as_float32(weight: float) -> float:
    """Round a weight to fp32, as the multiplication would."""
    return float(np.float32(weight))


def _sum_in_chunks(
    chosen: Sequence[tuple[Tensor, float]],
    checkpoint_dtype: torch.dtype,
    out: Tensor,
    chunk: int | None,
) -> None:
    """Sum the nonzero terms into a contiguous `out`, chunk by chunk to stay in cache."""
    step = chunk or (CPU_CHUNK if out.device.type == "cpu" else DEVICE_CHUNK)
    flat_out = out.view(-1)
    flat_terms = [(term.reshape(-1), weight) for term, weight in chosen]
    size = min(step, flat_out.numel())
    total = torch.empty(size, dtype=torch.float32, device=out.device)
    scaled = torch.empty_like(total)
    for start in range(0, flat_out.numel(), step):
        target = flat_out[start : start + step]
        acc, work = total[: target.numel()], scaled[: target.numel()]
        for position, (term, weight) in enumerate(flat_terms):
            part = acc if position == 0 else work
            part.copy_(term[start : start + step])
            if weight != 1.0:
                part.mul_(weight)
            if position > 0:
                acc.add_(work)
        target.copy_(acc if target.dtype == checkpoint_dtype else acc.to(checkpoint_dtype))
