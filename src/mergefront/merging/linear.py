"""Linear: a weighted mean of the receiver and the donors.

    W = (1 - sum_k c_k) W_receiver + sum_k c_k W_donor_k

Needs no base. All coefficients zero is the receiver; a single coefficient of one is that donor.

Reference: arXiv:2505.05464, section 2 (there lambda = 1 - c for one donor); arXiv:2203.05482.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mergefront.errors import ConfigError

from .method import check_parameters


@dataclass(frozen=True)
class Linear:
    """Weights sum to one in every group; terms are the sources themselves."""

    name: str = "linear"

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Accept no parameters."""
        check_parameters(self.name, parameters, {})

    def terms(self, donors: Sequence[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """The receiver, then the donors in their order."""
        self.check(parameters)
        return ("receiver", *donors)

    def reads(self, term: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """A term reads the source of its name."""
        return (term,)

    def prepare(
        self, term: str, read: Callable[[str], Tensor], parameters: Mapping[str, Any]
    ) -> Tensor:
        """The source's own tensor, in its own dtype."""
        return read(term)

    def weights(
        self,
        coefficients: Mapping[str, float],
        donors: Sequence[str],
        parameters: Mapping[str, Any],
    ) -> dict[str, float]:
        """Each donor's coefficient, and to the receiver what they leave of one.

        Raises:
            ConfigError: if the receiver is given a coefficient of its own.
        """
        if coefficients.get("receiver", 1.0) != 1.0:
            raise ConfigError(
                "method linear: the receiver takes what the donors leave of one; "
                "it has no coefficient of its own",
                hint="drop the receiver's row, or use task_arithmetic with scale_receiver",
            )
        given = {donor: float(coefficients.get(donor, 0.0)) for donor in donors}
        rest = math.fsum((1.0, *(-value for value in given.values())))
        return {"receiver": rest, **given}
