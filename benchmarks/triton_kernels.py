"""A weighted sum, and TIES of two donors, as one Triton kernel: each byte is moved once.

The arithmetic is that of `mergefront.merging.methods`, bit for bit: fp32, terms in the given order,
every product, sum and quotient rounded on its own, one rounding to the checkpoint's dtype. The
compiler must therefore be kept from fusing multiply and add (`enable_fp_fusion`), and quotients be
asked for in full precision (`div_rn`).

With TRITON_INTERPRET=1 in the environment it runs on a CPU, slowly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

MOST_TERMS = 4
_BLOCK = 2048


@triton.jit  # type: ignore[untyped-decorator]
def _sum_kernel(  # type: ignore[no-untyped-def]
    out, n, w0, w1, w2, w3, t0, t1, t2, t3, terms: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < n
    total = tl.load(t0 + at, inside, 0.0).to(tl.float32) * w0
    if terms > 1:
        total = total + tl.load(t1 + at, inside, 0.0).to(tl.float32) * w1
    if terms > 2:
        total = total + tl.load(t2 + at, inside, 0.0).to(tl.float32) * w2
    if terms > 3:
        total = total + tl.load(t3 + at, inside, 0.0).to(tl.float32) * w3
    tl.store(out + at, total.to(out.dtype.element_ty), inside)


def fused_sum(terms: Sequence[Tensor], weights: Sequence[float], out: Tensor) -> None:
    """Write sum_i weights[i] * terms[i] into `out`, of the checkpoint's dtype; all contiguous.

    Raises:
        ValueError: if there are no terms, or more than four.
    """
    if not 0 < len(terms) <= MOST_TERMS:
        raise ValueError(f"{len(terms)} terms, expected 1 to {MOST_TERMS}")
    missing = MOST_TERMS - len(terms)
    pointers = [*terms, *[terms[0]] * missing]
    factors = [*map(float, weights), *[0.0] * missing]
    grid: Any = (triton.cdiv(out.numel(), _BLOCK),)
    _sum_kernel[grid](
        out, out.numel(), *factors, *pointers, terms=len(terms), block=_BLOCK,
        enable_fp_fusion=False,
    )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _ties_kernel(  # type: ignore[no-untyped-def]
    out, n, origin, d0, d1, least0, least1, c0, c1, s0, s1, block: tl.constexpr
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < n
    v0, v1 = tl.load(d0 + at, inside, 0.0), tl.load(d1 + at, inside, 0.0)
    v0 = tl.where(tl.abs(v0) >= least0, v0, 0.0) * c0
    v1 = tl.where(tl.abs(v1) >= least1, v1, 0.0) * c1
    votes = v0 + v1
    sign = tl.where(votes > 0.0, 1.0, tl.where(votes < 0.0, -1.0, 0.0))
    v0, v1 = tl.maximum(v0 * sign, 0.0), tl.maximum(v1 * sign, 0.0)
    a0, a1 = tl.where(v0 > 0.0, 1.0, 0.0) * s0, tl.where(v1 > 0.0, 1.0, 0.0) * s1
    agree = a0 + a1
    total = tl.div_rn((v0 + v1) * tl.maximum(a0, a1), tl.where(agree > 0.0, agree, 1.0)) * sign
    total = tl.load(origin + at, inside, 0.0).to(tl.float32) + total
    tl.store(out + at, total.to(out.dtype.element_ty), inside)


def fused_ties(
    terms: Sequence[Tensor],
    thresholds: Sequence[float],
    factors: Sequence[float],
    strengths: Sequence[float],
    out: Tensor,
) -> None:
    """Write TIES of two fp32 deltas into `out`; `terms` are the origin and the deltas.

    `thresholds`: the least magnitude that survives; `factors` and `strengths`: see
    `mergefront.merging.methods.sparse.elected`.
    """
    origin, first, second = terms
    grid: Any = (triton.cdiv(out.numel(), _BLOCK),)
    _ties_kernel[grid](
        out, out.numel(), origin, first, second, *thresholds, *factors, *strengths,
        block=_BLOCK, enable_fp_fusion=False,
    )  # fmt: skip
