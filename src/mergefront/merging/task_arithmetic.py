"""Task arithmetic: the receiver plus scaled task vectors of the donors.

    W = W_receiver + sum_k c_k (W_donor_k - W_base_k) [+ (r - 1) (W_receiver - W_base)]

`anchor` says what the donors' task vectors are taken from:
- "own" (default): the donor's own base where it names one, else the common base;
- "base": the common base for all;
- "receiver": the receiver. The sum is then a weighted mean, (1 - sum c) W_receiver + sum c W_donor,
  and is computed as one, so that a donor at one is that donor bit for bit.

With `scale_receiver: true` the receiver's own task vector gets a coefficient r (default 1) as
well: a "receiver" row in the table. All donors zero (and r one) is the receiver.

Reference: arXiv:2212.04089, section 2; for VLMs arXiv:2505.05464, section 2, whose formula with
lambda and 1 - lambda is `r` = lambda and one donor with c = 1 - lambda.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from mergefront.errors import ConfigError

from .linear import Linear
from .method import check_parameters

_LEGAL: Final = {"anchor": ("own", "base", "receiver"), "scale_receiver": (False, True)}
_DELTA: Final = "delta:"


@dataclass(frozen=True)
class TaskArithmetic:
    """Terms are the receiver and one delta per donor, before them the receiver's own if scaled."""

    name: str = "task_arithmetic"

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Accept `anchor` and `scale_receiver`; the latter needs a base to scale from."""
        check_parameters(self.name, parameters, _LEGAL)
        if parameters.get("scale_receiver", False) and parameters.get("anchor") == "receiver":
            raise ConfigError(
                f"method {self.name}: scale_receiver needs a base, anchor receiver has none"
            )

    def terms(self, donors: Sequence[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """The receiver, its delta if it is scaled, the donors' deltas in their order."""
        self.check(parameters)
        if parameters.get("anchor") == "receiver":
            return Linear().terms(donors, {})
        own = (f"{_DELTA}receiver",) if parameters.get("scale_receiver", False) else ()
        return ("receiver", *own, *(_DELTA + donor for donor in donors))

    def reads(self, term: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """A delta reads its source and that source's base; a plain source reads itself."""
        if not term.startswith(_DELTA):
            return (term,)
        source = term.removeprefix(_DELTA)
        common = source == "receiver" or parameters.get("anchor", "own") == "base"
        return source, "base" if common else f"base:{source}"

    def prepare(
        self, term: str, read: Callable[[str], Tensor], parameters: Mapping[str, Any]
    ) -> Tensor:
        """The source's tensor itself, or source minus base in fp32."""
        sources = self.reads(term, parameters)
        if len(sources) == 1:
            return read(term)
        source, base = sources
        return read(source).float() - read(base).float()

    def weights(
        self,
        coefficients: Mapping[str, float],
        donors: Sequence[str],
        parameters: Mapping[str, Any],
    ) -> dict[str, float]:
        """One for the receiver, the donors' coefficients for their deltas.

        Raises:
            ConfigError: if the receiver has a coefficient though `scale_receiver` is not set.
        """
        if parameters.get("anchor") == "receiver":
            return Linear().weights(coefficients, donors, {})
        weights = {"receiver": 1.0}
        own = float(coefficients.get("receiver", 1.0))
        if parameters.get("scale_receiver", False):
            weights[f"{_DELTA}receiver"] = own - 1.0
        elif own != 1.0:
            raise ConfigError(
                f"method {self.name}: the receiver has coefficient {own}, "
                "but its own task vector is not scaled",
                hint="set the parameter scale_receiver: true",
            )
        return weights | {_DELTA + donor: float(coefficients.get(donor, 0.0)) for donor in donors}
