"""One line of a search space, fitted to models: its knobs, and the coefficients that they set.

A `Knob` is one dimension. A `CurveLine` lays a curve over depth for its donors. In a `ChoiceLine`
each run of layers takes one donor, or the receiver. Not here: the file (`file`), all lines together
(`space`). Shape: S knobs of a line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mergefront.errors import SpaceError
from mergefront.records import PARTS, CoefficientTable, Group
from mergefront.space.file import CHOOSE, TIED, KnobSpec, SpaceSpec
from mergefront.space.layers import Curve, Linear, curve_of

RECEIVER: Final = "receiver"
_FITTED_LEVELS: Final = 21
"""How many levels the fit of a choice tries, from low to high."""
_SNAP: Final = 1e-12


@dataclass(frozen=True)
class Knob:
    """One dimension: a number in [low, high], or one of `choices`, which share [0, 1] equally.

    A number is a coefficient, for cosines an amplitude, for a ramp's turning point a depth in
    [0, 1], or a parameter of the method. A choice's number is its position, also in `start`. If
    the knob is `whole`, the whole numbers from low to high share [0, 1] equally.
    """

    name: str
    low: float
    high: float
    start: float
    choices: tuple[str, ...] = ()
    whole: bool = False

    @property
    def bins(self) -> int:
        """How many values share [0, 1] equally; 0 if every number in [low, high] is a value."""
        return round(self.high - self.low) + 1 if self.whole else len(self.choices)

    def number(self, u: float) -> float:
        """Decode u in [0, 1]: linear, and exact at both bounds and at 0.

        A number within 1e-12 of the bounds' width around 0 is 0, even if it is a bound. Of n
        choices or whole numbers u means the one at position floor(n u), and u = 1 the last.
        """
        if self.bins:
            first = self.low if self.whole else 0.0
            return first + min(self.bins - 1, int(u * self.bins))
        value = self.high if u == 1.0 else self.low + u * (self.high - self.low)
        return 0.0 if abs(value) < _SNAP * (self.high - self.low) else value

    def value(self, u: float) -> float | str:
        """Decode u in [0, 1] for people: a number (an int if whole), or the word of a choice."""
        if self.choices:
            return self.choices[int(self.number(u))]
        return int(self.number(u)) if self.whole else self.number(u)

    def position(self, value: float) -> float:
        """Encode a number, clipped to the bounds, as u in [0, 1].

        A choice and a whole number (the nearest one) become the middle of their bin.
        """
        if self.choices:
            return (value + 0.5) / len(self.choices)
        if self.whole:
            return (round(min(self.high, max(self.low, value))) - self.low + 0.5) / self.bins
        u = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, u))


@dataclass(frozen=True)
class _Line:
    """`group_layers` are pairs: a group of the line's parts, and the layer whose value it takes."""

    spec: KnobSpec
    knobs: tuple[Knob, ...]
    donors: tuple[str, ...]
    group_layers: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class CurveLine(_Line):
    """A curve over depth that all `donors` share."""

    curve: Curve

    def fill(self, numbers: Sequence[float], table: dict[str, dict[str, float]]) -> None:
        """Enter the coefficients that S knobs' numbers give into a table."""
        for group, layer in self.group_layers:
            value = self.curve.value_at(numbers, layer)
            value = min(self.spec.high, max(self.spec.low, value))
            for donor in self.donors:
                table[donor][group] = value

    def uniform(self, by_donor: Mapping[str, float]) -> tuple[float, ...]:
        """Return the knobs' numbers that give every donor its value everywhere, before clipping.

        Raises:
            SpaceError: donors that share knobs have different values.
        """
        values = {by_donor.get(donor, 0.0) for donor in self.donors}
        if len(values) > 1:
            raise SpaceError(
                f"tied donors {', '.join(self.donors)} cannot have different coefficients"
            )
        return self.curve.constant(values.pop())

    def fit(self, table: CoefficientTable) -> tuple[float, ...]:
        """Return the knobs' numbers that come nearest to a table, by least squares."""
        target = [
            table.get(donor, {}).get(group, 0.0)
            for group, _ in self.group_layers
            for donor in self.donors
        ]
        layers = [layer for _, layer in self.group_layers for _ in self.donors]
        return self.curve.fit(target, layers, self.spec.low, self.spec.high)


