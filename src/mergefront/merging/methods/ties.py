"""TIES: trim each delta, elect a sign in every entry, average what agrees with it.

    trim      keep the `density` largest entries of delta_k by magnitude, else 0
    elect     s = sgn(sum_k c_k delta_k)
    average   A = {k : sgn(c_k delta_k) = s},  tau = (sum_A c_k delta_k) / |A|
              W = W_receiver + tau

Reference: arXiv:2306.01708, section 4.2 and algorithm 1, whose lambda * mean_A(delta) is ours with
all c_k = lambda. Readings taken where that leaves room:
- Trimming is by tensor (as mergekit and PEFT do); the paper's code ranks all of a model's entries
  together. Densities and ties of magnitude: see `thresholds`. Default density 0.2, the paper's.
- Coefficients differ by source here, and vote: |A| becomes the effective number of those that
  agree, sum_A |c| / max_A |c|. So the mean is the paper's for equal coefficients, a source that
  is alone in an entry contributes c_k delta_k, and c_k going to 0 removes its influence without
  a jump. mergekit divides by sum_A c instead, so that a lone source counts in full however small
  its weight; for equal weights w it agrees with ours if its lambda is w.
- Votes that cancel exactly elect nobody, sgn(0) = 0; mergekit and PEFT take the positive side.
- `normalize: false` gives the sum over A instead of the mean (as mergekit's).

With one source there is nothing to elect: trimmed task arithmetic. With `scale_receiver: true`
the receiver's own task vector votes too (see `sparse`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mergefront.merging.method import Measures, Slot, Term, number
from mergefront.merging.methods.sparse import ElectingMethod, Voter
from mergefront.merging.methods.thresholds import table, trimmed


@dataclass(frozen=True)
class Ties(ElectingMethod):
    """Trimmed by magnitude, elected."""

    name = "ties"
    density: float = number(0.2, 0.0, 1.0)

    def measure(self, slot: Slot, donors: Sequence[str]) -> Measures:
        """Source -> its table of thresholds (see `thresholds`)."""
        return {
            source: table(slot.read(source), slot.read(self.anchor_of(source)))
            for source in self.sources(donors)
        }

    def voter(self, source: str, value: float, measures: Measures) -> Voter:
        """The largest entries of the source's delta."""
        thresholds, density = measures[source], self.density

        def thin(parts: Sequence[Tensor]) -> Tensor:
            return trimmed(parts[0], thresholds, density)

        return Voter((Term("delta", source),), thin, value)
