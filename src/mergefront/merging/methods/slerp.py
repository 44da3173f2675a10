"""SLERP: along the great arc from the receiver to one donor, tensor by tensor.

    W = sin((1 - t) theta) / sin(theta) W_receiver + sin(t theta) / sin(theta) W_donor

theta is the angle between the two flattened tensors, t the donor's coefficient; norms are not
unified, as in the customary use on weights. Needs no base. t = 0 is the receiver, t = 1 the donor.

In a group only one donor may have a coefficient; several are what `multislerp` and `karcher` are
for. mergekit interpolates linearly where the cosine is above 0.9995, which most fine-tuned pairs
are; here the arc is followed as long as fp64 can tell it from the chord (they differ by at most
theta^2 / 8 relative to the tensor).

Reference: Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mergefront.merging.method import RECEIVER_TERM, Measures, Method, Mix, Slot, Term
from mergefront.merging.methods.base import single_donor
from mergefront.merging.methods.gram import gram, slerp_weights


class Slerp(Method):
    """Terms are the sources; measures the angle between the receiver and each donor."""

    name = "slerp"

    def check_row(self, row: Mapping[str, float], donors: Sequence[str]) -> None:
        """Refuse two donors in one group."""
        super().check_row(row, donors)
        single_donor(self.name, row, donors)

    def measure(self, slot: Slot, donors: Sequence[str]) -> Measures:
        """Donor -> its 2 x 2 Gram matrix with the receiver."""
        receiver = slot.read("receiver")
        return {donor: gram((receiver, slot.read(donor))) for donor in donors}

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """The arc's weights for receiver and donor."""
        donor, t = single_donor(self.name, row, donors)
        if t == 0.0:
            return Mix.sum({RECEIVER_TERM: 1.0})
        receiver_weight, donor_weight = slerp_weights(measures[donor], t)
        return Mix.sum({RECEIVER_TERM: receiver_weight, Term("source", donor): donor_weight})
