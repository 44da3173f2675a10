"""Deltas thinned out, then added or put to a vote: what TIES, DARE, DELLA and breadcrumbs share.

    W = W_receiver + fuse_k(c_k * thin(delta_k))

`thin` is each method's own: which entries of a delta survive. `fuse` is the sum, or the election
of a sign in every entry (`elected`).

Parameters of all: `anchor` (see `common.DeltaMethod`), `density` in [0, 1], the share of entries
that survive, and `scale_receiver`. With `scale_receiver: true` the receiver's own task vector,
thinned out like the donors', takes part with the coefficient r of the "receiver" row (default 1):

    W = W_base + fuse(r * thin(delta_receiver), c_k * thin(delta_k))

as papers have it that merge several fine-tuned models on their base. Only then does the merge
touch what the receiver learnt; a row of zeros (and r one) is the receiver all the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from mergefront.errors import ConfigError
from mergefront.merging.arithmetic import as_float32
from mergefront.merging.method import DELTA, Measures, Mix
from mergefront.merging.methods.base import ANCHORS, DeltaMethod, coefficients

TABLE: Final = "table:"
_LEAST: Final = 1e-30
"""Least strength of a vote relative to the strongest: keeps the mean's division defined."""


@dataclass(frozen=True)
class Voter:
    """One source: its terms, what survives of them, and the factor that this is taken by.

    `thin` turns chunks of the terms into the thinned-out delta and may write into the floats.
    """

    terms: tuple[str, ...]
    thin: Callable[[Sequence[Tensor]], Tensor]
    factor: float


class SparseMethod(DeltaMethod, ABC):
    """A sum of thinned-out deltas; subclasses say how one is thinned out, and may hold a vote."""

    legal = {"anchor": ANCHORS, "scale_receiver": (False, True)}  # noqa: RUF012
    ranges = {"density": (0.0, 1.0)}  # noqa: RUF012
    searchable = {"density": (0.0, 1.0)}  # noqa: RUF012
    defaults: ClassVar[Mapping[str, Any]] = {}
    kinds: ClassVar[tuple[str, ...]] = (DELTA,)
    """Prefixes of each source's terms; the first is its delta."""

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Accept legal parameters; `scale_receiver` needs a base to scale from."""
        super().check(parameters)
        if self._scaled(parameters) and parameters.get("anchor") == "receiver":
            raise ConfigError(
                f"method {self.name}: the receiver's own task vector takes part and needs a base; "
                "anchor receiver has none"
            )

    def terms(self, donors: Sequence[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """The receiver (and base, if it is scaled), then source by source all of its terms."""
        self.check(parameters)
        origin = ("receiver", "base") if self._scaled(parameters) else ("receiver",)
        sources = self.sources(donors, parameters)
        return (*origin, *(kind + source for source in sources for kind in self.kinds))

    def check_row(
        self, row: Mapping[str, float], donors: Sequence[str], parameters: Mapping[str, Any]
    ) -> None:
        """Accept a coefficient of the receiver's only if it takes part."""
        if not self._scaled(parameters):
            super().check_row(row, donors, parameters)

    def mix(
        self,
        row: Mapping[str, float],
        donors: Sequence[str],
        parameters: Mapping[str, Any],
        measures: Measures,
    ) -> Mix:
        """The origin and the thinned-out deltas of all sources that are not at zero."""
        given = {name: as_float32(c) for name, c in coefficients(row, donors).items()}
        scaled = self._scaled(parameters)
        own = as_float32(float(row.get("receiver", 1.0))) if scaled else 1.0
        if own == 1.0 and not any(given.values()):
            return Mix.sum({"receiver": 1.0})
        everyone = {"receiver": own, **given} if scaled else given
        voting = {source: value for source, value in everyone.items() if value != 0.0}
        if not voting:
            return Mix.sum({"base": 1.0})
        voters = [
            self.voter(source, value, {**self.defaults, **parameters}, measures)
            for source, value in voting.items()
        ]
        fuse = self.fusion(list(voting.values()), parameters)
        terms = (term for voter in voters for term in voter.terms)
        return Mix(("base" if scaled else "receiver", *terms), join=joined(voters, fuse))

    @abstractmethod
    def voter(
        self, source: str, value: float, parameters: Mapping[str, Any], measures: Measures
    ) -> Voter:
        """How a source with coefficient `value` (not 0) takes part; `parameters` has defaults."""

    def fusion(self, values: Sequence[float], parameters: Mapping[str, Any]) -> Fuse:
        """How the sources' thinned-out deltas are put together; `values` are coefficients."""
        return added

    def _scaled(self, parameters: Mapping[str, Any]) -> bool:
        """Whether the receiver's own task vector takes part."""
        return bool(parameters.get("scale_receiver", False))

    def sources(self, donors: Sequence[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Whose deltas take part, in their order."""
        return ("receiver", *donors) if self._scaled(parameters) else tuple(donors)


class ElectingMethod(SparseMethod):
    """Elects a sign in every entry, and fuses only what agrees with it.

    Parameter `normalize`: true (default) for the disjoint mean, false for the sum.
    """

    legal = SparseMethod.legal | {"normalize": (True, False)}

    def fusion(self, values: Sequence[float], parameters: Mapping[str, Any]) -> Fuse:
        """The election among more than one; a single source agrees with itself."""
        if len(values) == 1:
            return added
        largest = max(abs(value) for value in values)
        strengths = [as_float32(max(abs(value) / largest, _LEAST)) for value in values]
        mean = bool(parameters.get("normalize", True))

        def fuse(origin: Tensor, votes: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
            for vote, factor in zip(votes, factors, strict=True):
                vote.mul_(factor)
            return origin.add_(elected(votes, strengths if mean else None))

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
        theirs = vote.sign().mul_(strength)
        torch.maximum(top, theirs, out=top)
        agree.add_(theirs)
        total.add_(vote)
    return total.mul_(top).div_(agree.clamp_(min=min(strengths))).mul_(sign)
