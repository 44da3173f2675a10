"""What most methods share: terms that are sources or deltas, and no measures.

A method inherits from `DeltaMethod` (donors' deltas added to the receiver) or `SourceMethod` (the
sources themselves) and overrides what it does otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from torch import Tensor

from mergefront.errors import ConfigError
from mergefront.merging.method import DELTA, Measures, Mix, Piece, Slot, check_parameters

ANCHORS: Final = ("own", "base", "receiver")


class SourceMethod:
    """Terms are the receiver and the donors themselves; no base is needed."""

    name: ClassVar[str]
    legal: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    searchable: ClassVar[Mapping[str, tuple[float, float]]] = {}
    whole: ClassVar[tuple[str, ...]] = ()

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Accept the parameters in `legal` and `ranges`, integers for those in `whole`."""
        check_parameters(self.name, parameters, self.legal, self.ranges, self.whole)

    def terms(self, donors: Sequence[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """The receiver, then the donors in their order."""
        self.check(parameters)
        return ("receiver", *donors)

    def lasting(self, term: str) -> bool:
        """Every term is."""
        return True

    def reads(self, term: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """A plain source reads itself."""
        return (term,)

    def prepare(self, term: str, slot: Slot, parameters: Mapping[str, Any]) -> Tensor:
        """The source's own tensor, in its own dtype."""
        return slot.read(term)

    def pieces(self, term: str, slot: Slot, parameters: Mapping[str, Any]) -> Piece:
        """Pieces of what is prepared whole."""
        whole = self.prepare(term, slot, parameters).reshape(-1)
        return lambda at: whole[at]

    def check_row(
        self, row: Mapping[str, float], donors: Sequence[str], parameters: Mapping[str, Any]
    ) -> None:
        """Refuse a coefficient of the receiver's own other than one."""
        if row.get("receiver", 1.0) != 1.0:
            raise ConfigError(
                f"method {self.name}: the receiver has coefficient {row['receiver']}, "
                "but its own weights are not scaled",
                hint="drop the receiver's row, or use task_arithmetic with scale_receiver: true",
            )

    def copied(
        self, row: Mapping[str, float], donors: Sequence[str], parameters: Mapping[str, Any]
    ) -> str | None:
        """A donor at one with all others at zero."""
        return only_donor(row, donors)

    def measure(self, slot: Slot, donors: Sequence[str], parameters: Mapping[str, Any]) -> Measures:
        """Nothing."""
        return {}


class DeltaMethod(SourceMethod):
    """Terms are the receiver and one delta for each donor, taken from its anchor.

    Parameter `anchor`: "own" (default) the donor's own base, or the common one where it names
    none; "base" the common base; "receiver" the receiver itself.
    """

    legal: ClassVar[Mapping[str, tuple[Any, ...]]] = {"anchor": ANCHORS}

    def terms(self, donors: Sequence[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """The receiver, then the donors' deltas in their order."""
        self.check(parameters)
        return ("receiver", *(DELTA + donor for donor in donors))

    def reads(self, term: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """A delta reads its source and that source's anchor; a plain source reads itself."""
        _, colon, source = term.rpartition(":")
        if not colon or term.startswith("base:"):
            return (term,)
        return source, anchor_of(source, parameters)

    def copied(
        self, row: Mapping[str, float], donors: Sequence[str], parameters: Mapping[str, Any]
    ) -> str | None:
        """None: the receiver takes part in every sum."""
        return None

    def prepare(self, term: str, slot: Slot, parameters: Mapping[str, Any]) -> Tensor:
        """The source's tensor itself, or source minus anchor in fp32."""
        sources = self.reads(term, parameters)
        if len(sources) == 1:
            return slot.read(term)
        return delta(slot, sources[0], parameters)

    def pieces(self, term: str, slot: Slot, parameters: Mapping[str, Any]) -> Piece:
        """Pieces of a delta are worked out when asked for: a whole one would fit in no cache."""
        if not term.startswith(DELTA):
            return super().pieces(term, slot, parameters)
        source, anchor = (slot.read(one).reshape(-1) for one in self.reads(term, parameters))
        return lambda at: difference(source[at], anchor[at])


def anchor_of(source: str, parameters: Mapping[str, Any]) -> str:
    """The source that a source's delta is taken from."""
    match parameters.get("anchor", "own"):
        case "own" if source != "receiver":
            return f"base:{source}"
        case "receiver":
            return "receiver"
        case _:
            return "base"


def delta(slot: Slot, source: str, parameters: Mapping[str, Any]) -> Tensor:
    """A source's delta in fp32: source minus its anchor."""
    return difference(slot.read(source), slot.read(anchor_of(source, parameters)))


def difference(source: Tensor, anchor: Tensor) -> Tensor:
    """Source minus anchor in fp32, entry by entry: so any piece of a term "delta:..." is made."""
    return source.float() - anchor.float()


def coefficients(row: Mapping[str, float], donors: Sequence[str]) -> dict[str, float]:
    """The donors' coefficients in their order, 0 where a row names none."""
    return {donor: float(row.get(donor, 0.0)) for donor in donors}


def added(prefix: str, row: Mapping[str, float], donors: Sequence[str]) -> Mix:
    """One for the receiver, the donors' coefficients for their terms of that prefix."""
    given = coefficients(row, donors)
    return Mix.sum({"receiver": 1.0, **{prefix + donor: c for donor, c in given.items()}})


def only_donor(row: Mapping[str, float], donors: Sequence[str]) -> str | None:
    """The donor at one, if all others are at zero."""
    given = {donor: value for donor, value in coefficients(row, donors).items() if value != 0.0}
    return next(iter(given)) if list(given.values()) == [1.0] else None


def one_donor(method: str, row: Mapping[str, float], donors: Sequence[str]) -> tuple[str, float]:
    """The one donor of a row with its coefficient; the first donor at 0 if none has any.

    Raises:
        ConfigError: if several donors have a coefficient.
    """
    given = [(donor, value) for donor, value in coefficients(row, donors).items() if value != 0.0]
    if len(given) > 1:
        names = ", ".join(donor for donor, _ in given)
        raise ConfigError(
            f"method {method} takes one donor in a group, this one has {names}",
            hint="use multislerp, karcher or task_arithmetic for several, or one donor",
        )
    return given[0] if given else (donors[0], 0.0)
