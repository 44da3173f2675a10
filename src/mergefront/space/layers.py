"""What a space file may say of layers, as a curve over the layers at hand.

Not here: the curves themselves (`curves`), donors, parts and bounds (`claims`). The definitions are
in `space`'s docstring.

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
    """Refuse an empty list; unlike `min_length`, silent where an entry is faulty already."""
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


def _kind(layers: Any) -> str | None:
    """Say which alternative is meant, so that errors speak of that one only."""
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
        _kind,
        custom_error_type="layers",
        custom_error_message="expected each, all, ramp, {blocks: n}, {knots: n}, {cosines: n} or "
        "{ranges: [[first, last], ...]}",
    ),
]


def curve_of(layers: Layers, n_layers: int, depths: Sequence[int], where: str) -> Curve:
    """Return the curve of a `layers` field over `n_layers` layers.

    `depths` are the layers that are really there to be set: an embedding alone has one.

    Raises:
        SpaceError: more knobs than there are different depths; ranges that do not fit or leave
            out one of `depths`. `where` names the line of the space.
    """
    present = len(set(depths))
    wanted = _count(layers)
    if wanted > present:
        raise SpaceError(
            f"{where}: {wanted} {_word(layers)} for {present} layer{'s' * (present != 1)}",
            hint=f"use at most {present}, or `layers: all`",
        )
    match layers:
        case "all":
            return Linear(("all",), (((0, 1.0),),) * n_layers)
        case "ramp":
            return Ramp(n_layers)
        case "each":
            return _each(n_layers, sorted(set(depths)))
        case Blocks(blocks=n):
            return _runs("b", n, [_block(layer, n, n_layers) for layer in range(n_layers)])
        case Ranges(ranges=ranges):
            return _ranges(ranges, n_layers, depths, where)
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
    """One knob for every layer that is present; the others' rows are never asked for."""
    knob = {layer: position for position, layer in enumerate(present)}
    rows = tuple(((knob.get(layer, 0), 1.0),) for layer in range(n_layers))
    return Linear(tuple(f"l{layer}" for layer in present), rows)


def _runs(letter: str, n: int, owner: Sequence[int]) -> Linear:
    return Linear(_labels(letter, n), tuple(((knob, 1.0),) for knob in owner))


def _block(layer: int, n: int, n_layers: int) -> int:
    """Which of n blocks a layer is in; the first n_layers % n blocks are longer by one."""
    size, longer = divmod(n_layers, n)
    border = longer * (size + 1)
    return layer // (size + 1) if layer < border else longer + (layer - border) // size


def _ranges(
    ranges: Sequence[tuple[int, int]], n_layers: int, depths: Sequence[int], where: str
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
    missing = sorted(set(depths) - set(owner))
    if missing:
        raise SpaceError(f"{where}: layer {missing[0]} is not claimed by any range")
    return _runs("r", len(ranges), [owner.get(layer, 0) for layer in range(n_layers)])


def _knot(layer: int, n: int, n_layers: int) -> tuple[tuple[int, float], ...]:
    """Weights of the two knots around a layer; integers keep layers at knots exact."""
    knob, rest = divmod(layer * (n - 1), n_layers - 1)
    if rest == 0:
        return ((knob, 1.0),)
    share = rest / (n_layers - 1)
    return ((knob, 1.0 - share), (knob + 1, share))
