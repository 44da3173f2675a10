"""Breadcrumbs: deltas without their smallest entries and without their outliers.

    m_k = 0 on the `gamma` largest entries of delta_k by magnitude,
          1 on the next `density`, 0 on the rest
    breadcrumbs        W = W_receiver + sum_k c_k m_k delta_k
    breadcrumbs_ties   the sum replaced by TIES' election (see `ties`)

Reference: arXiv:2312.06795, section 3 (masks by layer; its alpha is a coefficient shared by all).
Readings taken: magnitudes are ranked by tensor, as mergekit does and the paper writes; the paper's
code ranks within rows. `density` is what is kept, 1 - beta - gamma in the paper's terms. Where
density + gamma exceeds 1 fewer outliers are dropped (as mergekit). At density 1 nothing is.
breadcrumbs_ties is mergekit's combination; there it sums what agrees (`normalize: false`), here it
averages by default, like the other methods that elect. Defaults are mergekit's examples'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mergefront.merging.method import DELTA, Measures, Slot
from mergefront.merging.methods.base import anchor_of
from mergefront.merging.methods.sparse import TABLE, ElectingMethod, SparseMethod, Voter
from mergefront.merging.methods.thresholds import tables, without_outliers


class Breadcrumbs(SparseMethod):
    """Medium-sized entries, added."""

    name = "breadcrumbs"
    ranges = SparseMethod.ranges | {"gamma": (0.0, 1.0)}
    searchable = ranges
    defaults = {"density": 0.9, "gamma": 0.01}  # noqa: RUF012

    def measure(self, slot: Slot, donors: Sequence[str], parameters: Mapping[str, Any]) -> Measures:
        """Each source's tables of thresholds and of cuts (see `thresholds`)."""
        return {
            TABLE + source: tables(slot.read(source), slot.read(anchor_of(source, parameters)))
            for source in self.sources(donors, parameters)
        }

    def voter(
        self, source: str, value: float, parameters: Mapping[str, Any], measures: Measures
    ) -> Voter:
        """The medium-sized entries of the source's delta."""
        thresholds, cuts = measures[TABLE + source]
        density, gamma = float(parameters["density"]), float(parameters["gamma"])

        def thin(parts: Sequence[Tensor]) -> Tensor:
            return without_outliers(parts[0], thresholds, cuts, density, gamma)

        return Voter((DELTA + source,), thin, value)


class BreadcrumbsTies(Breadcrumbs, ElectingMethod):
    """Medium-sized entries, elected."""

    name = "breadcrumbs_ties"
