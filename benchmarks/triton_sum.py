"""A weighted sum of up to four tensors in one Triton kernel: each byte is read and written once.

The arithmetic is `mergefront.merging.arithmetic.weighted_sum`'s, bit for bit: fp32, terms in the
given order, every product and every sum rounded on its own, one rounding to the checkpoint's
dtype. The compiler must therefore be kept from fusing multiply and add (`enable_fp_fusion`).

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
def _sum_kernel(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0913
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
