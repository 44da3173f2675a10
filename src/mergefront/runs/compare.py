"""Layer-weight profiles of candidates and recipes side by side, and the distances between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from mergefront.errors import UserError
from mergefront.merging.recipe import Recipe
from mergefront.models.locate import locate_models
from mergefront.models.sources import Sources
from mergefront.records import TextTable
from mergefront.runs.reference import open_run, split_reference
from mergefront.runs.reopen import reopen_candidate
from mergefront.space.profiles import Profile, distance, profile


@dataclass(frozen=True)
class LabelledProfile:
    """A profile under the label that it is shown with; `folder` is that of a recipe file."""

    label: str
    profile: Profile
    folder: str = ""


def read_profile(reference: str, runs: Path) -> LabelledProfile:
    """Read the profile of a recipe file (*.json), or of RUN or RUN:PICK.

    Raises:
        UserError: the reference names no recipe file and no candidate of a run.
    """
    path = Path(reference)
    if path.suffix != ".json":
        run, pick = split_reference(reference)
        candidate = reopen_candidate(open_run(runs, run), pick)
        groups = candidate.sources.groups
        return LabelledProfile(candidate.label, profile(candidate.recipe, groups))
    if not path.is_file():
        raise UserError(f"{path}: no such recipe file")
    recipe = Recipe.read(path)
    groups = Sources.open(locate_models(recipe.models)).groups
    return LabelledProfile(path.stem, profile(recipe, groups), path.absolute().parent.name)


@dataclass(frozen=True)
class ProfileComparison:
    """Profiles under their labels, and the distance between each two (root mean square)."""

    labels: tuple[str, ...]
    profiles: tuple[Profile, ...]
    distances: dict[tuple[str, str], float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for --json."""
        return {
            "profiles": {
                label: p.to_dict() for label, p in zip(self.labels, self.profiles, strict=True)
            },
            "distances": [
                {"a": a, "b": b, "rms": value} for (a, b), value in self.distances.items()
            ],
        }

    def tables(self) -> list[TextTable]:
        """Return a table for each donor and part, then the distances."""
        tables = []
        first = self.profiles[0]
        sources = list(dict.fromkeys(s for p in self.profiles for s in p.sources))
        for source in sources:
            for part in first.parts:
                curves = [p.curve(source, part) for p in self.profiles]
                rows = [
                    [str(layer), *(f"{curve[layer]:.2f}" for curve in curves)]
                    for layer in range(first.n_layers)
                ]
                tables.append(TextTable(f"{source}, {part}", ["layer", *self.labels], rows))
        if self.distances:
            rows = [[f"{a} - {b}", f"{value:.3f}"] for (a, b), value in self.distances.items()]
            title = "distance (root mean square over groups)"
            tables.append(TextTable(title, ["pair", "rms"], rows))
        return tables


def compare_profiles(labelled: Sequence[LabelledProfile]) -> ProfileComparison:
    """Align several profiles.

    Raises:
        UserError: the recipes are for receivers of different depth, or two labels are the same.
    """
    names = [entry.label for entry in labelled]
    labels = [  # recipe files of the same name are told apart by their folder
        f"{entry.folder}/{entry.label}"
        if names.count(entry.label) > 1 and entry.folder
        else entry.label
        for entry in labelled
    ]
    if len(set(labels)) != len(labels):
        raise UserError("the same candidate is given twice", hint="leave one of them out")
    profiles = [entry.profile for entry in labelled]
    depths = {p.n_layers for p in profiles}
    if len(depths) > 1:
        raise UserError(f"receivers of different depth cannot be compared: {sorted(depths)} layers")
    distances = {
        (labels[a], labels[b]): distance(profiles[a], profiles[b])
        for a, b in combinations(range(len(profiles)), 2)
    }
    return ProfileComparison(tuple(labels), tuple(profiles), distances)
