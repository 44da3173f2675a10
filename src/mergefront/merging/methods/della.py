"""DELLA: drop a delta's entries at random, small ones sooner, and scale up those that stay.

    r_i in [0, 1]   rank of |delta_i| within its row (last dimension): 0 the smallest, 1 the largest
    keep_i = density - epsilon + 2 epsilon r_i
    m_i ~ Bernoulli(keep_i),   thin(delta)_i = m_i delta_i / keep_i
    della_linear   W = W_receiver + sum_k c_k thin(delta_k)
    della          the sum replaced by TIES' election of signs (see `ties`)

Reference: arXiv:2406.11617, section 3 (MAGPRUNE; drop, elect, fuse; its lambda is a coefficient
shared by all). Readings taken: ranks within rows, the paper's best variant; `epsilon` is half the
width of the window of probabilities, as in the authors' code and mergekit, and is narrowed where
the window would leave [0, 1], so that every density can be searched. Each entry is scaled by
its own 1 / keep_i, as the paper has it; mergekit scales the tensor to its former L1 norm instead.
A tensor of fewer than two dimensions is one row; a row of one entry has rank 1/2.

Each source brings a noise term (see `dare`) and a rank term: r as an integer in [0, 32767].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from mergefront.merging.method import Measures, Slot, Term, number
from mergefront.merging.methods.dare import LEVELS, RandomMethod
from mergefront.merging.methods.sparse import ElectingMethod, Voter

TOP: Final = LEVELS - 1
"""Code of the highest rank."""

CHUNK: Final = 1 << 19


@dataclass(frozen=True)
class DellaLinear(RandomMethod):
    """Dropped at random by rank, added."""

    name = "della_linear"
    kinds = (*RandomMethod.kinds, "rank")
    epsilon: float = number(0.15, 0.0, 0.5)

    def prepare(self, term: Term, slot: Slot) -> Tensor:
        """Rank a source's delta; other terms as usual."""
        if term.kind != "rank":
            return super().prepare(term, slot)
        return ranks(self.delta(slot, term.source))

    def voter(self, source: str, value: float, measures: Measures) -> Voter:
        """The entries whose noise is below keep_i * 32768."""
        half = min(self.epsilon, self.density, 1.0 - self.density)
        lowest, slope, rescale = self.density - half, 2.0 * half / TOP, self.rescale

        def thin(parts: Sequence[Tensor]) -> Tensor:
            delta, codes, rank = parts
            keep = rank.to(torch.float32).mul_(slope).add_(lowest)
            delta.mul_(keep.mul(LEVELS).sub_(codes).sign_().clamp_(min=0.0))
            return delta.div_(keep.clamp_(min=1.0 / LEVELS)) if rescale else delta

        return Voter(tuple(Term(kind, source) for kind in self.kinds), thin, value)


@dataclass(frozen=True)
class Della(DellaLinear, ElectingMethod):
    """Dropped at random by rank, elected."""

    name = "della"


def ranks(values: Tensor) -> Tensor:
    """Rank magnitudes within rows: int16, 0 for the smallest, 32767 for the largest.

    Equal magnitudes rank by position. The result does not depend on the number of threads, nor on
    how many rows are ranked at a time.
    """
    rows = values.flatten(0, -2) if values.dim() > 1 else values.reshape(1, -1)
    width = rows.shape[1]
    if width < 2:
        return torch.full(values.shape, LEVELS // 2, dtype=torch.int16)
    codes = torch.linspace(0, TOP, width, dtype=torch.float64).round_().to(torch.int16)
    ranked = torch.empty(rows.shape, dtype=torch.int16)
    step = max(1, CHUNK // width)
    for start in range(0, len(rows), step):
        order = _order(rows[start : start + step])
        ranked[start : start + step].scatter_(1, order, codes.expand_as(order))
    return ranked.reshape(values.shape)


def _order(rows: Tensor) -> Tensor:
    """Argsort of magnitudes within rows, stable.

    Keys hold the magnitude's bits and below them the position: sorting whole keys is ten times
    faster than an argsort, and leaves no two equal.
    """
    keys = rows.float().abs().numpy().view(np.uint32).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.arange(rows.shape[1], dtype=np.uint64)
    keys.sort(axis=1)
    keys &= np.uint64(0xFFFFFFFF)
    return torch.from_numpy(keys.view(np.int64))
