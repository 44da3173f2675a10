"""What a merge method is: terms and measures of the sources, and how a candidate mixes them.

Some of a method's work is done once a run, the rest for every candidate:

- `prepare` makes a term (a tensor) from the checkpoints' own tensors: a source itself, a delta, a
  drop mask. Terms pass through the model's loader like weights. So every later step is elementwise,
  and does not depend on how an engine fuses, shards or pads.
- `measure` takes the numbers that need a whole tensor, or a whole layer: norms, cosines, trim
  thresholds. They are taken once a run, from the unfused checkpoint tensors.
- `mix` turns one group's coefficients into a `Mix` for one tensor: which terms, and how they are
  joined. A weighted sum needs only its weights; anything else brings an elementwise `join`.

`merging.arithmetic.combine` carries a `Mix` out. A method knows nothing of files, engines or
searches.

A method is a frozen class whose fields are its parameters, declared by `choice` and `number` and
checked when it is made. Terms and measures never depend on a searchable parameter, with one
exception: a term with a `rank` is prepared again for every rank, from the slot's `memory`, and is
kept while candidates name it.

Reading order: `Term`, `Mix`, `Slot`, `Method`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeVar

from torch import Tensor

from mergefront.errors import ConfigError
from mergefront.records import Part

T = TypeVar("T")

TermKind = Literal[
    "source",  # a source's own tensor
    "delta",  # a source minus its anchor
    "noise",  # a random integer for every entry: DARE's and DELLA's masks
    "rank",  # the place of every entry among its row's magnitudes (DELLA)
    "fused",  # a delta where it matters, else 0 (Arcee Fusion)
    "truncated",  # a delta's main directions, `rank` of them (low_rank)
    "share",  # a donor's part in the sum of the task singular vectors (tsv)
    "flattened",  # the sum of deltas with equal singular values (isotropic)
]


class Term(NamedTuple):
    """One tensor that mixes are made of: what it is, and of which source.

    `source` is "receiver", "base", a donor's alias or "base:<alias>". A truncated delta has its
    `rank`. A term that depends on all donors names them in `donors`, in their order.
    """

    # A tuple and no dataclass: a candidate looks terms up hundreds of times, and a tuple hashes
    # without a call into Python.

    kind: TermKind
    source: str = ""
    rank: int = 0
    donors: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return a short name: "receiver", "delta:a", "truncated:3:a", "share:a/a,b"."""
        if self.kind == "source":
            return self.source
        rank = [str(self.rank)] if self.rank else []
        sources = [name for name in (self.source, ",".join(self.donors)) if name]
        return ":".join([self.kind, *rank, "/".join(sources)])

    @property
    def serves_all_candidates(self) -> bool:
        """Whether the term is the same for every value of the searched parameters."""
        return self.rank == 0


RECEIVER_TERM = Term("source", "receiver")
BASE_TERM = Term("source", "base")

Join = Callable[[Sequence[Tensor]], Tensor]
"""Elementwise: flat chunks of the terms -> fp32 chunk. Floats come as fp32, integer terms (random
codes, ranks) unchanged. It may write into the float chunks, which are copies."""

ReadPiece = Callable[[slice], Tensor]
"""Start and end (no step) among a term's entries in row-major order -> those entries, 1-D."""

Measures = Mapping[str, Any]
"""A method's own numbers about one tensor: floats and small arrays by name."""


