"""Linear: a weighted mean of the receiver and the donors.

    W = (1 - sum_k c_k) W_receiver + sum_k c_k W_donor_k

Needs no base. All coefficients zero is the receiver; a single coefficient of one is that donor.

Reference: arXiv:2505.05464, section 2 (there lambda = 1 - c for one donor); arXiv:2203.05482.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mergefront.merging.method import Measures, Mix
from mergefront.merging.methods.base import SourceMethod, coefficients


class Linear(SourceMethod):
    """Weights sum to one in every group; terms are the sources themselves."""

    name = "linear"

    def mix(
        self,
        row: Mapping[str, float],
        donors: Sequence[str],
        parameters: Mapping[str, Any],
        measures: Measures,
    ) -> Mix:
        """Each donor's coefficient, and to the receiver what they leave of one."""
        given = coefficients(row, donors)
        rest = math.fsum((1.0, *(-value for value in given.values())))
        return Mix.sum({"receiver": rest, **given})
