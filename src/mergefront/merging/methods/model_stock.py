"""Model Stock: donors' mean, pulled back to the receiver by the angle between their deltas.

    W = W_receiver + t sum_k c_k d_k,   t = N cos / (1 + (N - 1) cos)

with N donors, d_k their deltas and cos the mean cosine of all pairs of deltas, per tensor. The
published merge is c_k = 1/N for all. t does not depend on the coefficients. At least two donors
are needed; where 1 + (N - 1) cos vanishes, t is 0. `anchor` as in `task_arithmetic`; the published
anchor is the one point that all were fine-tuned from.

Reference: arXiv:2403.19522, equation 7 (N donors) and appendix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mergefront.errors import ConfigError
from mergefront.merging.method import RECEIVER_TERM, Measures, Mix, Slot, Term, donor_coefficients
from mergefront.merging.methods.base import DeltaMethod
from mergefront.merging.methods.gram import gram, norms


class ModelStock(DeltaMethod):
    """Measures the ratio t."""

    name = "model_stock"

    def check_row(self, row: Mapping[str, float], donors: Sequence[str]) -> None:
        """Refuse a single donor, for which there is no angle."""
        super().check_row(row, donors)
        if len(donors) < 2:
            raise ConfigError(
                f"method {self.name} needs two donors or more, found {len(donors)}",
                hint="use task_arithmetic for one",
            )

    def measure(self, slot: Slot, donors: Sequence[str]) -> Measures:
        """The ratio t of the tensor."""
        products = gram([self.delta(slot, donor) for donor in donors])
        length = norms(products)
        scale = np.outer(length, length)
        cosines = np.clip(products / np.where(scale > 0.0, scale, 1.0), -1.0, 1.0)
        n = len(donors)
        cosine = float(cosines[np.triu_indices(n, 1)].mean())
        below = 1.0 + (n - 1) * cosine
        return {"ratio": n * cosine / below if abs(below) >= 1e-6 else 0.0}

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """One for the receiver, the ratio times the coefficients for the deltas."""
        t = float(measures["ratio"])
        coefficients = donor_coefficients(row, donors)
        deltas = {Term("delta", donor): t * c for donor, c in coefficients.items()}
        return Mix.sum({RECEIVER_TERM: 1.0, **deltas})
