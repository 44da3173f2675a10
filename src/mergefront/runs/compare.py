"""Candidates, runs and recipes -> aligned layer-weight profiles, distances, figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from mergefront.errors import RunError, UserError
from mergefront.merging.recipe import Recipe
from mergefront.models.locate import locate_models
from mergefront.models.sources import Sources
from mergefront.runs.directory import RunDirectory
from mergefront.runs.front import Member, UnvalidatedCandidate, read_front
from mergefront.runs.history import evaluations, open_study, with_tokens
from mergefront.runs.members import resolve_pick
from mergefront.runs.reopen import models_of, run_space
from mergefront.runs.status import open_run
from mergefront.space.profiles import Profile, distance, profile


@dataclass(frozen=True)
class Named:
    """A recipe with the label it is shown under, and what its run knows of it if it has one."""

    label: str
    recipe: Recipe
    sources: Sources
    member: Member | UnvalidatedCandidate | None = None
    number: int | None = None
    folder: str = ""


def resolve(reference: str, runs: Path) -> Named:
    """A recipe file (*.json), or RUN, or RUN:PICK (knee, best:OBJECTIVE, a number).

    RUN alone is RUN:knee.

    Raises:
        UserError: the reference names no recipe file and no candidate of a run.
    """
    path = Path(reference)
    if path.suffix == ".json":
        if not path.is_file():
            raise UserError(f"{path}: no such recipe file")
        recipe = Recipe.read(path)
        sources = Sources.open(locate_models(recipe.models))
        return Named(path.stem, recipe, sources, folder=path.absolute().parent.name)
    name, _, pick = reference.partition(":")
    run = open_run(runs, name)
    return candidate(run, pick or "knee")


def candidate(run: RunDirectory, pick: str) -> Named:
    """A candidate of a run by pick or number. Raises RunError if there is none."""
    front = read_front(run) if run.front.is_file() or not pick.isdigit() else None
    number = int(pick) if front is None else resolve_pick(front, pick, run.path)
    config = run.config
    study = open_study(run)
    found = {e.number: e for e in evaluations(study, run) if not e.failure}
    if number not in found:
        raise RunError(f"{run.path}: candidate {number} was not evaluated")
    space, sources = run_space(run)
    one = found[number]
    recipe = space.recipe(models_of(config), one.point)
    members = {} if front is None else {member.number: member for member in front.members}
    member = members.get(number) or UnvalidatedCandidate(
        number, with_tokens(one.objectives, config.costs)
    )
    return Named(f"{config.name}:{pick}", recipe, sources, member, number)


@dataclass(frozen=True)
class Comparison:
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

    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """(title, columns, rows): one table a donor and part, then the distances."""
        made = []
        first = self.profiles[0]
        sources = list(dict.fromkeys(s for p in self.profiles for s in p.sources))
        for source in sources:
            for part in first.parts:
                curves = [p.curve(source, part) for p in self.profiles]
                rows = [
                    [str(layer), *(f"{curve[layer]:.2f}" for curve in curves)]
                    for layer in range(first.n_layers)
                ]
                made.append((f"{source}, {part}", ["layer", *self.labels], rows))
        if self.distances:
            rows = [[f"{a} - {b}", f"{value:.3f}"] for (a, b), value in self.distances.items()]
            made.append(("distance (root mean square over groups)", ["pair", "rms"], rows))
        return made


def _labels(named: Sequence[Named]) -> list[str]:
    """Labels; recipe files of the same name are told apart by their folder."""
    labels = [one.label for one in named]
    return [
        f"{one.folder}/{one.label}" if labels.count(one.label) > 1 and one.folder else one.label
        for one in named
    ]


def compare(named: Sequence[Named]) -> Comparison:
    """Align the profiles of several recipes.

    Raises:
        UserError: the recipes are for receivers of different depth.
    """
    labels = _labels(named)
    if len(set(labels)) != len(labels):
        raise UserError("the same candidate is given twice", hint="leave one of them out")
    profiles = [profile(one.recipe, one.sources.groups) for one in named]
    depths = {p.n_layers for p in profiles}
    if len(depths) > 1:
        raise UserError(f"receivers of different depth cannot be compared: {sorted(depths)} layers")
    distances = {
        (labels[a], labels[b]): distance(profiles[a], profiles[b])
        for a, b in combinations(range(len(named)), 2)
    }
    return Comparison(tuple(labels), tuple(profiles), distances)
