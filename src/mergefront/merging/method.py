"""What a merge method is: candidate-invariant terms, and the weights that combine them.

A method splits into `prepare` (once, from the checkpoints' own tensors) and `weights` (per
candidate: a few numbers per group); `merging.arithmetic.weighted_sum` joins the two. It knows
nothing of files, engines or searches.

Term names: a plain source is called by its name ("receiver", "base", a donor's alias); "delta:x"
is x minus its base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from mergefront.errors import ConfigError


class Method(Protocol):
    """A merge method of the linear family: a weighted sum of terms, group by group."""

    @property
    def name(self) -> str:
        """Its name in recipes and spaces."""

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Raise ConfigError if a parameter is unknown or out of range."""

    def terms(self, donors: Sequence[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Return all terms in the fixed order in which they are summed."""

    def reads(self, term: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the sources that `prepare` reads for a term."""

    def prepare(
        self, term: str, read: Callable[[str], Tensor], parameters: Mapping[str, Any]
    ) -> Tensor:
        """Return a term's tensor; `read(source)` gives the source's tensor of the same name.

        Deltas come as fp32, plain sources in their own dtype. Candidates do not enter.
        """

    def weights(
        self,
        coefficients: Mapping[str, float],
        donors: Sequence[str],
        parameters: Mapping[str, Any],
    ) -> dict[str, float]:
        """Turn one group's coefficients (source -> c) into weights (term -> w) for every term.

        A donor that is not named has 0; "receiver", where a method allows it, has 1.
        """


def check_parameters(
    method: str, parameters: Mapping[str, Any], legal: Mapping[str, tuple[Any, ...]]
) -> None:
    """Refuse parameters that a method has not, or whose value is none of the legal ones.

    Raises:
        ConfigError: naming the method, the parameter and what is legal.
    """
    for name, value in parameters.items():
        if name not in legal:
            known = ", ".join(legal) or "none"
            raise ConfigError(f"method {method} has no parameter {name!r}; it has: {known}")
        if not any(value == one and type(value) is type(one) for one in legal[name]):
            options = ", ".join(repr(one) for one in legal[name])
            raise ConfigError(f"method {method}: {name} is {value!r}, expected one of {options}")
