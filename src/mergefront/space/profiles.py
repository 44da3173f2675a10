"""Layer-weight profiles: a recipe's coefficients as one array over source, part and depth.

`mergefront compare` shows several side by side. Not here: drawing (`runs.plots`), and where recipes
come from (`runs.compare`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergefront.merging.recipe import Recipe
from mergefront.models.anatomy import GroupIndex
from mergefront.records import PARTS, CoefficientTable, Group, Part


@dataclass(frozen=True, eq=False)
class Profile:
    """Coefficients of the donors; `layers_KPL` is NaN where a layer has no such part.

    `outside` holds what has no layer (embedding, final.norm, head): source -> group -> value.
    """

    sources: tuple[str, ...]
    parts: tuple[Part, ...]
    layers_KPL: NDArray[np.float64]
    outside: dict[str, dict[str, float]]

    @property
    def n_layers(self) -> int:
        """L, the number of language layers."""
        return int(self.layers_KPL.shape[2])

    def curve(self, source: str, part: Part) -> NDArray[np.float64]:
        """Return the (L,) coefficients of a source's part over depth; zeros for an unknown source.

        Raises:
            ValueError: if the models have no such part in their layers.
        """
        row = self.parts.index(part)
        if source not in self.sources:
            return np.where(np.isnan(self.layers_KPL[0, row]), np.nan, 0.0)
        values: NDArray[np.float64] = self.layers_KPL[self.sources.index(source), row]
        return values

    def value(self, source: str, group: str) -> float:
        """Return the coefficient of a group outside the layers; 0 for an unknown source."""
        return self.outside.get(source, {}).get(group, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: source -> part -> list over depth (None where there is none)."""
        layers = {
            source: {
                part: [None if np.isnan(c) else float(c) for c in self.curve(source, part)]
                for part in self.parts
            }
            for source in self.sources
        }
        return {"layers": layers, "outside": self.outside}


def profile(recipe: Recipe | CoefficientTable, groups: Sequence[Group]) -> Profile:
    """Lay the coefficients of a recipe or of a plain table out over depth.

    Groups that a donor does not name have 0. A recipe's patterns are expanded. Its overrides are no
    coefficients and are left out, and so is a "receiver" row: it scales no donor.
    """
    table = recipe.resolved(GroupIndex(groups)) if isinstance(recipe, Recipe) else recipe
    names = recipe.donors if isinstance(recipe, Recipe) else tuple(table)
    sources = tuple(name for name in names if name != "receiver")
    n_layers = 1 + max((group.layer for group in groups if group.layer is not None), default=-1)
    layer_parts = {group.part for group in groups if group.layer is not None}
    parts = tuple(part for part in PARTS if part in layer_parts)
    values = np.full((len(sources), len(parts), n_layers), np.nan)
    outside: dict[str, dict[str, float]] = {source: {} for source in sources}
    for row, source in enumerate(sources):
        coefficients = table.get(source, {})
        for group in groups:
            value = coefficients.get(group.name, 0.0)
            if group.layer is None:
                outside[source][group.name] = value
            else:
                values[row, parts.index(group.part), group.layer] = value
    return Profile(sources, parts, values, outside)


def distance(a: Profile, b: Profile) -> float:
    """Return the root mean square difference over all sources and groups, each weighted equally.

    A source that only one of the two has counts with 0 in the other. The distance is symmetric, 0
    for equal coefficients, and in the coefficients' own unit.

    Raises:
        ValueError: if the two are of models with other layers or parts.
    """
    if a.parts != b.parts or a.n_layers != b.n_layers:
        raise ValueError(
            f"profiles of different models: {a.n_layers} layers of {', '.join(a.parts)} against "
            f"{b.n_layers} of {', '.join(b.parts)}"
        )
    squares: list[float] = []
    for source in dict.fromkeys((*a.sources, *b.sources)):
        for part in a.parts:
            gap = a.curve(source, part) - b.curve(source, part)
            squares += [float(square) for square in gap[~np.isnan(gap)] ** 2]
        names = {*a.outside.get(source, {}), *b.outside.get(source, {})}
        squares += [(a.value(source, name) - b.value(source, name)) ** 2 for name in sorted(names)]
    return float(np.sqrt(np.mean(squares))) if squares else 0.0
