"""How many candidates a search space needs, and which shipped space suits a budget.

Both limits are rules of thumb, in candidates a knob, from the searches in docs/search.md: 200
candidates in spaces of 8 and 16 knobs come near to the best of those spaces, while no sampler that
searches every layer by itself does so with 12 candidates a knob.
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

CANDIDATES_PER_KNOB: Final = (7, 70)
"""Fewer candidates a knob are too few, more are not worth their time. The comments of the shipped
spaces follow from it."""
LEAST_PER_KNOB: Final = 1 / 4
"""Candidates a knob below which a search is refused: the search would never see most knobs move by
themselves, so that one coefficient for each donor finds more with the same questions."""
SMALL_SPACE: Final = 16
"""Spaces of so many knobs or fewer are never refused: a handful of candidates is a trial run."""
_MOST_NAMED: Final = 3


@dataclass(frozen=True)
class BudgetProblem:
    """Why a budget does not suit a space, and what to do."""

    level: Literal["error", "warning"]
    message: str
    hint: str


def suitable_candidates(dimension: int | None) -> tuple[int, int] | None:
    """Return the least and the most candidates that suit a space of D knobs; None without D."""
    if dimension is None:
        return None
    return max(10, CANDIDATES_PER_KNOB[0] * dimension), max(50, CANDIDATES_PER_KNOB[1] * dimension)


def judge_budget(space: Space, candidates: int) -> BudgetProblem | None:
    """Return what speaks against searching a space with so many candidates, or None.

    Fewer than `CANDIDATES_PER_KNOB` give a warning, fewer than `LEAST_PER_KNOB` an error.
    """
    dimension = space.dimension
    enough = max(10, CANDIDATES_PER_KNOB[0] * dimension)
    if candidates >= enough:
        return None
    refused = dimension > SMALL_SPACE and candidates < LEAST_PER_KNOB * dimension
    few = "too few" if refused else "few"
    message = f"{candidates} candidates are {few} for {dimension} dimensions"
    hint = f"allow {enough} or more (budget.candidates)"
    smaller = smaller_spaces(space, candidates)
    if smaller:
        names = ", ".join(f"{name} ({size})" for name, size in smaller)
        hint += f", or take a smaller space, by name (dimensions here): {names}"
    return BudgetProblem("error" if refused else "warning", message, hint)


def smaller_spaces(space: Space, candidates: int) -> list[tuple[str, int]]:
    """Return at most three shipped spaces that suit a budget better, with their dimensions.

    They have the same method, fewer knobs than `space`, and the bounds nearest to its own: those
    for which `candidates` suffice, the largest first, or else the smallest alone.
    """
    smaller = []
    for name in files.shipped_names("search_spaces"):
        spec = load_space(files.find_yaml("search_spaces", name))
        size = _dimension(spec, space.donors, space.groups)
        if spec.method == space.spec.method and size is not None and size < space.dimension:
            highest = max(line.high for line in spec.knobs)
            smaller.append((abs(highest - space.highest_coefficient), size, name))
    nearest = sorted((size, name) for gap, size, name in smaller if gap <= min(smaller)[0])
    fitting = [pair for pair in reversed(nearest) if CANDIDATES_PER_KNOB[0] * pair[0] <= candidates]
    return [(name, size) for size, name in (fitting or nearest[:1])[:_MOST_NAMED]]


def _dimension(spec: SpaceSpec, donors: Sequence[str], groups: Sequence[Group]) -> int | None:
    """Return the dimension of a space over the models; None if it does not fit them."""
    try:
        return Space.build(spec, donors, groups).dimension
    except SpaceError:
        return None
