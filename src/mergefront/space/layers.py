"""The `layers` field of a space file, and the curve over the receiver's layers that it stands for.

Not here: the curves themselves (`curves`), donors, parts and bounds (`lines`). The definitions are
in the docstring of `space`.

Reading order: `Layers`, `curve_of`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, Discriminator, Field, Tag

from mergefront.errors import SpaceError
from mergefront.space.curves import Curve, Linear, Ramp
from mergefront.yaml_file import Strict

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
        raise SpaceError(
            f"{where}: {n_knobs} {_word(layers)} for {n_used} layer{'s' * (n_used != 1)}",
            hint=f"use at most {n_used}, or `layers: all`",
        )
    match layers:
        case "all":
            return Linear(("all",), (((0, 1.0),),) * n_layers)
        case "ramp":
            return Ramp(n_layers)
        case "each":
            return _each(n_layers, sorted(set(used_layers)))
        case Blocks(blocks=n):
            return _runs("b", n, [_block(layer, n, n_layers) for layer in range(n_layers)])
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


def _word(layers: Layers) -> str:
    return "knobs of a ramp" if layers == "ramp" else type(layers).__name__.lower()


def _labels(letter: str, n: int) -> tuple[str, ...]:
    return tuple(f"{letter}{number}" for number in range(n))


def _each(n_layers: int, present: Sequence[int]) -> Linear:
    """Return a curve with one knob for every present layer; the rows of others are never read."""
    knob = {layer: position for position, layer in enumerate(present)}
    rows = tuple(((knob.get(layer, 0), 1.0),) for layer in range(n_layers))
    return Linear(tuple(f"l{layer}" for layer in present), rows)


def _runs(letter: str, n: int, owner: Sequence[int]) -> Linear:
    return Linear(_labels(letter, n), tuple(((knob, 1.0),) for knob in owner))


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
    return _runs("r", len(ranges), [owner.get(layer, 0) for layer in range(n_layers)])


def _knot(layer: int, n: int, n_layers: int) -> tuple[tuple[int, float], ...]:
    """Return the weights of the two knots around a layer; at a knot its own value, exactly."""
    knob, remainder = divmod(layer * (n - 1), n_layers - 1)
    if remainder == 0:
        return ((knob, 1.0),)
    share = remainder / (n_layers - 1)
    return ((knob, 1.0 - share), (knob + 1, share))