@dataclass(frozen=True)
class ChoiceLine(_Line):
    """Runs of layers, each of which takes the receiver or one of `donors`, at a common level.

    The level has the first knob, unless the line's bounds are equal. Then each run has one: its
    pick, 0 for the receiver and k for the k-th donor. `curve` says which run a layer is in.
    """

    curve: Linear

    def fill(self, numbers: Sequence[float], table: dict[str, dict[str, float]]) -> None:
        """Enter the coefficients that S knobs' numbers give into a table."""
        level, picks = self._split(numbers)
        for group, layer in self.group_layers:
            pick = picks[self._run(layer)]
            for position, donor in enumerate(self.donors, 1):
                table[donor][group] = level if pick == position else 0.0

    def uniform(self, by_donor: Mapping[str, float]) -> tuple[float, ...]:
        """Return the numbers that give one donor its value everywhere and the others none.

        Raises:
            SpaceError: more than one donor has a value.
        """
        donors = [donor for donor in self.donors if by_donor.get(donor, 0.0) != 0.0]
        if len(donors) > 1:
            raise SpaceError(
                f"each layer takes one donor in this space, not {' and '.join(donors)} together"
            )
        if not donors:
            return self._join(self.spec.start_value, [0] * self.curve.size)
        pick = 1 + self.donors.index(donors[0])
        return self._join(by_donor[donors[0]], [pick] * self.curve.size)

    def fit(self, table: CoefficientTable) -> tuple[float, ...]:
        """Return numbers near to a table: the best picks at some levels, then their best level."""
        runs: list[list[list[float]]] = [[] for _ in range(self.curve.size)]
        for group, layer in self.group_layers:
            cell = [table.get(donor, {}).get(group, 0.0) for donor in self.donors]
            runs[self._run(layer)].append(cell)
        targets = [np.array(cells) if cells else np.zeros((1, len(self.donors))) for cells in runs]
        options = np.vstack([np.zeros(len(self.donors)), np.eye(len(self.donors))])
        best_picks, least = [0] * len(runs), np.inf
        for level in np.linspace(self.spec.low, self.spec.high, _FITTED_LEVELS):
            errors = np.array(
                [[((t - level * option) ** 2).sum() for option in options] for t in targets]
            )
            total = float(errors.min(axis=1).sum())
            if total < least - 1e-15:  # of equally good levels the lowest
                best_picks, least = [int(pick) for pick in errors.argmin(axis=1)], total
        picked = [t[:, pick - 1] for t, pick in zip(targets, best_picks, strict=True) if pick]
        level = float(np.concatenate(picked).mean()) if picked else self.spec.start_value
        return self._join(min(self.spec.high, max(self.spec.low, level)), best_picks)

    def _run(self, layer: int) -> int:
        return self.curve.rows[layer][0][0]

    def _split(self, numbers: Sequence[float]) -> tuple[float, list[int]]:
        offset = len(self.knobs) - self.curve.size
        level = numbers[0] if offset else self.spec.low
        return level, [int(number) for number in numbers[offset:]]

    def _join(self, level: float, picks: Sequence[int]) -> tuple[float, ...]:
        level_number = (level,) if len(self.knobs) > self.curve.size else ()
        return (*level_number, *map(float, picks))


FittedLine = CurveLine | ChoiceLine


def _donor_sets(spec: KnobSpec, donors: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Return (name, donors that share the knobs) for each set of knobs of a line."""
    if spec.donors in (TIED, CHOOSE):
        return [(str(spec.donors), tuple(donors))]
    return [(donor, (donor,)) for donor in (donors if spec.donors == "each" else spec.donors)]


def fit_line(
    number: int, spec: KnobSpec, donors: Sequence[str], groups: Sequence[Group], n_layers: int
) -> list[FittedLine]:
    """Fit the `number`-th line of a file: one for each set of donors that share knobs.

    There is none if the receiver lacks the line's parts.

    Raises:
        SpaceError: more knobs than layers, or ranges that leave a layer out.
    """
    group_layers = tuple(
        (group.name, _nearest_layer(group, n_layers))
        for group in groups
        if group.part in spec.parts
    )
    if not group_layers:
        return []
    parts = "+".join(spec.parts)
    where = f"knobs.{number} ({parts})"
    curve = curve_of(spec.layers, n_layers, [layer for _, layer in group_layers], where)
    lines: list[FittedLine] = []
    for set_name, members in _donor_sets(spec, donors):
        name = f"{set_name}.{parts}"
        if spec.donors == CHOOSE:
            assert isinstance(curve, Linear)  # the file's check allows runs of layers only
            level = Knob(f"{name}.level", spec.low, spec.high, spec.start_value)
            # A search starts with the first donor in every run.
            ends, words = (0.0, float(len(members)), 1.0), (RECEIVER, *members)
            picks = [Knob(f"{name}.{run}", *ends, words) for run in curve.labels]
            knobs = (*([level] if spec.low < spec.high else []), *picks)
            lines.append(ChoiceLine(spec, knobs, members, group_layers, curve))
        else:
            ranges = curve.ranges(spec.low, spec.high, spec.start_value)
            knob_ranges = zip(curve.labels, ranges, strict=True)
            knobs = tuple(Knob(f"{name}.{label}", *ends) for label, ends in knob_ranges)
            lines.append(CurveLine(spec, knobs, members, group_layers, curve))
    return lines


def _nearest_layer(group: Group, n_layers: int) -> int:
    """Return a group's layer; outside the stack the first for the embedding, else the last."""
    if group.layer is not None:
        return group.layer
    return 0 if group.part == "embedding" else n_layers - 1


def check_coverage(spec: SpaceSpec, donors: Sequence[str], groups: Sequence[Group]) -> None:
    """Refuse a space in which a part of the receiver is not claimed exactly once for each donor.

    Raises:
        SpaceError: naming the part, the donor and the lines.
    """
    for number, line in enumerate(spec.knobs):
        named_donors = line.donors if isinstance(line.donors, tuple) else ()
        unknown = [donor for donor in named_donors if donor not in donors]
        if unknown:
            raise SpaceError(
                f"knobs.{number}: unknown donor {unknown[0]!r}, the donors are {', '.join(donors)}"
            )
    present = {group.part for group in groups}
    for part in (part for part in PARTS if part in present):
        for donor in donors:
            claims = ["frozen"] * (part in spec.frozen) + [
                f"knobs.{number}"
                for number, line in enumerate(spec.knobs)
                if part in line.parts
                and any(donor in members for _, members in _donor_sets(line, donors))
            ]
            if not claims:
                raise SpaceError(
                    f"part {part!r} of donor {donor!r} is not claimed",
                    hint=f"give it a knob, or list it: `frozen: [{part}]`",
                )
            if len(claims) > 1:
                raise SpaceError(
                    f"part {part!r} of donor {donor!r} is claimed {len(claims)} times: "
                    f"{', '.join(claims)}"
                )
