"""A search space: a point in [0, 1]^D -> the table of coefficients of a recipe.

Parameters of the method that are searched have the last knobs, one each.

The YAML file says which donors share knobs, which parts, how knobs spread over the layers, and
their bounds; `Space.build` fits it to the models at hand. Every pair of donor and mergeable group
is claimed exactly once, by a knob or by `frozen`; what is frozen stays the receiver's. Not here:
what a coefficient means (`merging`) and who proposes points (`propose`).

Layers -> knobs, over L layers:
- `all`: one for all; `each`: one a layer (l0, l1, ...);
- `{blocks: n}`: n contiguous runs of layers whose sizes differ by at most one, longer ones first;
- `{ranges: [[0, 3], [4, 7]]}`: explicit runs, both ends included;
- `{knots: n}`: values at n equally spaced depths from first to last layer, linear between them;
- `{cosines: n}`: the first n DCT-II basis functions cos(pi k (l + 1/2) / L), clipped to the
  bounds. Function 0 is the mean, with the knob's bounds; the others lie within half the bounds'
  width around 0 and start there.
Groups outside the layer stack go with the nearest layer: the embedding with the first, final norm
and head with the last.

Reading order: `space_file.SpaceSpec`, `Space.build`, `Space.table`; `depth` has the linear map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mergefront.depth import Blocks, Cosines, Knots, Profile, Ranges, layers_profile
from mergefront.errors import ConfigError, SpaceError
from mergefront.merging import METHODS
from mergefront.records import PARTS, Group, Part
from mergefront.space_file import TIED, KnobSpec, SpaceSpec, load_space

__all__ = [
    "Blocks",
    "Cosines",
    "Knob",
    "KnobSpec",
    "Knots",
    "Ranges",
    "Space",
    "SpaceSpec",
    "load_space",
]

_SNAP: Final = 1e-12


@dataclass(frozen=True)
class Knob:
    """One dimension: coefficient (or, for cosines, amplitude) in [low, high]."""

    name: str
    low: float
    high: float
    start: float

    def value(self, u: float) -> float:
        """Decode u in [0, 1]: linear, exact at both bounds, and exactly 0 where 0 is meant.

        What lies within 1e-12 of the bounds' width around 0 is 0, a bound included.
        """
        value = self.high if u == 1.0 else self.low + u * (self.high - self.low)
        return 0.0 if abs(value) < _SNAP * (self.high - self.low) else value

    def position(self, value: float) -> float:
        """Encode a value, clipped to the bounds, as u in [0, 1]."""
        u = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, u))


@dataclass(frozen=True)
class _Block:
    """Knobs first .. first + profile.size - 1 of some donors' groups.

    `depths` are (group name, layer that it goes with).
    """

    first: int
    profile: Profile
    donors: tuple[str, ...]
    depths: tuple[tuple[str, int], ...]
    low: float
    high: float


@dataclass(frozen=True)
class Space:
    """A search space fitted to a receiver's groups and the donors. D = `dimension` knobs."""

    spec: SpaceSpec
    donors: tuple[str, ...]
    knobs: tuple[Knob, ...]
    frozen_groups: tuple[str, ...]
    _blocks: tuple[_Block, ...]

    @classmethod
    def build(cls, spec: SpaceSpec, donors: Sequence[str], groups: Sequence[Group]) -> Space:
        """Fit a space to the models.

        Knobs for parts that the receiver has not (the head, where it is tied) vanish.

        Raises:
            SpaceError: a donor's part is claimed twice or not at all, a donor is unknown, there
                are more knobs than layers, ranges leave a layer out, nothing is left to search, or
                the method refuses candidates within the bounds.
        """
        _check_claims(spec, donors, groups)
        n_layers = 1 + max((group.layer for group in groups if group.layer is not None), default=0)
        knobs: list[Knob] = []
        blocks: list[_Block] = []
        for number, line in enumerate(spec.knobs):
            depths = tuple(
                (group.name, _depth(group, n_layers))
                for group in groups
                if group.part in line.parts
            )
            if not depths:
                continue
            where = f"knobs.{number} ({'+'.join(line.parts)})"
            profile = layers_profile(line.layers, n_layers, [depth for _, depth in depths], where)
            for owner, members in _owners(line, donors):
                blocks.append(_Block(len(knobs), profile, members, depths, line.low, line.high))
                knobs += _knobs(f"{owner}.{'+'.join(line.parts)}", line, profile)
        knobs += [
            Knob(f"parameters.{name}", one.low, one.high, one.first)
            for name, one in spec.searched.items()
        ]
        if not blocks:
            raise SpaceError("the space has no knob that moves anything in this receiver")
        frozen = tuple(group.name for group in groups if group.part in spec.frozen)
        return _checked(cls(spec, tuple(donors), tuple(knobs), frozen, tuple(blocks)))

    @property
    def dimension(self) -> int:
        """D, the number of knobs."""
        return len(self.knobs)

    @property
    def coefficient_knobs(self) -> tuple[Knob, ...]:
        """The knobs of coefficients; the method's own parameters come after them."""
        return self.knobs[: self.dimension - len(self.spec.searched)]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Parts that some candidate may change."""
        named = {part for line in self.spec.knobs for part in line.parts}
        return tuple(part for part in PARTS if part in named)

    def table(self, point: Sequence[float]) -> dict[str, dict[str, float]]:
        """Decode a point in [0, 1]^D: donor -> group -> coefficient, for every unfrozen group.

        Raises:
            ValueError: if the point has another length or leaves [0, 1].
        """
        if len(point) != self.dimension or not all(0.0 <= u <= 1.0 for u in point):
            raise ValueError(f"expected {self.dimension} values in [0, 1], found {list(point)}")
        values = [knob.value(u) for knob, u in zip(self.knobs, point, strict=True)]
        table: dict[str, dict[str, float]] = {donor: {} for donor in self.donors}
        for block in self._blocks:
            mine = values[block.first : block.first + block.profile.size]
            for name, depth in block.depths:
                value = block.profile.at(mine, depth)
                value = min(block.high, max(block.low, value))
                for donor in block.donors:
                    table[donor][name] = value
        return table

    def parameters(self, point: Sequence[float]) -> dict[str, Any]:
        """The method's parameters at a point in [0, 1]^D."""
        first = len(self.coefficient_knobs)
        values = zip(self.knobs[first:], point[first:], strict=True)
        searched = {knob.name.removeprefix("parameters."): knob.value(u) for knob, u in values}
        return {**self.spec.opening, **searched}

    def uniform_point(self, value: float | Mapping[str, float]) -> tuple[float, ...]:
        """Return the point where a donor's coefficient is `value` everywhere, clipped to bounds.

        Raises:
            SpaceError: if donors that share knobs are given different values.
        """
        by_donor = value if isinstance(value, Mapping) else dict.fromkeys(self.donors, value)
        point: list[float] = []
        for block in self._blocks:
            values = {by_donor.get(donor, 0.0) for donor in block.donors}
            if len(values) > 1:
                raise SpaceError(
                    f"tied donors {', '.join(block.donors)} cannot have different coefficients"
                )
            flat = block.profile.flat(values.pop())
            knobs = self.knobs[block.first : block.first + block.profile.size]
            point += [knob.position(one) for knob, one in zip(knobs, flat, strict=True)]
        return (*point, *(knob.position(knob.start) for knob in self.knobs[len(point) :]))

    def start_point(self) -> tuple[float, ...]:
        """Return the point where every knob has its start value."""
        return tuple(knob.position(knob.start) for knob in self.knobs)

    def receiver_point(self) -> tuple[float, ...]:
        """Return the point that decodes to coefficient 0 everywhere: the receiver itself.

        Raises:
            SpaceError: if 0 lies outside a knob's bounds.
        """
        for knob in self.coefficient_knobs:
            if not knob.low <= 0.0 <= knob.high:
                raise SpaceError(
                    f"the receiver is not in this space: knob {knob.name} lies in "
                    f"[{knob.low}, {knob.high}]",
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
            "knobs": [
                {"name": knob.name, "low": knob.low, "high": knob.high, "start": knob.start}
                for knob in self.knobs
            ],
            "frozen": list(self.frozen_groups),
        }


