"""DARE: drop entries of a delta at random, and scale up those that stay.

    m_k ~ Bernoulli(density), entry by entry     (density = 1 - p, p the paper's drop rate)
    thin(delta_k) = m_k delta_k / density
    dare_linear   W = W_receiver + sum_k c_k m_k delta_k / density
    dare_ties     the sum replaced by TIES' election of signs (see `ties`)

Reference: arXiv:2311.03099, section 3 (drop, rescale by 1 / (1 - p); before any other merge, TIES
among them). Readings taken: `rescale: false` leaves the factor out; mergekit scales to the
delta's former L1 norm instead of by 1 / density, which is the same in expectation only; TIES'
mean over those that agree is kept (`normalize: false` gives mergekit's default, the sum).

Masks. Each source's term "noise" holds an integer drawn uniformly from [0, 32768) for every entry,
from the parameter `seed` (default 0), the source's alias and the tensor's name alone; an entry
stays if that is below density * 32768. So densities resolve to 2^-15, a lower density keeps a
subset of what a higher one keeps, and a mask is the same in any run, engine and export.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from mergefront.merging.method import Measures, ReadPiece, Slot, Term, TermKind, choice, number
from mergefront.merging.methods.sparse import ElectingMethod, SparseMethod, Voter

LEVELS: Final = 1 << 15
"""Noise is an integer below this."""

_CHUNK: Final = 1 << 18
_LARGEST_SEED: Final = 2**31 - 1


@dataclass(frozen=True)
class RandomMethod(SparseMethod):
    """Thins out at random; every source brings a noise term of int16."""

    kinds: ClassVar[tuple[TermKind, ...]] = ("delta", "noise")
    density: float = number(0.5, 0.0, 1.0)
    rescale: bool = choice(True, False)
    seed: int = number(0, 0, _LARGEST_SEED, searchable=False)

    def reads(self, term: Term) -> tuple[str, ...]:
        """Noise needs the receiver's shape only."""
        return ("receiver",) if term.kind == "noise" else super().reads(term)

    def prepare(self, term: Term, slot: Slot) -> Tensor:
        """Draw a source's noise; other terms as usual."""
        if term.kind != "noise":
            return super().prepare(term, slot)
        return noise(self.seed, term.source, slot.name, slot.read("receiver").shape)

    def pieces(self, term: Term, slot: Slot) -> ReadPiece:
        """Noise is drawn on demand, from its place in the stream; other terms as usual."""
        if term.kind != "noise":
            return super().pieces(term, slot)
        return noise_pieces(self.seed, term.source, slot.name)


class DareLinear(RandomMethod):
    """Dropped at random, added."""

    name = "dare_linear"

    def voter(self, source: str, value: float, measures: Measures) -> Voter:
        """The entries whose noise is below density * 32768."""
        stay = round(self.density * LEVELS)
        if stay == LEVELS:
            return Voter((Term("delta", source),), lambda parts: parts[0], value)
        factor = value * LEVELS / stay if self.rescale and stay else value

        def thin(parts: Sequence[Tensor]) -> Tensor:
            delta, codes = parts
            mask = torch.rsub(codes, stay).clamp_(0, 1)  # 1 where codes < stay, 0 elsewhere
            return delta.mul_(mask.to(torch.float32))

        return Voter((Term("delta", source), Term("noise", source)), thin, factor)


@dataclass(frozen=True)
class DareTies(DareLinear, ElectingMethod):
    """Dropped at random, elected."""

    name = "dare_ties"


def noise(seed: int, source: str, tensor: str, shape: torch.Size) -> Tensor:
    """Return int16 integers, uniform in [0, 32768), that depend on the arguments alone."""
    piece, n = noise_pieces(seed, source, tensor), shape.numel()
    codes = torch.empty(n, dtype=torch.int16)
    for start in range(0, n, _CHUNK):
        end = min(start + _CHUNK, n)
        codes[start:end] = piece(slice(start, end))
    return codes.reshape(shape)


def noise_pieces(seed: int, source: str, tensor: str) -> ReadPiece:
    """Return what gives any range of a tensor's noise, from its place in the stream.

    The stream is a bit generator's own, which numpy keeps the same in all versions: four entries
    are the quarters of one number of it, lowest first.
    """
    digest = hashlib.sha256(f"{seed}/{source}/{tensor}".encode()).digest()
    origin = int.from_bytes(digest, "little")

    def piece(at: slice) -> Tensor:
        stream = np.random.PCG64(origin).advance(at.start // 4)
        skipped, n = at.start % 4, at.stop - at.start
        drawn = stream.random_raw(-(-(skipped + n) // 4)).astype("<u8", copy=False).view("<u2")
        return torch.from_numpy((drawn[skipped : skipped + n] >> 1).view(np.int16))

    return piece
