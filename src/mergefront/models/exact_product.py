"""Low-rank updates of a weight, LoRA and DoRA, with the same bits on every machine.

A matrix product sums in an order that library, number of threads and device choose, so that its
last bits differ. `exact_product` cuts both factors into pieces so short that every sum of their
products is exact in fp64, in any order. All later roundings are elementwise.

Not here: the file of an update, and the weight that it belongs to (`adapter`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

CHUNK: Final = 1 << 18
_MANTISSA: Final = 53


@dataclass(frozen=True, eq=False)
class LowRankUpdate:
    """scale * left_factor @ right_factor, (m, r) and (r, n), added to a weight (m, n).

    `magnitude` (m,) makes it DoRA: the sum's rows are scaled to these norms.

    Reference: arXiv:2106.09685, eq. 3; DoRA arXiv:2402.09353, eq. 5.
    """

    left_factor: Tensor
    right_factor: Tensor
    scale: float
    magnitude: Tensor | None = None

    def apply(self, weight: Tensor, rows: slice | None = None) -> Tensor:
        """Return the updated weight (m, n) in fp32, rounded once from fp64.

        With `rows`, `weight` holds those rows only, and so does the result.
        """
        left_factor = self.left_factor if rows is None else self.left_factor[rows]
        magnitude = self.magnitude
        if magnitude is not None and rows is not None:
            magnitude = magnitude[rows]
        out = torch.empty(weight.shape, dtype=torch.float32)
        step = max(1, CHUNK // max(1, weight.shape[1]))
        right_pieces = _pieces(self.right_factor, 0)
        for first in range(0, len(weight), step):
            chunk = slice(first, first + step)
            total = _multiply(_pieces(left_factor[chunk], 1), right_pieces).mul_(self.scale)
            total += weight[chunk].double()
            if magnitude is not None:  # DoRA: the norm of the whole updated row, not of the update
                norms = _row_sums(total * total).sqrt()
                total *= (magnitude[chunk].double() / norms)[:, None]
            out[chunk] = total
        return out


def exact_product(left_factor: Tensor, right_factor: Tensor) -> Tensor:
    """Return left_factor (m, r) @ right_factor (r, n) in fp64, the same bits on every machine.

    With bits = (53 - ceil(log2 r)) / 2 the error is below r * 2**-(2 * bits) times the largest
    values of row and column: for r up to 128 below 2**-38 of them, far under fp32's rounding.

    Reference: K. Ozaki et al., Error-free transformations of matrix multiplication, Numerical
    Algorithms 59 (2012): two pieces a factor, the product of the two low pieces left out.
    """
    return _multiply(_pieces(left_factor, 1), _pieces(right_factor, 0))


def _multiply(left_pieces: tuple[Tensor, Tensor], right_pieces: tuple[Tensor, Tensor]) -> Tensor:
    """Multiply factors that were cut: both products below are exact, their sum is rounded."""
    (high_l, low_l), (high_r, low_r) = left_pieces, right_pieces
    crossed = torch.cat([high_l, low_l], dim=1) @ torch.cat([low_r, high_r], dim=0)
    return crossed.add_(high_l @ high_r)


def _pieces(factor: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Cut a factor into high + low in fp64; `dim` is the rank's.

    Along `dim` both are whole multiples of one power of two, high at most 2**bits of it, low at
    most 2**(bits - 1): r products of two highs, or 2 r of a high and a low, sum to less than
    2**53 such units.
    """
    bits = (_MANTISSA - (factor.shape[dim] - 1).bit_length()) // 2
    factor = factor.double()
    top = factor.abs().amax(dim, keepdim=True)
    mantissa, _ = torch.frexp(top)
    power = torch.where(top > 0, top / mantissa, 1.0)  # exact: the mantissa is top without it
    unit = power * 2.0**-bits
    high = (factor / unit).round_() * unit
    unit = unit * 2.0**-bits
    return high, ((factor - high) / unit).round_() * unit


def _row_sums(values: Tensor) -> Tensor:
    """Sum every row by halving: whole columns are added, in the same order on every machine."""
    while values.shape[1] > 1:
        half = (values.shape[1] + 1) // 2
        front = values[:, :half].clone()
        front[:, : values.shape[1] - half] += values[:, half:]
        values = front
    return values[:, 0]