def _depth(group: Group, n_layers: int) -> int:
    if group.layer is not None:
        return group.layer
    return 0 if group.part == "embedding" else n_layers - 1


def _owners(line: KnobSpec, donors: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Return (name, donors that share the knobs) for each set of knobs of a line."""
    if line.donors == "tied":
        return [(TIED, tuple(donors))]
    chosen = donors if line.donors == "each" else line.donors
    return [(donor, (donor,)) for donor in chosen]


def _knobs(prefix: str, line: KnobSpec, profile: Profile) -> list[Knob]:
    middle = (line.low + line.high) / 2 if line.start is None else line.start
    half = (line.high - line.low) / 2
    starts = profile.flat(middle)
    return [
        Knob(f"{prefix}.{label}", -half, half, 0.0)
        if position in profile.waves
        else Knob(f"{prefix}.{label}", line.low, line.high, starts[position])
        for position, label in enumerate(profile.labels)
    ]


def _check_claims(spec: SpaceSpec, donors: Sequence[str], groups: Sequence[Group]) -> None:
    """Every part that the receiver has is claimed exactly once for every donor."""
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
                and any(donor in members for _, members in _owners(line, donors))
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


def _checked(space: Space) -> Space:
    """Ask the method about both corners, and about a point where no two knobs agree."""
    method, n = METHODS[space.spec.method], space.dimension
    for point in ((0.0,) * n, (1.0,) * n, tuple((i + 1) / (n + 1) for i in range(n))):
        parameters, table = space.parameters(point), space.table(point)
        for group in dict.fromkeys(name for row in table.values() for name in row):
            row = {donor: table[donor].get(group, 0.0) for donor in space.donors}
            try:
                if any(row.values()):
                    method.check_row(row, space.donors, parameters)
            except ConfigError as error:
                raise SpaceError(f"group {group}: {error.message}", hint=error.hint) from error
    return space
