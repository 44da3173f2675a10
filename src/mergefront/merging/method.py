"""What a merge method is: candidate-invariant terms and measures, and how a candidate mixes them.

A method splits into what is prepared once per run and what is combined per candidate:

- `prepare` makes a term (a tensor) from the checkpoints' own tensors: a source itself, a delta, a
  drop mask. Terms pass through the model's loader like weights do, so that everything that
  follows is elementwise and does not care how an engine fuses, shards or pads.
- `measure` takes the numbers that need a whole tensor, or a whole layer: norms, cosines, trim
  thresholds. They are of the checkpoints' own tensors, once.
- `mix` turns one group's coefficients into a `Mix` for one tensor: which terms, and how they are
  joined. A weighted sum needs only its weights; anything else brings an elementwise `join`.

`merging.arithmetic.combine` carries a `Mix` out. A method knows nothing of files, engines or
searches.

Term names: a plain source is called by its name ("receiver", "base", a donor's alias); "delta:x"
is x minus its base. Measures, and the terms that last, never depend on searchable parameters. A
term that does says with which value in its name ("top:3:x"): it is made anew for every value, from
what the slot has kept, and held for as long as candidates name it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from torch import Tensor

from mergefront.errors import ConfigError
from mergefront.records import Part

DELTA: Final = "delta:"


T = TypeVar("T")

Join = Callable[[Sequence[Tensor]], Tensor]
"""Elementwise: flat chunks of the terms (floats as fp32, codes as they are) -> fp32 chunk. It may
write into the chunks, which are copies."""

Piece = Callable[[slice], Tensor]
"""Start and end (no step) among a term's entries in row-major order -> those entries, 1-D."""

Measures = Mapping[str, Any]
"""A method's own numbers about one tensor: floats and small arrays by name."""


@dataclass(frozen=True)
class Mix:
    """One tensor of a candidate: `terms` joined by a weighted sum, or by `join` where there is one.

    A single term with weight one, or a `join` of a single term that is None, is a copy.
    """

    terms: tuple[str, ...]
    weights: tuple[float, ...] = ()
    join: Join | None = None

    @classmethod
    def sum(cls, weights: Mapping[str, float]) -> Mix:
        """The weighted sum of terms in the given order, zero weights left out."""
        kept = {term: weight for term, weight in weights.items() if weight != 0.0}
        return cls(tuple(kept), tuple(kept.values()))


class Slot(Protocol):
    """One of the receiver's mergeable tensors, and its counterparts in all sources."""

    @property
    def name(self) -> str:
        """The receiver's tensor name."""

    @property
    def layer(self) -> int | None:
        """Language layer from 0; None for embedding, head and final norm."""

    @property
    def n_layers(self) -> int:
        """Language layers of the receiver."""

    @property
    def part(self) -> Part:
        """Part of the layer."""

    @property
    def fellows(self) -> tuple[str, ...]:
        """Names of all mergeable tensors of the same layer, this one included."""

    def read(self, source: str, name: str | None = None) -> Tensor:
        """A source's tensor in its own dtype: this one's counterpart, or that of a fellow."""

    @property
    def kept(self) -> MutableMapping[Hashable, Any]:
        """What preparing for one candidate leaves for the next: lasts as long as an engine uses one
        method, and is empty for each tensor of an export."""

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns, computed once for all tensors of the same sources."""


class Method(Protocol):
    """A merge method. All coefficients zero (and the receiver's one) is the receiver, always."""

    @property
    def name(self) -> str:
        """Its name in recipes and spaces."""

    @property
    def searchable(self) -> Mapping[str, tuple[float, float]]:
        """Own parameters that a candidate may vary, with their legal range (both ends)."""

    @property
    def whole(self) -> Collection[str]:
        """Own parameters that are whole numbers."""

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Raise ConfigError if a parameter is unknown or out of range."""

    def terms(self, donors: Sequence[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Return all terms that a mix may name, in the fixed order in which they are combined."""

    def lasting(self, term: str) -> bool:
        """Whether a term serves every candidate; if not, its name has a searched value in it."""

    def reads(self, term: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the sources that `prepare` reads for a term."""

    def prepare(self, term: str, slot: Slot, parameters: Mapping[str, Any]) -> Tensor:
        """Return a term's tensor; a plain source's name gives that source, in every method.

        Deltas come as fp32, plain sources in their own dtype, codes as integers.
        """

    def pieces(self, term: str, slot: Slot, parameters: Mapping[str, Any]) -> Piece:
        """Return what gives any range of `prepare`'s entries, for who needs each entry once."""

    def measure(self, slot: Slot, donors: Sequence[str], parameters: Mapping[str, Any]) -> Measures:
        """Return what `mix` needs to know of the tensor; empty where it needs nothing."""

    def check_row(
        self, row: Mapping[str, float], donors: Sequence[str], parameters: Mapping[str, Any]
    ) -> None:
        """Raise ConfigError if a group's coefficients make no sense in this method."""

    def copied(
        self, row: Mapping[str, float], donors: Sequence[str], parameters: Mapping[str, Any]
    ) -> str | None:
        """Return the one source that a row of coefficients comes down to, if it does.

        Its tensors are then copied, bit for bit. A row of zeros (the receiver) is not asked.
        """

    def mix(
        self,
        row: Mapping[str, float],
        donors: Sequence[str],
        parameters: Mapping[str, Any],
        measures: Measures,
    ) -> Mix:
        """Turn one group's coefficients (source -> c) into how one of its tensors is made.

        A donor that is not named has 0; "receiver", where a method allows it, has 1. `row` has
        passed `check_row`.
        """


def check_parameters(
    method: str,
    parameters: Mapping[str, Any],
    legal: Mapping[str, tuple[Any, ...]],
    ranges: Mapping[str, tuple[float, float]] | None = None,
    whole: Collection[str] = (),
) -> None:
    """Refuse parameters that a method has not, or whose value is none of the legal ones.

    Args:
        legal: parameter -> its legal values.
        ranges: parameter -> (lowest, highest) legal number, both included.
        whole: those of `ranges` that must be integers.

    Raises:
        ConfigError: naming the method, the parameter and what is legal.
    """
    ranges = ranges or {}
    for name, value in parameters.items():
        if name in ranges:
            low, high = ranges[name]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise ConfigError(
                    f"method {method}: {name} is {value!r}, expected a number in [{low}, {high}]"
                )
            if name in whole and not isinstance(value, int):
                raise ConfigError(f"method {method}: {name} is {value!r}, expected an integer")
        elif name not in legal:
            known = ", ".join((*legal, *ranges)) or "none"
            raise ConfigError(f"method {method} has no parameter {name!r}; it has: {known}")
        elif not any(value == one and type(value) is type(one) for one in legal[name]):
            options = ", ".join(repr(one) for one in legal[name])
            raise ConfigError(f"method {method}: {name} is {value!r}, expected one of {options}")
