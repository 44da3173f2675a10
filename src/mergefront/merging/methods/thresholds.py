"""How large a delta's entry must be to survive a trim: looked up for any density, never sorted.

From one histogram of |delta| over the leading 20 bits of its fp32 magnitude (8 of the exponent,
12 of the mantissa: as an integer, the bit pattern of a nonnegative float grows with the float)
comes a table of thresholds for each thousandth of density. What the table resolves:

- densities are rounded to a thousandth;
- a threshold is the lower edge of the bin of the k-th largest magnitude, k = density * n rounded
  down, at least 1: at least k entries survive, and those beyond k differ from the k-th by less
  than 2^-12 of its size. Where no other entry shares that bin the result is that of a sort;
- outliers are cut off above the bin of the (k + 1)-th largest: at most k are dropped, and again
  those of a sort where the k-th and the next are not in one bin.

Reference for trimming by magnitude: arXiv:2306.01708, section 4.2, step 1.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import hardshrink

GRID: Final = 1000
"""Steps of density."""

DROPPED: Final = 11
"""Bits of a magnitude below the histogram's resolution."""

SPREAD: Final = 9
CHUNK: Final = 1 << 21
SMALL: Final = 1 << 22
"""Tensors up to this size are sorted, which costs less than a histogram and gives the same."""

Table = NDArray[np.float32]
"""GRID + 1 magnitudes, one for each share i / GRID."""

_BINS: Final = 1 << (31 - DROPPED)


def table(source: Tensor, anchor: Tensor) -> Table:
    """Return the thresholds of |source - anchor|, the difference taken in fp32.

    Entry i is the least magnitude that survives where the share i / GRID of largest ones does;
    entry 0 is infinite. Memory is a few chunks and 20 MB, whatever the tensor's size; the result
    does not depend on the number of threads.
    """
    return tables(source, anchor)[0]


def tables(source: Tensor, anchor: Tensor) -> tuple[Table, Table]:
    """Return the thresholds as `table` does, and the cuts.

    Entry i of the cuts is the least magnitude that is dropped where the share i / GRID of largest
    ones is.
    """
    first, second = source.reshape(-1), anchor.reshape(-1)
    n = first.numel()
    least, cuts = np.full((2, GRID + 1), np.inf, np.float32)
    if n > 0:
        k = np.arange(GRID + 1, dtype=np.int64) * n // GRID
        ranks = np.concatenate([np.maximum(k, 1), np.minimum(k + 1, n)])
        kth, after = np.split(_ranked_bins(first, second, ranks), 2)
        least[1:] = _edges(kth)[1:]
        cuts[k > 0] = np.where(k < n, _edges(after + 1), 0)[k > 0]
    return least, cuts


def step(share: float) -> int:
    """The entry of a table that a share in [0, 1] means."""
    return round(share * GRID)


def trimmed(delta: Tensor, thresholds: Table, density: float) -> Tensor:
    """Keep a delta's largest entries, about `density` of the whole tensor's; the rest become 0.

    `delta` is any part of the tensor that the table was made of, fp32.
    """
    return _at_least(delta, thresholds[step(density)])


def without_outliers(
    delta: Tensor, thresholds: Table, cuts: Table, density: float, gamma: float
) -> Tensor:
    """Drop the `gamma` largest entries and keep the next `density`; the rest become 0.

    Outliers give way where density + gamma exceeds 1, so that the density is kept.
    """
    keep = step(density)
    drop = min(step(gamma), GRID - keep)
    rest = _at_least(delta, thresholds[keep + drop])
    return rest.sub_(_at_least(rest, cuts[drop])) if drop > 0 else rest


def _at_least(delta: Tensor, threshold: np.float32) -> Tensor:
    """Zero the entries below a threshold (one pass: hardshrink zeroes up to and including)."""
    below = np.nextafter(threshold, np.float32(0)) if np.isfinite(threshold) else threshold
    return hardshrink(delta, float(below))


def _ranked_bins(source: Tensor, anchor: Tensor, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bins of the largest (rank 1), second largest, ... magnitudes."""
    if source.numel() <= SMALL:
        return np.sort(_bins(source, anchor).numpy())[::-1][ranks - 1].astype(np.int64)
    at_least = np.cumsum(_histogram(source, anchor)[::-1])
    return _BINS - 1 - np.searchsorted(at_least, ranks)


def _bins(source: Tensor, anchor: Tensor) -> Tensor:
    """The bin of each entry of |source - anchor|."""
    delta = source.float() - anchor.float()
    return delta.abs_().view(torch.int32).bitwise_right_shift_(DROPPED)


def _histogram(source: Tensor, anchor: Tensor) -> NDArray[np.int64]:
    """Entries in each bin, counted in buffers that all chunks share.

    Deltas of 16-bit checkpoints fall on bins a power of two apart, whose counters compete for a
    few sets of the cache. Counting bin b at b ^ (b >> SPREAD), one to one, is ten times faster.
    """
    counts = np.zeros(_BINS, np.int64)
    delta, buffer = torch.empty((2, min(CHUNK, source.numel())))
    for start in range(0, source.numel(), CHUNK):
        part = source[start : start + CHUNK]
        work, spare = delta[: len(part)].copy_(part), buffer[: len(part)]
        work.sub_(spare.copy_(anchor[start : start + CHUNK])).abs_()
        bins, shifted = work.view(torch.int32), spare.view(torch.int32)
        torch.bitwise_right_shift(bins.bitwise_right_shift_(DROPPED), SPREAD, out=shifted)
        hits = torch.bincount(bins.bitwise_xor_(shifted)).numpy()
        counts[: len(hits)] += hits
    number = np.arange(_BINS)
    sorted_out: NDArray[np.int64] = counts[number ^ (number >> SPREAD)]
    return sorted_out


def _edges(bins: NDArray[np.int64]) -> Table:
    """The smallest magnitude of each bin."""
    return (bins.astype(np.uint32) << np.uint32(DROPPED)).view(np.float32)
