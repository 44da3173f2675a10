"""Linear: a weighted mean of the receiver and the donors.

    W = (1 - sum_k c_k) W_receiver + sum_k c_k W_donor_k

Needs no base. All coefficients zero is the receiver; a single coefficient of one is that donor.

Reference: arXiv:2505.05464, section 2 (there lambda = 1 - c for one donor); arXiv:2203.05482.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from mergefront.merging.method import RECEIVER_TERM, Measures, Method, Mix, Term, donor_coefficients


class Linear(Method):
    """Weights sum to one in every group; terms are the sources themselves."""

    name = "linear"

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """Each donor's coefficient, and for the receiver what remains of one."""
        return weighted_mean(row, donors)


def weighted_mean(row: Mapping[str, float], donors: Sequence[str]) -> Mix:
    """Return the donors times their coefficients, and the receiver times what remains of one."""
    coefficients = donor_coefficients(row, donors)
    weights = {Term("source", donor): c for donor, c in coefficients.items()}
    return Mix.sum({RECEIVER_TERM: remainder(coefficients.values()), **weights})


def remainder(weights: Iterable[float]) -> float:
    """Return what weights leave of one, rounded once."""
    return math.fsum((1.0, *(-weight for weight in weights)))
