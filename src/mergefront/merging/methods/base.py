"""What several methods share: deltas of the donors, and rules about the donors of one group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mergefront.errors import ConfigError
from mergefront.merging.method import (
    RECEIVER_TERM,
    Method,
    Mix,
    ReadPiece,
    Slot,
    Term,
    TermKind,
    choice,
    donor_coefficients,
)


@dataclass(frozen=True)
class DeltaMethod(Method):
    """Terms are the receiver and one delta for each donor, taken from its anchor.

    Anchor "own" is the donor's own base, or the common one where the donor names none; "base" the
    common base; "receiver" the receiver itself.
    """

    anchor: Literal["own", "base", "receiver"] = choice("own", "base", "receiver")

    def terms(self, donors: Sequence[str]) -> tuple[Term, ...]:
        """The receiver, then the donors' deltas in their order."""
        return (RECEIVER_TERM, *(Term("delta", donor) for donor in donors))

    def reads(self, term: Term) -> tuple[str, ...]:
        """A source reads itself; a delta reads its source and the anchor; all donors' all."""
        if term.kind == "source":
            return (term.source,)
        sources = term.donors or (term.source,)
        return tuple(dict.fromkeys(s for name in sources for s in (name, self.anchor_of(name))))

    def copied_source(self, row: Mapping[str, float], donors: Sequence[str]) -> str | None:
        """None: the receiver takes part in every sum."""
        return None

    def prepare(self, term: Term, slot: Slot) -> Tensor:
        """The source's tensor itself, or source minus anchor in fp32."""
        return slot.read(term.source) if term.kind == "source" else self.delta(slot, term.source)

    def pieces(self, term: Term, slot: Slot) -> ReadPiece:
        """Pieces of a delta are computed on demand: a whole one would fit in no cache."""
        if term.kind != "delta":
            return super().pieces(term, slot)
        source, anchor = (slot.read(name).reshape(-1) for name in self.reads(term))
        return lambda at: difference(source[at], anchor[at])

    def anchor_of(self, source: str) -> str:
        """Return the source that a source's delta is taken from."""
        if self.anchor == "own" and source != "receiver":
            return f"base:{source}"
        return "receiver" if self.anchor == "receiver" else "base"

    def delta(self, slot: Slot, source: str) -> Tensor:
        """Return a source's delta in fp32: source minus its anchor."""
        return difference(slot.read(source), slot.read(self.anchor_of(source)))


def difference(source: Tensor, anchor: Tensor) -> Tensor:
    """Return source minus anchor in fp32, entry by entry: so any piece of a delta is made."""
    return source.float() - anchor.float()


def sum_of_terms(kind: TermKind, row: Mapping[str, float], donors: Sequence[str]) -> Mix:
    """Return the receiver plus the donors' terms of a kind, times their coefficients."""
    coefficients = donor_coefficients(row, donors)
    return Mix.sum({RECEIVER_TERM: 1.0, **{Term(kind, d): c for d, c in coefficients.items()}})


def single_donor(method: str, row: Mapping[str, float], donors: Sequence[str]) -> tuple[str, float]:
    """Return the one donor of a row with its coefficient; the first at 0 if none has any.

    Raises:
        ConfigError: several donors have a coefficient.
    """
    nonzero = [(donor, c) for donor, c in donor_coefficients(row, donors).items() if c != 0.0]
    if len(nonzero) > 1:
        names = ", ".join(donor for donor, _ in nonzero)
        raise ConfigError(
            f"method {method} takes one donor in a group, this group has {names}",
            hint="use multislerp, karcher or task_arithmetic for several, or one donor",
        )
    return nonzero[0] if nonzero else (donors[0], 0.0)
