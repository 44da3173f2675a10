"""NuSLERP: SLERP between the receiver's and one donor's task vectors, weights normalised.

    W = W_base + sin((1 - t) theta) / sin(theta) d_receiver + sin(t theta) / sin(theta) d_donor
    t = c / (r + c)

d is a source minus the common base, theta the angle between the two; c is the donor's coefficient
and r the receiver's (1 unless the table has a receiver row). It is the task-vector form, with the
tensor flattened as mergekit does by default; its row-wise form is not offered. c = 0 is the
receiver, r = 0 the donor. One donor a group.

Reference: published with mergekit, without a paper ("nuslerp" in its documentation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mergefront.errors import ConfigError
from mergefront.merging.method import BASE_TERM, RECEIVER_TERM, Measures, Method, Mix, Slot, Term
from mergefront.merging.methods.base import single_donor
from mergefront.merging.methods.gram import gram, slerp_weights


class NuSlerp(Method):
    """Terms are the base and the sources; measures the angle between the task vectors."""

    name = "nuslerp"

    def terms(self, donors: Sequence[str]) -> tuple[Term, ...]:
        """The base, the receiver, then the donors in their order."""
        return (BASE_TERM, *super().terms(donors))

    def check_row(self, row: Mapping[str, float], donors: Sequence[str]) -> None:
        """Refuse two donors in one group, negative weights, and weights that sum to zero."""
        _, c = single_donor(self.name, row, donors)
        r = float(row.get("receiver", 1.0))
        if min(c, r) < 0.0 or c + r == 0.0:
            raise ConfigError(
                f"method {self.name}: weights {r} (receiver) and {c} (donor) cannot be normalised",
                hint="neither may be negative, and one must be above zero",
            )

    def copied_source(self, row: Mapping[str, float], donors: Sequence[str]) -> str | None:
        """The donor, if the receiver has weight zero; the receiver, if no donor has any."""
        donor, c = single_donor(self.name, row, donors)
        if c == 0.0:
            return "receiver"
        return donor if row.get("receiver", 1.0) == 0.0 else None

    def measure(self, slot: Slot, donors: Sequence[str]) -> Measures:
        """Donor -> the 2 x 2 Gram matrix of the two task vectors."""
        base = slot.read("base").float()
        receiver = slot.read("receiver").float() - base
        return {donor: gram((receiver, slot.read(donor).float() - base)) for donor in donors}

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """The arc's weights for receiver and donor, and what they leave of one for the base."""
        donor, c = single_donor(self.name, row, donors)
        if c == 0.0:
            return Mix.sum({RECEIVER_TERM: 1.0})
        a, b = slerp_weights(measures[donor], c / (float(row.get("receiver", 1.0)) + c))
        return Mix.sum({BASE_TERM: 1.0 - a - b, RECEIVER_TERM: a, Term("source", donor): b})
