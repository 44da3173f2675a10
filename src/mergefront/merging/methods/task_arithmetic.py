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
from typing import Any

from mergefront.errors import ConfigError
from mergefront.merging.method import DELTA, Measures, Mix
from mergefront.merging.methods.base import ANCHORS, DeltaMethod, coefficients, only_donor
from mergefront.merging.methods.linear import Linear


class TaskArithmetic(DeltaMethod):
    """Terms are the receiver and one delta per donor, before them the receiver's own if scaled."""

    name = "task_arithmetic"
    legal = {"anchor": ANCHORS, "scale_receiver": (False, True)}  # noqa: RUF012

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Accept `anchor` and `scale_receiver`; the latter needs a base to scale from."""
        super().check(parameters)
        if parameters.get("scale_receiver", False) and parameters.get("anchor") == "receiver":
            raise ConfigError(
                f"method {self.name}: scale_receiver needs a base, anchor receiver has none"
            )

    def terms(self, donors: Sequence[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """The receiver, its delta if it is scaled, the donors' deltas in their order."""
        self.check(parameters)
        if parameters.get("anchor") == "receiver":
            return Linear().terms(donors, {})
        own = (f"{DELTA}receiver",) if parameters.get("scale_receiver", False) else ()
        return ("receiver", *own, *(DELTA + donor for donor in donors))

    def check_row(
        self, row: Mapping[str, float], donors: Sequence[str], parameters: Mapping[str, Any]
    ) -> None:
        """Accept a coefficient of the receiver's only if `scale_receiver` is set."""
        if not parameters.get("scale_receiver", False):
            super().check_row(row, donors, parameters)

    def copied(
        self, row: Mapping[str, float], donors: Sequence[str], parameters: Mapping[str, Any]
    ) -> str | None:
        """A donor at one, if deltas are taken from the receiver."""
        return only_donor(row, donors) if parameters.get("anchor") == "receiver" else None

    def mix(
        self,
        row: Mapping[str, float],
        donors: Sequence[str],
        parameters: Mapping[str, Any],
        measures: Measures,
    ) -> Mix:
        """One for the receiver, the donors' coefficients for their deltas."""
        if parameters.get("anchor") == "receiver":
            return Linear().mix(row, donors, {}, measures)
        weights = {"receiver": 1.0}
        if parameters.get("scale_receiver", False):
            weights[f"{DELTA}receiver"] = float(row.get("receiver", 1.0)) - 1.0
        given = coefficients(row, donors)
        return Mix.sum(weights | {DELTA + donor: value for donor, value in given.items()})
