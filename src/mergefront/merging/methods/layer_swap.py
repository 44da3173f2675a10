"""Layer swap (passthrough): whole groups are a donor's own, all others the receiver's.

A group is the donor's whose coefficient is highest and at least one half, else the receiver's; of
equal ones the first in the donors' order. Tensors are copied, bit for bit, so that a search over
coefficients in [0, 1] is one over which layers to take from whom. Needs no base.

Reference: arXiv:2410.01335 (layer swapping); mergekit's passthrough with one slice a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from mergefront.merging.method import Measures, Method, Mix, Term, donor_coefficients

HALF: Final = 0.5


class LayerSwap(Method):
    """Every row comes down to one source."""

    name = "layer_swap"

    def copied_source(self, row: Mapping[str, float], donors: Sequence[str]) -> str:
        """The donor with the highest coefficient of one half or more, else the receiver."""
        coefficients = donor_coefficients(row, donors)
        best = max(coefficients, key=lambda donor: coefficients[donor], default="receiver")
        return best if coefficients.get(best, 0.0) >= HALF else "receiver"

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """The source itself."""
        return Mix.sum({Term("source", self.copied_source(row, donors)): 1.0})
