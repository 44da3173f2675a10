"""Layer swap (passthrough): whole groups are a donor's own, all others the receiver's.

A group is the donor's whose coefficient is highest and at least one half, else the receiver's; of
equal ones the first in the donors' order. Tensors are copied, bit for bit, so that a search over
coefficients in [0, 1] is one over which layers to take from whom. Needs no base.

Reference: arXiv:2410.01335 (layer swapping); mergekit's passthrough with one slice a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mergefront.merging.method import Measures, Mix
from mergefront.merging.methods.base import SourceMethod, coefficients

HALF: Final = 0.5


class LayerSwap(SourceMethod):
    """Every row comes down to one source."""

    name = "layer_swap"

    def copied(
        self, row: Mapping[str, float], donors: Sequence[str], parameters: Mapping[str, Any]
    ) -> str | None:
        """The donor with the highest coefficient of one half or more, else the receiver."""
        given = coefficients(row, donors)
        best = max(given, key=lambda donor: given[donor], default="receiver")
        return best if given.get(best, 0.0) >= HALF else "receiver"

    def mix(
        self,
        row: Mapping[str, float],
        donors: Sequence[str],
        parameters: Mapping[str, Any],
        measures: Measures,
    ) -> Mix:
        """The source itself."""
        return Mix.sum({self.copied(row, donors, parameters) or "receiver": 1.0})
