"""Task arithmetic: the receiver plus scaled task vectors of the donors.

    W = W_receiver + sum_k c_k (W_donor_k - W_base_k) [+ (r - 1) (W_receiver - W_base)]

`anchor` says what the donors' task vectors are taken from:
- "own" (default): the donor's own base where it names one, else the common base;
- "base": the common base for all;
- "receiver": the receiver. The sum is then a weighted mean, (1 - sum c) W_receiver + sum c W_donor,
  and is computed as one, so that a donor at one is that donor bit for bit.

With `scale_receiver: true` the receiver's own task vector gets a coefficient r (default 1) as
well: a "receiver" row in the table. All donors zero (and r one) is the receiver.

Reference: arXiv:2212.04089, section 2; for VLMs arXiv:2505.05464, section 2, whose formula with
lambda and 1 - lambda is `r` = lambda and one donor with c = 1 - lambda.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergefront.errors import ConfigError
from mergefront.merging.method import (
    RECEIVER_TERM,
    Measures,
    Method,
    Mix,
    Term,
    choice,
    donor_coefficients,
    only_donor,
)
from mergefront.merging.methods.base import DeltaMethod
from mergefront.merging.methods.linear import weighted_mean


@dataclass(frozen=True)
class TaskArithmetic(DeltaMethod):
    """Terms are the receiver and one delta per donor, before them the receiver's own if scaled."""

    name = "task_arithmetic"
    scale_receiver: bool = choice(False, True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale_receiver and self.anchor == "receiver":
            raise ConfigError(
                f"method {self.name}: scale_receiver needs a base, anchor receiver has none"
            )

    def terms(self, donors: Sequence[str]) -> tuple[Term, ...]:
        """The receiver, its delta if it is scaled, the donors' deltas in their order."""
        if self.anchor == "receiver":
            return Method.terms(self, donors)
        sources = ("receiver", *donors) if self.scale_receiver else donors
        return super().terms(sources)

    def check_row(self, row: Mapping[str, float], donors: Sequence[str]) -> None:
        """Accept a coefficient of the receiver only if `scale_receiver` is set."""
        if not self.scale_receiver:
            super().check_row(row, donors)

    def copied_source(self, row: Mapping[str, float], donors: Sequence[str]) -> str | None:
        """A donor at one, if deltas are taken from the receiver."""
        return only_donor(row, donors) if self.anchor == "receiver" else None

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """One for the receiver, the donors' coefficients for their deltas."""
        if self.anchor == "receiver":
            return weighted_mean(row, donors)
        weights = {RECEIVER_TERM: 1.0}
        if self.scale_receiver:
            weights[Term("delta", "receiver")] = float(row.get("receiver", 1.0)) - 1.0
        coefficients = donor_coefficients(row, donors)
        return Mix.sum(weights | {Term("delta", donor): c for donor, c in coefficients.items()})
