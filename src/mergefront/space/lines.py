"""One line of a search space, fitted to models: its knobs, and the coefficients that they set.

A `CurveClaim` lays a curve over depth for its donors; a `ChoiceClaim` has each run of layers pick
one donor, or the receiver. Not here: the file (`space_file`), all lines together (`space`).
Shape: S knobs of a claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mergefront.errors import SpaceError
from mergefront.records import PARTS, Group, Table
from mergefront.space.curves import Curve, Linear
from mergefront.space.file import CHOOSE, TIED, KnobSpec, SpaceSpec
from mergefront.space.knobs import Knob
from mergefront.space.layers import curve_of

RECEIVER: Final = "receiver"
_LEVELS: Final = 21  # that a fit of a choice tries


@dataclass(frozen=True)
class CurveClaim:
    """A curve over depth that all `donors` share. `depths` are (group, layer that it goes with)."""

    line: KnobSpec
    knobs: tuple[Knob, ...]
    donors: tuple[str, ...]
    depths: tuple[tuple[str, int], ...]
    curve: Curve

    def fill(self, numbers: Sequence[float], table: dict[str, dict[str, float]]) -> None:
        """Enter the coefficients of S knobs' numbers into a table."""
        for name, depth in self.depths:
            value = self.curve.at(numbers, depth)
            value = min(self.line.high, max(self.line.low, value))
            for donor in self.donors:
                table[donor][name] = value

    def uniform(self, by_donor: Mapping[str, float]) -> tuple[float, ...]:
        """Return the knobs' numbers that give every donor its value everywhere, before clipping.

        Raises:
            SpaceError: donors that share knobs are given different values.
        """
        values = {by_donor.get(donor, 0.0) for donor in self.donors}
        if len(values) > 1:
            raise SpaceError(
                f"tied donors {', '.join(self.donors)} cannot have different coefficients"
            )
        return self.curve.flat(values.pop())

    def fit(self, table: Table) -> tuple[float, ...]:
        """Return the knobs' numbers that come nearest to a table, by least squares."""
        cells = [(donor, name, layer) for name, layer in self.depths for donor in self.donors]
        target = [table.get(donor, {}).get(name, 0.0) for donor, name, _ in cells]
        layers = [layer for *_, layer in cells]
        return self.curve.fit(target, layers, self.line.low, self.line.high)


@dataclass(frozen=True)
class ChoiceClaim:
    """Runs of layers that each pick the receiver or one of `donors`, at a common level.

    The level has the first knob, unless the line's bounds are equal; then one knob a run.
    `curve` says which run a layer is in.
    """

    line: KnobSpec
    knobs: tuple[Knob, ...]
    donors: tuple[str, ...]
    depths: tuple[tuple[str, int], ...]
    curve: Linear

    def fill(self, numbers: Sequence[float], table: dict[str, dict[str, float]]) -> None:
        """Enter the coefficients of S knobs' numbers into a table."""
        level, picks = self._split(numbers)
        for name, depth in self.depths:
            chosen = picks[self._run(depth)]
            for position, donor in enumerate(self.donors, 1):
                table[donor][name] = level if chosen == position else 0.0

    def uniform(self, by_donor: Mapping[str, float]) -> tuple[float, ...]:
        """Return the numbers that give one donor its value everywhere and the others none.

        Raises:
            SpaceError: more than one donor is given a value.
        """
        given = [donor for donor in self.donors if by_donor.get(donor, 0.0) != 0.0]
        if len(given) > 1:
            raise SpaceError(
                f"each layer takes one donor in this space, not {' and '.join(given)} together"
            )
        if not given:
            return self._joined(self.line.first, [0] * self.curve.size)
        pick = 1 + self.donors.index(given[0])
        return self._joined(by_donor[given[0]], [pick] * self.curve.size)

    def fit(self, table: Table) -> tuple[float, ...]:
        """Return numbers near to a table: the best picks at some levels, then their best level."""
        runs: list[list[list[float]]] = [[] for _ in range(self.curve.size)]
        for name, depth in self.depths:
            cell = [table.get(donor, {}).get(name, 0.0) for donor in self.donors]
            runs[self._run(depth)].append(cell)
        targets = [np.array(cells) if cells else np.zeros((1, len(self.donors))) for cells in runs]
        options = np.vstack([np.zeros(len(self.donors)), np.eye(len(self.donors))])
        best, least = [0] * len(runs), np.inf
        for level in np.linspace(self.line.low, self.line.high, _LEVELS):
            missed = np.array(
                [[((t - level * one) ** 2).sum() for one in options] for t in targets]
            )
            total = float(missed.min(axis=1).sum())
            if total < least - 1e-15:
                best, least = [int(pick) for pick in missed.argmin(axis=1)], total
        chosen = [t[:, pick - 1] for t, pick in zip(targets, best, strict=True) if pick]
        level = float(np.concatenate(chosen).mean()) if chosen else self.line.first
        return self._joined(min(self.line.high, max(self.line.low, level)), best)

    def _run(self, depth: int) -> int:
        return self.curve.rows[depth][0][0]

    def _split(self, numbers: Sequence[float]) -> tuple[float, list[int]]:
        offset = len(self.knobs) - self.curve.size
        level = numbers[0] if offset else self.line.low
        return level, [int(number) for number in numbers[offset:]]

    def _joined(self, level: float, picks: Sequence[int]) -> tuple[float, ...]:
        own = (level,) if len(self.knobs) > self.curve.size else ()
        return (*own, *map(float, picks))


