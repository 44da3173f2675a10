"""How many candidates a search space needs, and which shipped space suits a budget.

Both ends are rules of thumb, in candidates a knob, from the searches in docs/search.md: 200
candidates in spaces of 8 and 16 knobs come near to what those spaces hold, while no sampler that
searches every layer by itself gets there with 12 candidates a knob.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mergefront import files
from mergefront.errors import SpaceError
from mergefront.records import Group
from mergefront.space.file import SpaceSpec, load_space
from mergefront.space.space import Space

PER_DIMENSION: Final = (7, 70)
"""Candidates per dimension, from too few to more than are worth their time; what the shipped
spaces' comments say follows from it."""
FEWEST: Final = 1 / 4
"""Candidates per dimension below which a search is refused: most knobs would never be seen to move
by themselves, so that one coefficient for each donor finds more with the same questions."""
ALWAYS: Final = 16
"""Spaces of so many knobs or fewer are never refused: a handful of candidates is somebody's trial
run."""
_NAMED: Final = 3


@dataclass(frozen=True)
class Doubt:
    """Why a budget does not suit a space: what is wrong and what to do."""

    level: Literal["error", "warning"]
    message: str
    hint: str


def suited_candidates(dimension: int | None) -> tuple[int, int] | None:
    """Candidates that suit a space of D dimensions: from, to; None without D."""
    if dimension is None:
        return None
    return max(10, PER_DIMENSION[0] * dimension), max(50, PER_DIMENSION[1] * dimension)


def doubt(space: Space, candidates: int) -> Doubt | None:
    """What speaks against searching a space with so many candidates; None if nothing does.

    A warning below `PER_DIMENSION`, an error below `FEWEST` candidates a knob.
    """
    dimension = space.dimension
    enough = max(10, PER_DIMENSION[0] * dimension)
    if candidates >= enough:
        return None
    refused = dimension > ALWAYS and candidates < FEWEST * dimension
    few = "too few" if refused else "few"
    message = f"{candidates} candidates are {few} for {dimension} dimensions"
    hint = f"allow {enough} or more (budget.candidates)"
    smaller = smaller_spaces(space, candidates)
    if smaller:
        names = ", ".join(f"{name} ({size})" for name, size in smaller)
        hint += f", or take a smaller space, by name (dimensions here): {names}"
    return Doubt("error" if refused else "warning", message, hint)


def smaller_spaces(space: Space, candidates: int) -> list[tuple[str, int]]:
    """Shipped spaces that suit a budget better, with their dimensions; at most three.

    They have the same method, fewer knobs than `space`, and bounds nearest to its own; of those
    that `candidates` suffice for the largest first, or the smallest alone if there are none.
    """
    found = []
    for name in files.shipped_names("search_spaces"):
        spec = load_space(files.find_yaml("search_spaces", name))
        size = _dimension(spec, space.donors, space.groups)
        if spec.method == space.spec.method and size is not None and size < space.dimension:
            found.append((abs(max(line.high for line in spec.knobs) - space.highest), size, name))
    nearest = [(size, name) for gap, size, name in found if gap <= min(found)[0]]
    fits = sorted((one for one in nearest if PER_DIMENSION[0] * one[0] <= candidates), reverse=True)
    return [(name, size) for size, name in (fits or sorted(nearest)[:1])[:_NAMED]]


def _dimension(spec: SpaceSpec, donors: Sequence[str], groups: Sequence[Group]) -> int | None:
    """Dimension over the models at hand; None where the space does not fit them."""
    try:
        return Space.build(spec, donors, groups).dimension
    except SpaceError:
        return None
