"""The `layers` field of a space file, and the curve over the receiver's layers that it stands for.

A curve makes the values of a few knobs one value per layer: a linear map, or a ramp over depth. Not
here: donors, parts and bounds (`lines`). The definitions are in the docstring of `space`.
Shapes: S knobs of a curve, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Discriminator, Field, Tag
from scipy.optimize import lsq_linear

from mergefront.errors import SpaceError
from mergefront.yaml_file import Strict

Array = NDArray[np.float64]

RAMP_WIDTH: Final = 1 / 12
"""Width of a ramp's step in units of depth: it goes from 10 % to 90 % over 0.37 of the depth."""
FITTED_TURNS: Final = 101
"""How many turning points a fit tries."""

KnobRange = tuple[float, float, float]
"""Low, high and start of a knob."""


@dataclass(frozen=True)
class Linear:
    """The linear map from knob values to layers.

    `rows[l]` are (knob, weight) pairs; without waves a layer's weights sum to one. `waves` are the
    knobs that do not move the mean over layers: their bounds are half the line's width on both
    sides of 0, and the sum of all knobs is clipped to the line's bounds.
    """

    labels: tuple[str, ...]
    rows: tuple[tuple[tuple[int, float], ...], ...]
    waves: frozenset[int] = frozenset()

    @property
    def size(self) -> int:
        """S, the number of knobs."""
        return len(self.labels)

    @cached_property
    def matrix_LS(self) -> Array:
        """The map as a matrix."""
        matrix_LS = np.zeros((len(self.rows), self.size))
        for layer, row in enumerate(self.rows):
            for knob, weight in row:
                matrix_LS[layer, knob] = weight
        return matrix_LS

    def ranges(self, low: float, high: float, start: float) -> list[KnobRange]:
        """Return each knob's bounds and start for coefficients in [low, high]."""
        half = (high - low) / 2
        return [
            (-half, half, 0.0) if knob in self.waves else (low, high, start)
            for knob in range(self.size)
        ]

    def value_at(self, values: Sequence[float], layer: int) -> float:
        """Return the value at a layer. Equal neighbours give exactly their value."""
        (first, _), *rest = self.rows[layer]
        if self.waves:
            return math.fsum(values[knob] * weight for knob, weight in self.rows[layer])
        start = values[first]
        return start + sum(weight * (values[knob] - start) for knob, weight in rest)

    def constant(self, value: float) -> tuple[float, ...]:
        """Return the knob values that give `value` at every layer."""
        return tuple(0.0 if knob in self.waves else value for knob in range(self.size))

    def fit(
        self, target: Sequence[float], layers: Sequence[int], low: float, high: float
    ) -> tuple[float, ...]:
        """Return the values within bounds that come nearest to a target, by least squares."""
        matrix = self.matrix_LS[list(layers)]
        return _bounded(matrix, np.asarray(target), self.ranges(low, high, low))


@dataclass(frozen=True)
class Ramp:
    """A smooth step from an early level to a late one, with a turning point in [0, 1] of depth.

    At depth x = l / (L - 1) the value is early + (late - early) / (1 + exp((turn - x) / width)):
    between the two levels everywhere, and equal levels give exactly that level.
    """

    n_layers: int
    labels: tuple[str, ...] = ("early", "late", "turn")

    @property
    def size(self) -> int:
        """S, the number of knobs."""
        return len(self.labels)

    def ranges(self, low: float, high: float, start: float) -> list[KnobRange]:
        """Return each knob's bounds and start for coefficients in [low, high]."""
        return [(low, high, start), (low, high, start), (0.0, 1.0, 0.5)]

    def value_at(self, values: Sequence[float], layer: int) -> float:
        """Return the value at a layer."""
        early, late, turn = values
        share = 1.0 / (1.0 + math.exp((turn - self._depth(layer)) / RAMP_WIDTH))
        return early + share * (late - early)

    def constant(self, value: float) -> tuple[float, ...]:
        """Return the knob values that give `value` at every layer."""
        return value, value, 0.5

    def fit(
        self, target: Sequence[float], layers: Sequence[int], low: float, high: float
    ) -> tuple[float, ...]:
        """Return the nearest levels by least squares at the best of FITTED_TURNS turning points."""
        depths = np.array([self._depth(layer) for layer in layers])
        values, best, least = np.asarray(target), self.constant(low), math.inf
        for turn in np.linspace(0.0, 1.0, FITTED_TURNS):
            share = 1.0 / (1.0 + np.exp((turn - depths) / RAMP_WIDTH))
            matrix = np.stack([1.0 - share, share], axis=1)
            early, late = _bounded(matrix, values, [(low, high, low)] * 2)
            error = float(((matrix @ (early, late) - values) ** 2).sum())
            if error < least - 1e-15:
                best, least = (early, late, float(turn)), error
        return best

    def _depth(self, layer: int) -> float:
        return layer / (self.n_layers - 1)


Curve = Linear | Ramp


def _bounded(matrix: Array, target: Array, ranges: Sequence[KnobRange]) -> tuple[float, ...]:
    """Solve a least-squares problem within bounds; the solver may miss a bound by a rounding."""
    low, high = ([knob_range[end] for knob_range in ranges] for end in (0, 1))
    values = lsq_linear(matrix, target, bounds=(low, high), method="bvls").x
    return tuple(float(value) for value in np.clip(values, low, high))


V = TypeVar("V", bound=tuple[Any, ...])


def not_empty(values: V) -> V:
    """Refuse an empty list; unlike `min_length`, add no error where an entry is faulty already."""
    if not values:
        raise ValueError("expected at least one entry")
    return values


Count = Annotated[int, Field(ge=1)]