@dataclass(frozen=True)
class Mix:
    """One tensor of a candidate: `terms` joined by a weighted sum, or by `join` where there is one.

    A single term with weight one is a copy.
    """

    terms: tuple[Term, ...]
    weights: tuple[float, ...] = ()
    join: Join | None = None

    @classmethod
    def sum(cls, weights: Mapping[Term, float]) -> Mix:
        """Return the weighted sum of terms in the given order, without those of weight zero."""
        nonzero = {term: weight for term, weight in weights.items() if weight != 0.0}
        return cls(tuple(nonzero), tuple(nonzero.values()))


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
    def same_layer_tensors(self) -> tuple[str, ...]:
        """Names of all mergeable tensors of the same layer, this one included."""

    def read(self, source: str, name: str | None = None) -> Tensor:
        """Return a source's tensor in its own dtype: of this slot, or `name` of the same layer."""

    @property
    def memory(self) -> MutableMapping[Hashable, Any]:
        """Values that preparing for one candidate keeps for the next.

        They last while an engine uses one method; an export begins empty for each tensor.
        """

    def shared(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what `compute` returns, computed once for all tensors of the same sources."""


@dataclass(frozen=True)
class Range:
    """The legal numbers of a parameter, both ends included."""

    low: float
    high: float
    searchable: bool
    whole: bool


def choice(*legal: Any, default: Any = None) -> Any:
    """Declare a parameter that has one of the `legal` values; the first unless told otherwise."""
    return field(default=legal[0] if default is None else default, metadata={"legal": legal})


def number(default: float, low: float, high: float, *, searchable: bool = True) -> Any:
    """Declare a parameter in [low, high]; a whole number if its default is an int."""
    legal = Range(low, high, searchable, whole=isinstance(default, int))
    return field(default=default, metadata={"legal": legal})


@dataclass(frozen=True)
class Method(ABC):
    """A merge method with its parameters, and the behaviour that most methods share.

    Terms are the receiver and the donors themselves, no base is needed, and nothing is measured.
    Subclasses override what differs. In every method, zero for every donor (and one for the
    receiver) gives the receiver.
    """

    name: ClassVar[str]
    """Its name in recipes and spaces."""

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Self:
        """Return the method with a recipe's parameters.

        Raises:
            ConfigError: naming the method, the parameter, the value and what is legal.
        """
        legal = cls._legal()
        for name in parameters:
            if name not in legal:
                names = ", ".join(legal) or "none"
                raise ConfigError(f"method {cls.name} has no parameter {name!r}; it has: {names}")
        return cls(**parameters)

    def __post_init__(self) -> None:
        for name, legal in self._legal().items():
            value = getattr(self, name)
            if not isinstance(legal, Range):
                _check_choice(self.name, name, value, legal)
                continue
            _check_number(self.name, name, value, legal)
            if not legal.whole:
                object.__setattr__(self, name, float(value))

    @classmethod
    def _legal(cls) -> dict[str, Range | tuple[Any, ...]]:
        """Return parameter -> its legal values, choices before numbers."""
        legal = {each.name: each.metadata["legal"] for each in fields(cls) if each.init}
        return dict(sorted(legal.items(), key=lambda pair: isinstance(pair[1], Range)))

    @property
    def parameters(self) -> dict[str, tuple[Any, ...]]:
        """Parameter -> its legal values, or the lowest and highest of a number."""
        return {
            name: (legal.low, legal.high) if isinstance(legal, Range) else legal
            for name, legal in self._legal().items()
        }

    @property
    def searchable(self) -> dict[str, tuple[float, float]]:
        """Parameters that a candidate may vary, with their legal range (both ends)."""
        return {
            name: (legal.low, legal.high)
            for name, legal in self._legal().items()
            if isinstance(legal, Range) and legal.searchable
        }

    @property
    def whole(self) -> frozenset[str]:
        """Parameters that are whole numbers."""
        return frozenset(
            name
            for name, legal in self._legal().items()
            if isinstance(legal, Range) and legal.whole
        )

    @property
    def with_default_search_parameters(self) -> Self:
        """The method with its searchable parameters at their defaults.

        It makes the terms and measures, so that they serve every candidate.
        """
        searchable = self.searchable
        return type(self)(
            **{name: getattr(self, name) for name in self._legal() if name not in searchable}
        )

    def terms(self, donors: Sequence[str]) -> tuple[Term, ...]:
        """Return all terms that a mix may name, in the fixed order in which they are combined."""
        return (RECEIVER_TERM, *(Term("source", donor) for donor in donors))

    def reads(self, term: Term) -> tuple[str, ...]:
        """Return the sources that `prepare` reads for a term."""
        return (term.source,)

    def prepare(self, term: Term, slot: Slot) -> Tensor:
        """Return a term's tensor; a source itself is that source's tensor, in every method.

        Deltas come as fp32, plain sources in their own dtype, random codes and ranks as integers.
        """
        return slot.read(term.source)

    def pieces(self, term: Term, slot: Slot) -> ReadPiece:
        """Return a reader of `prepare`'s entries, for callers that read each entry once."""
        whole = self.prepare(term, slot).reshape(-1)
        return lambda at: whole[at]

    def measure(self, slot: Slot, donors: Sequence[str]) -> Measures:
        """Return the numbers that `mix` needs of the tensor; empty if it needs none."""
        return {}

    def check_row(self, row: Mapping[str, float], donors: Sequence[str]) -> None:
        """Refuse a group's coefficients that make no sense in this method.

        Here: any coefficient of the receiver but one.

        Raises:
            ConfigError: naming the method and the coefficient.
        """
        if row.get("receiver", 1.0) != 1.0:
            raise ConfigError(
                f"method {self.name}: the receiver has coefficient {row['receiver']}, "
                "but its own weights are not scaled",
                hint="drop the receiver's row, or use task_arithmetic with scale_receiver: true",
            )

    def copied_source(self, row: Mapping[str, float], donors: Sequence[str]) -> str | None:
        """Return the source whose tensors a row of coefficients copies bit for bit, or None.

        It is not called for a row of zeros (the receiver).
        Here: a donor at one with all others at zero.
        """
        return only_donor(row, donors)

    @abstractmethod
    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """Return how one of a group's tensors is mixed by the group's coefficients (source -> c).

        A donor that is not named has 0; "receiver", where a method allows it, has 1. `row` has
        passed `check_row`.
        """


def donor_coefficients(row: Mapping[str, float], donors: Sequence[str]) -> dict[str, float]:
    """Return the donors' coefficients in their order, 0 where a row names none."""
    return {donor: float(row.get(donor, 0.0)) for donor in donors}


def only_donor(row: Mapping[str, float], donors: Sequence[str]) -> str | None:
    """Return the donor with coefficient one if all others have zero, else None."""
    nonzero = {donor: c for donor, c in donor_coefficients(row, donors).items() if c != 0.0}
    return next(iter(nonzero)) if list(nonzero.values()) == [1.0] else None


def _check_number(method: str, name: str, value: Any, legal: Range) -> None:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or not legal.low <= value <= legal.high:
        bounds = f"[{legal.low}, {legal.high}]"
        raise ConfigError(f"method {method}: {name} is {value!r}, expected a number in {bounds}")
    if legal.whole and not isinstance(value, int):
        raise ConfigError(f"method {method}: {name} is {value!r}, expected an integer")


def _check_choice(method: str, name: str, value: Any, legal: Sequence[Any]) -> None:
    # The types are compared too, because 1 == True: a flag given as a number is refused.
    if not any(value == option and type(value) is type(option) for option in legal):
        options = ", ".join(repr(option) for option in legal)
        raise ConfigError(f"method {method}: {name} is {value!r}, expected one of {options}")