Claim = CurveClaim | ChoiceClaim


def owners(line: KnobSpec, donors: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Return (name, donors that share the knobs) for each set of knobs of a line."""
    if line.donors in (TIED, CHOOSE):
        return [(str(line.donors), tuple(donors))]
    chosen = donors if line.donors == "each" else line.donors
    return [(donor, (donor,)) for donor in chosen]


def claims_of(
    number: int, line: KnobSpec, donors: Sequence[str], groups: Sequence[Group], n_layers: int
) -> list[Claim]:
    """Fit one line, the `number`-th of its file; no claim where the receiver has no such part.

    Raises:
        SpaceError: more knobs than layers, or ranges that leave a layer out.
    """
    depths = tuple((one.name, _depth(one, n_layers)) for one in groups if one.part in line.parts)
    if not depths:
        return []
    parts = "+".join(line.parts)
    where = f"knobs.{number} ({parts})"
    curve = curve_of(line.layers, n_layers, [depth for _, depth in depths], where)
    found: list[Claim] = []
    for owner, members in owners(line, donors):
        name = f"{owner}.{parts}"
        if line.donors == CHOOSE:
            assert isinstance(curve, Linear)  # the file's own check
            knobs = _choice_knobs(name, line, members, curve)
            found.append(ChoiceClaim(line, knobs, members, depths, curve))
        else:
            ranges = curve.ranges(line.low, line.high, line.first)
            knobs = tuple(
                Knob(f"{name}.{label}", *one)
                for label, one in zip(curve.labels, ranges, strict=True)
            )
            found.append(CurveClaim(line, knobs, members, depths, curve))
    return found


def _choice_knobs(
    name: str, line: KnobSpec, donors: Sequence[str], curve: Linear
) -> tuple[Knob, ...]:
    """The level's knob, unless it is fixed, and one a run of layers; the first donor at first."""
    level = Knob(f"{name}.level", line.low, line.high, line.first)
    words = (RECEIVER, *donors)
    picks = [Knob(f"{name}.{one}", 0.0, float(len(donors)), 1.0, words) for one in curve.labels]
    return (*((level,) if line.low < line.high else ()), *picks)


def _depth(group: Group, n_layers: int) -> int:
    if group.layer is not None:
        return group.layer
    return 0 if group.part == "embedding" else n_layers - 1


def check_claims(spec: SpaceSpec, donors: Sequence[str], groups: Sequence[Group]) -> None:
    """Refuse a space that does not claim every part that the receiver has once for every donor.

    Raises:
        SpaceError: naming the part, the donor and the lines.
    """
    for number, line in enumerate(spec.knobs):
        named = line.donors if isinstance(line.donors, tuple) else ()
        unknown = [one for one in named if one not in donors]
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
                and any(donor in members for _, members in owners(line, donors))
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