class Blocks(Strict):
    """n contiguous runs of layers."""

    blocks: Count


class Ranges(Strict):
    """Explicit runs of layers, both ends included."""

    ranges: Annotated[tuple[tuple[int, int], ...], AfterValidator(not_empty)]


class Knots(Strict):
    """Values at n equally spaced depths, linear between them; n is 2 or more."""

    knots: Annotated[int, Field(ge=2)]


class Cosines(Strict):
    """The first n functions of the DCT-II basis."""

    cosines: Count


_KINDS: Final = ("blocks", "knots", "cosines", "ranges")


def _alternative(layers: Any) -> str | None:
    """Return the tag of the alternative that is meant, so that errors speak of that one only."""
    if isinstance(layers, str):
        return "word" if layers in ("each", "all", "ramp") else None
    names = list(layers) if isinstance(layers, dict) else [type(layers).__name__.lower()]
    return names[0] if len(names) == 1 and names[0] in _KINDS else None


Layers = Annotated[
    Annotated[Literal["each", "all", "ramp"], Tag("word")]
    | Annotated[Blocks, Tag("blocks")]
    | Annotated[Knots, Tag("knots")]
    | Annotated[Cosines, Tag("cosines")]
    | Annotated[Ranges, Tag("ranges")],
    Discriminator(
        _alternative,
        custom_error_type="layers",
        custom_error_message="expected each, all, ramp, {blocks: n}, {knots: n}, {cosines: n} or "
        "{ranges: [[first, last], ...]}",
    ),
]


def curve_of(layers: Layers, n_layers: int, used_layers: Sequence[int], where: str) -> Curve:
    """Return the curve of a `layers` field over `n_layers` layers.

    Args:
        used_layers: layers that take a value; an embedding alone has one.
        where: the line of the space, for messages.

    Raises:
        SpaceError: more knobs than used layers, or ranges that do not fit or leave one out.
    """
    n_used, n_knobs = len(set(used_layers)), _count(layers)
    if n_knobs > n_used:
        word = "knobs of a ramp" if layers == "ramp" else type(layers).__name__.lower()
        raise SpaceError(
            f"{where}: {n_knobs} {word} for {n_used} layer{'s' * (n_used != 1)}",
            hint=f"use at most {n_used}, or `layers: all`",
        )
    match layers:
        case "all":
            return _runs(["all"], [0] * n_layers)
        case "ramp":
            return Ramp(n_layers)
        case "each":
            knob = {layer: place for place, layer in enumerate(sorted(set(used_layers)))}
            # The rows of absent layers are never read.
            owner = [knob.get(layer, 0) for layer in range(n_layers)]
            return _runs([f"l{layer}" for layer in knob], owner)
        case Blocks(blocks=n):
            owner = [_block(layer, n, n_layers) for layer in range(n_layers)]
            return _runs(_labels("b", n), owner)
        case Ranges(ranges=ranges):
            return _ranges(ranges, n_layers, used_layers, where)
        case Knots(knots=n):
            return Linear(
                _labels("k", n), tuple(_knot(layer, n, n_layers) for layer in range(n_layers))
            )
        case Cosines(cosines=n):
            rows = tuple(
                tuple((k, math.cos(math.pi * k * (layer + 0.5) / n_layers)) for k in range(n))
                for layer in range(n_layers)
            )
            return Linear(_labels("c", n), rows, frozenset(range(1, n)))


def _count(layers: Layers) -> int:
    match layers:
        case Blocks(blocks=n) | Knots(knots=n) | Cosines(cosines=n):
            return n
        case Ranges(ranges=ranges):
            return len(ranges)
        case "ramp":
            return 3
        case _:
            return 1


def _labels(letter: str, n: int) -> tuple[str, ...]:
    return tuple(f"{letter}{number}" for number in range(n))


def _runs(labels: Sequence[str], owner: Sequence[int]) -> Linear:
    """Return a curve in which each layer has the value of its owner, one of the knobs."""
    return Linear(tuple(labels), tuple(((knob, 1.0),) for knob in owner))


def _block(layer: int, n: int, n_layers: int) -> int:
    """Return the block of a layer; the first n_layers % n of the n blocks are longer by one."""
    size, longer = divmod(n_layers, n)
    border = longer * (size + 1)
    return layer // (size + 1) if layer < border else longer + (layer - border) // size


def _ranges(
    ranges: Sequence[tuple[int, int]], n_layers: int, used_layers: Sequence[int], where: str
) -> Linear:
    owner: dict[int, int] = {}
    for number, (first, last) in enumerate(ranges):
        if not 0 <= first <= last < n_layers:
            raise SpaceError(
                f"{where}: range [{first}, {last}] does not lie within layers 0 to {n_layers - 1}"
            )
        for layer in range(first, last + 1):
            if layer in owner:
                raise SpaceError(f"{where}: layer {layer} is claimed twice by the ranges")
            owner[layer] = number
    unclaimed = sorted(set(used_layers) - set(owner))
    if unclaimed:
        raise SpaceError(f"{where}: layer {unclaimed[0]} is not claimed by any range")
    owners = [owner.get(layer, 0) for layer in range(n_layers)]
    return _runs(_labels("r", len(ranges)), owners)


def _knot(layer: int, n: int, n_layers: int) -> tuple[tuple[int, float], ...]:
    """Return the weights of the two knots around a layer; at a knot its own value, exactly."""
    knob, remainder = divmod(layer * (n - 1), n_layers - 1)
    if remainder == 0:
        return ((knob, 1.0),)
    share = remainder / (n_layers - 1)
    return ((knob, 1.0 - share), (knob + 1, share))
