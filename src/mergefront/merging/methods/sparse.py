"""Deltas thinned out, then added or put to a vote: what TIES, DARE, DELLA and breadcrumbs share.

    W = W_receiver + fuse_k(c_k * thin(delta_k))

`thin` is each method's own: which entries of a delta survive. `fuse` is the sum, or the election
of a sign in every entry (`elected`).

Parameters of all: `anchor` (see `base.DeltaMethod`), `density` in [0, 1], the share of entries that
survive, and `scale_receiver`. With `scale_receiver: true` the receiver's own task vector,
thinned out like the donors', takes part with the coefficient r of the "receiver" row (default 1):

    W = W_base + fuse(r * thin(delta_receiver), c_k * thin(delta_k))

This is the form of papers that merge several fine-tuned models on their base. Only in this form
does the merge touch what the receiver learnt. A row of zeros (and r one) is still the receiver.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from mergefront.errors import ConfigError
from mergefront.merging.arithmetic import as_float32
from mergefront.merging.method import (
    BASE_TERM,
    RECEIVER_TERM,
    Measures,
    Mix,
    Term,
    TermKind,
    choice,
    donor_coefficients,
    number,
)
from mergefront.merging.methods.base import DeltaMethod

_LEAST: Final = 1e-30
"""Least strength of a vote relative to the strongest: keeps the mean's division defined."""


@dataclass(frozen=True)
class Voter:
    """One source: its terms, which of their entries survive, and the factor they are scaled by.

    `thin` turns chunks of the terms into the thinned-out delta and may write into the floats.
    """

    terms: tuple[Term, ...]
    thin: Callable[[Sequence[Tensor]], Tensor]
    factor: float


@dataclass(frozen=True)
class SparseMethod(DeltaMethod):
    """A sum of thinned-out deltas; subclasses say how one is thinned out, and may hold a vote."""

    kinds: ClassVar[tuple[TermKind, ...]] = ("delta",)
    """The terms of each source; the first is its delta."""

    scale_receiver: bool = choice(False, True)
    density: float = number(1.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale_receiver and self.anchor == "receiver":
            raise ConfigError(
                f"method {self.name}: the receiver's own task vector takes part and needs a base; "
                "anchor receiver has none"
            )

    def terms(self, donors: Sequence[str]) -> tuple[Term, ...]:
        """The receiver (and base, if it is scaled), then source by source all of its terms."""
        origin = (RECEIVER_TERM, BASE_TERM) if self.scale_receiver else (RECEIVER_TERM,)
        sources = self.sources(donors)
        return (*origin, *(Term(kind, source) for source in sources for kind in self.kinds))

    def check_row(self, row: Mapping[str, float], donors: Sequence[str]) -> None:
        """Accept a coefficient of the receiver only if it takes part."""
        if not self.scale_receiver:
            super().check_row(row, donors)

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """The origin and the thinned-out deltas of all sources that are not at zero."""
        coefficients = {d: as_float32(c) for d, c in donor_coefficients(row, donors).items()}
        r = as_float32(float(row.get("receiver", 1.0))) if self.scale_receiver else 1.0
        if r == 1.0 and not any(coefficients.values()):
            return Mix.sum({RECEIVER_TERM: 1.0})
        if self.scale_receiver:
            coefficients = {"receiver": r, **coefficients}
        nonzero = {source: value for source, value in coefficients.items() if value != 0.0}
        if not nonzero:
            return Mix.sum({BASE_TERM: 1.0})
        voters = [self.voter(source, value, measures) for source, value in nonzero.items()]
        fuse = self.fusion(list(nonzero.values()))
        terms = (term for voter in voters for term in voter.terms)
        origin = BASE_TERM if self.scale_receiver else RECEIVER_TERM
        return Mix((origin, *terms), join=joined(voters, fuse))

    @abstractmethod
    def voter(self, source: str, value: float, measures: Measures) -> Voter:
        """Return how a source with coefficient `value` (not 0) takes part."""

    def fusion(self, values: Sequence[float]) -> Fuse:
        """Return how the thinned-out deltas are put together; `values` are their coefficients."""
        return added

    def sources(self, donors: Sequence[str]) -> tuple[str, ...]:
        """Return the sources whose deltas take part, in their order."""
        return ("receiver", *donors) if self.scale_receiver else tuple(donors)


@dataclass(frozen=True)
class ElectingMethod(SparseMethod):
    """Elects a sign in every entry, and fuses only what agrees with it.

    `normalize`: true for the disjoint mean, false for the sum.
    """

    normalize: bool = choice(True, False)

    def fusion(self, values: Sequence[float]) -> Fuse:
        """The election among more than one; a single source agrees with itself."""
        if len(values) == 1:
            return added
        largest = max(abs(value) for value in values)
        strengths = [as_float32(max(abs(value) / largest, _LEAST)) for value in values]
        normalize = self.normalize

        def fuse(origin: Tensor, votes: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
            for vote, factor in zip(votes, factors, strict=True):
                vote.mul_(factor)
            return origin.add_(elected(votes, strengths if normalize else None))

        return fuse


Fuse = Callable[[Tensor, Sequence[Tensor], Sequence[float]], Tensor]
"""(origin, thinned-out deltas, their factors), all of which it may write into -> fp32 chunk."""


def joined(voters: Sequence[Voter], fuse: Fuse) -> Callable[[Sequence[Tensor]], Tensor]:
    """Return the join of the origin and the voters' terms."""
    factors = [as_float32(voter.factor) for voter in voters]

    def join(parts: Sequence[Tensor]) -> Tensor:
        votes, position = [], 1
        for voter in voters:
            end = position + len(voter.terms)
            votes.append(voter.thin(parts[position:end]))
            position = end
        return fuse(parts[0], votes, factors)

    return join


def added(origin: Tensor, votes: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """Add each in its order: at full density the very operations of task arithmetic."""
    for vote, factor in zip(votes, factors, strict=True):
        origin.add_(vote if factor == 1.0 else vote.mul_(factor))
    return origin


def elected(votes: Sequence[Tensor], strengths: Sequence[float] | None) -> Tensor:
    """Elect a sign in every entry and fuse the votes that have it; votes are overwritten.

    The sign is that of the sum of the votes v_k = c_k * thinned delta_k; A are the sources whose
    vote has it. Where the votes cancel to exactly zero nobody is elected and the result is 0.

    Without `strengths` the result is the sum over A. With strengths s_k = |c_k| / max |c| it is
    the disjoint mean (sum_A v) * max_A(s) / sum_A(s): the sum over the effective number of those
    that agree. For equal coefficients c that is c times the plain mean over A.
    """
    sign = votes[0].clone()
    for vote in votes[1:]:
        sign.add_(vote)
    sign.sign_()
    for vote in votes:
        vote.mul_(sign).clamp_(min=0.0)  # what agrees, as magnitudes; all else 0
    total = votes[0]
    if strengths is None:
        for vote in votes[1:]:
            total.add_(vote)
        return total.mul_(sign)
    agree = votes[0].sign().mul_(strengths[0])
    top = agree.clone()
    for vote, strength in zip(votes[1:], strengths[1:], strict=True):
        signed = vote.sign().mul_(strength)
        torch.maximum(top, signed, out=top)
        agree.add_(signed)
        total.add_(vote)
    return total.mul_(top).div_(agree.clamp_(min=min(strengths))).mul_(sign)
