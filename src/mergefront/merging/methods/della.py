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

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from mergefront.merging.method import Measures, Slot
from mergefront.merging.methods.base import delta
from mergefront.merging.methods.dare import LEVELS, RandomMethod
from mergefront.merging.methods.sparse import ElectingMethod, Voter

RANK: Final = "rank:"
TOP: Final = LEVELS - 1
"""Code of the highest rank."""

CHUNK: Final = 1 << 19


class DellaLinear(RandomMethod):
    """Dropped at random by rank, added."""

    name = "della_linear"
    ranges = RandomMethod.ranges | {"epsilon": (0.0, 0.5)}
    searchable = RandomMethod.searchable | {"epsilon": (0.0, 0.5)}
    defaults = {**RandomMethod.defaults, "epsilon": 0.15}  # noqa: RUF012
    kinds = (*RandomMethod.kinds, RANK)

    def prepare(self, term: str, slot: Slot, parameters: Mapping[str, Any]) -> Tensor:
        """Rank a source's delta; other terms as usual."""
        if not term.startswith(RANK):
            return super().prepare(term, slot, parameters)
        return ranks(delta(slot, term.removeprefix(RANK), parameters))

    def voter(
        self, source: str, value: float, parameters: Mapping[str, Any], measures: Measures
    ) -> Voter:
        """The entries whose noise is below keep_i * 32768."""
        density = float(parameters["density"])
        half = min(float(parameters["epsilon"]), density, 1.0 - density)
        lowest, slope, rescale = density - half, 2.0 * half / TOP, bool(parameters["rescale"])

        def thin(parts: Sequence[Tensor]) -> Tensor:
            theirs, codes, rank = parts
            keep = rank.to(torch.float32).mul_(slope).add_(lowest)
            theirs.mul_(keep.mul(LEVELS).sub_(codes).sign_().clamp_(min=0.0))
            return theirs.div_(keep.clamp_(min=1.0 / LEVELS)) if rescale else theirs

        return Voter(tuple(kind + source for kind in self.kinds), thin, value)


class Della(DellaLinear, ElectingMethod):
    """Dropped at random by rank, elected."""

    name = "della"
    legal = RandomMethod.legal | ElectingMethod.legal


def ranks(values: Tensor) -> Tensor:
    """Rank magnitudes within rows: int16, 0 for the smallest, 32767 for the largest.

    Equal magnitudes rank by position. Rows are worked on a few at a time, and the result does not
    depend on the number of threads.
    """
    rows = values.flatten(0, -2) if values.dim() > 1 else values.reshape(1, -1)
    width = rows.shape[1]
    if width < 2:
        return torch.full(values.shape, LEVELS // 2, dtype=torch.int16)
    codes = torch.linspace(0, TOP, width, dtype=torch.float64).round_().to(torch.int16)
    found = torch.empty(rows.shape, dtype=torch.int16)
    step = max(1, CHUNK // width)
    for start in range(0, len(rows), step):
        order = _order(rows[start : start + step])
        found[start : start + step].scatter_(1, order, codes.expand_as(order))
    return found.reshape(values.shape)


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
