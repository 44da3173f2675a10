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

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mergefront.merging.method import Measures, Slot, Term, number
from mergefront.merging.methods.sparse import ElectingMethod, SparseMethod, Voter
from mergefront.merging.methods.thresholds import tables, without_outliers


@dataclass(frozen=True)
class Breadcrumbs(SparseMethod):
    """Medium-sized entries, added."""

    name = "breadcrumbs"
    density: float = number(0.9, 0.0, 1.0)
    gamma: float = number(0.01, 0.0, 1.0)

    def measure(self, slot: Slot, donors: Sequence[str]) -> Measures:
        """Source -> its tables of thresholds and of cuts (see `thresholds`)."""
        return {
            source: tables(slot.read(source), slot.read(self.anchor_of(source)))
            for source in self.sources(donors)
        }

    def voter(self, source: str, value: float, measures: Measures) -> Voter:
        """The medium-sized entries of the source's delta."""
        thresholds, cuts = measures[source]
        density, gamma = self.density, self.gamma

        def thin(parts: Sequence[Tensor]) -> Tensor:
            return without_outliers(parts[0], thresholds, cuts, density, gamma)

        return Voter((Term("delta", source),), thin, value)


@dataclass(frozen=True)
class BreadcrumbsTies(Breadcrumbs, ElectingMethod):
    """Medium-sized entries, elected."""

    name = "breadcrumbs_ties"
