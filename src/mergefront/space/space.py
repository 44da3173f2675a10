"""A search space: a point in [0, 1]^D -> the table of coefficients of a recipe.

Parameters of the method that are searched have the last knobs, one each.

The YAML file says which donors share knobs, which parts, how knobs spread over the layers, and
their bounds; `Space.build` fits it to the models at hand. Every pair of donor and mergeable group
is claimed exactly once, by a knob or by `frozen`; what is frozen stays the receiver's. Not here:
what a coefficient means (`merging`), and the samplers, which propose points (`sampling`).

Layers -> knobs, over L layers:
- `all`: one for all; `each`: one a layer (l0, l1, ...);
- `{blocks: n}`: n contiguous runs of layers whose sizes differ by at most one, longer ones first;
- `{ranges: [[0, 3], [4, 7]]}`: explicit runs, both ends included;
- `{knots: n}`: values at n equally spaced depths from first to last layer, linear between them;
- `{cosines: n}`: the first n DCT-II basis functions cos(pi k (l + 1/2) / L), clipped to the
  bounds. Function 0 is the mean, with the knob's bounds; the others lie within half the bounds'
  width around 0 and start there;
- `ramp`: an early level, a late one and the turning point between them (`layers.Ramp`).
Groups outside the layer stack go with the nearest layer: the embedding with the first, final norm
and head with the last.

With `donors: choose` each run of layers takes one donor, or the receiver: a knob of n choices
divides [0, 1] into n equal bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mergefront.errors import ConfigError, SpaceError
from mergefront.merging.methods import METHODS, method_of
from mergefront.merging.recipe import Recipe
from mergefront.models.locate import ModelNames
from mergefront.records import PARTS, CoefficientTable, Group, Part
from mergefront.space.file import SpaceSpec
from mergefront.space.lines import CurveLine, FittedLine, Knob, check_coverage, fit_line


@dataclass(frozen=True)
class Space:
    """A search space fitted to a receiver's groups and the donors. D = `dimension` knobs."""

    spec: SpaceSpec
    donors: tuple[str, ...]
    groups: tuple[Group, ...]
    lines: tuple[FittedLine, ...]

    @classmethod
    def build(cls, spec: SpaceSpec, donors: Sequence[str], groups: Sequence[Group]) -> Space:
        """Fit a space to the models.

        There are no knobs for parts that the receiver lacks (the head, where it is tied).

        Raises:
            SpaceError: a donor's part is claimed twice or not at all, a donor is unknown, there
                are more knobs than layers, ranges leave a layer out, nothing is left to search, or
                the method refuses candidates within the bounds.
        """
        check_coverage(spec, donors, groups)
        n_layers = 1 + max((group.layer for group in groups if group.layer is not None), default=0)
        lines = tuple(
            line
            for number, knob_spec in enumerate(spec.knobs)
            for line in fit_line(number, knob_spec, donors, groups, n_layers)
        )
        if not lines:
            raise SpaceError("the space has no knob that changes a tensor of this receiver")
        space = cls(spec, tuple(donors), tuple(groups), lines)
        _check_method(space)
        return space

    @cached_property
    def knobs(self) -> tuple[Knob, ...]:
        """All D knobs: those of the lines in turn, then one for each parameter that is searched."""
        whole, start = METHODS[self.spec.method].whole, self.spec.start_parameters
        parameter_knobs = [
            Knob(f"parameters.{name}", r.low, r.high, start[name], whole=name in whole)
            for name, r in self.spec.searched_parameters.items()
        ]
        return (*(knob for line in self.lines for knob in line.knobs), *parameter_knobs)

    @property
    def dimension(self) -> int:
        """D, the number of knobs."""
        return len(self.knobs)

    @property
    def highest_coefficient(self) -> float:
        """The largest coefficient that a candidate may have."""
        return max(line.spec.high for line in self.lines)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Parts that some candidate may change."""
        searched = {part for knob_spec in self.spec.knobs for part in knob_spec.parts}
        return tuple(part for part in PARTS if part in searched)

    def table(self, point: Sequence[float]) -> dict[str, dict[str, float]]:
        """Decode a point in [0, 1]^D: donor -> group -> coefficient, for every unfrozen group.

        Raises:
            ValueError: if the point has another length or leaves [0, 1].
        """
        if len(point) != self.dimension or not all(0.0 <= u <= 1.0 for u in point):
            raise ValueError(f"expected {self.dimension} values in [0, 1], found {list(point)}")
        table: dict[str, dict[str, float]] = {donor: {} for donor in self.donors}
        for line, numbers in self._numbers(point):
            line.fill(numbers, table)
        return table

    def parameters(self, point: Sequence[float]) -> dict[str, Any]:
        """Return the method's parameters at a point in [0, 1]^D."""
        first = self.dimension - len(self.spec.searched_parameters)
        values = zip(self.knobs[first:], point[first:], strict=True)
        searched = {knob.name.removeprefix("parameters."): knob.value(u) for knob, u in values}
        return {**self.spec.start_parameters, **searched}

    def knob_values(self, point: Sequence[float]) -> dict[str, float | str]:
        """Return the value of every knob at a point in [0, 1]^D, by the knob's name."""
        return {knob.name: knob.value(u) for knob, u in zip(self.knobs, point, strict=True)}

    def recipe(self, models: ModelNames, point: Sequence[float]) -> Recipe:
        """Return the recipe of a point in [0, 1]^D."""
        return Recipe(self.spec.method, models, self.table(point), self.parameters(point))

    def encode(self, numbers: Sequence[float]) -> tuple[float, ...]:
        """Encode the knobs' numbers, clipped to bounds; knobs without one are at their start."""
        padded = [*numbers, *(knob.start for knob in self.knobs[len(numbers) :])]
        return tuple(knob.position(number) for knob, number in zip(self.knobs, padded, strict=True))

    def nearest_point(
        self, table: CoefficientTable, parameters: Mapping[str, Any]
    ) -> tuple[float, ...]:
        """Return the point whose table comes nearest to a given one, by least squares.

        Donors and groups that the table does not name count as 0 in it. Parameters that are
        searched here are clipped to their bounds; those that `parameters` lacks have their start.
        """
        numbers = [number for line in self.lines for number in line.fit(table)]
        start = self.spec.start_parameters
        for name in self.spec.searched_parameters:
            numbers.append(float(parameters.get(name, start[name])))
        return self.encode(numbers)

    def uniform_point(self, value: float | Mapping[str, float]) -> tuple[float, ...]:
        """Return the point where a donor's coefficient is `value` everywhere, clipped to bounds.

        Raises:
            SpaceError: if donors that share knobs have different values, or more than one donor
                has a value where each layer takes one donor only.
        """
        by_donor = value if isinstance(value, Mapping) else dict.fromkeys(self.donors, value)
        return self.encode([n for line in self.lines for n in line.uniform(by_donor)])

    def start_point(self) -> tuple[float, ...]:
        """Return the point where every knob has its start value."""
        return self.encode([])

    def receiver_point(self) -> tuple[float, ...]:
        """Return the point that decodes to coefficient 0 everywhere: the receiver itself.

        Raises:
            SpaceError: if 0 lies outside a knob's bounds.
        """
        for line in self.lines:
            low, high = line.spec.low, line.spec.high
            if isinstance(line, CurveLine) and not low <= 0.0 <= high:
                raise SpaceError(
                    f"the receiver is not in this space: knob {line.knobs[0].name} lies in "
                    f"[{low}, {high}]",
                    hint="let the bounds include 0, or drop `receiver` from the warm starts",
                )
        return self.uniform_point(0.0)

    def describe(self) -> dict[str, Any]:
        """Return plain values that say what is searched."""
        return {
            "dimension": self.dimension,
            "method": self.spec.method,
            "parameters": self.spec.model_dump(mode="json")["parameters"],
            "donors": list(self.donors),
            "knobs": [_describe(knob) for knob in self.knobs],
            "frozen": [group.name for group in self.groups if group.part in self.spec.frozen],
        }

    def _numbers(self, point: Sequence[float]) -> list[tuple[FittedLine, list[float]]]:
        """Return each line with its knobs' numbers at a point."""
        pairs, first = [], 0
        for line in self.lines:
            values = point[first : first + len(line.knobs)]
            pairs.append((line, [k.number(u) for k, u in zip(line.knobs, values, strict=True)]))
            first += len(line.knobs)
        return pairs


def _describe(knob: Knob) -> dict[str, Any]:
    if knob.choices:
        start = knob.choices[int(knob.start)]
        return {"name": knob.name, "choices": list(knob.choices), "start": start}
    return {"name": knob.name, "low": knob.low, "high": knob.high, "start": knob.start}


def _check_method(space: Space) -> None:
    """Ask the method about both corners, and about a point where no two knobs agree.

    Raises:
        SpaceError: the method refuses the coefficients of a group there.
    """
    n = space.dimension
    for point in ((0.0,) * n, (1.0,) * n, tuple((i + 1) / (n + 1) for i in range(n))):
        method, table = method_of(space.spec.method, space.parameters(point)), space.table(point)
        for group in dict.fromkeys(name for row in table.values() for name in row):
            row = {donor: table[donor].get(group, 0.0) for donor in space.donors}
            try:
                if any(row.values()):
                    method.check_row(row, space.donors)
            except ConfigError as error:
                raise SpaceError(f"group {group}: {error.message}", hint=error.hint) from error
