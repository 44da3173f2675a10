"""Candidates of earlier runs on the same models, as coefficients by this run's names.

Not here: what becomes of them (`search.warm_starts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from mergefront.errors import RunError
from mergefront.merging.methods import method_of
from mergefront.models.sources import Sources
from mergefront.records import Evaluation, Table
from mergefront.runs.directory import RECEIVER, RunDirectory
from mergefront.runs.history import estimates_of, evaluations, open_study, reference_point
from mergefront.space.file import SpaceSpec
from mergefront.space.space import Space
from mergefront.stats.pareto import collapsed, non_dominated

MOST: Final = 8
"""Candidates taken of one run, evenly along its front."""

Hashes = Mapping[str, Mapping[str, str]]
"""Source -> file -> hash, as `Sources.file_hashes` and a run's manifest have them."""


@dataclass(frozen=True)
class Earlier:
    """A candidate of an earlier run, by the donors' names in this one."""

    origin: str
    table: Table
    parameters: Mapping[str, Any]


def read_earlier(folders: Sequence[str], space: Space, sources: Sources) -> list[Earlier]:
    """Return the fronts of earlier runs by search scores, at most MOST of each.

    Raises:
        RunError: a folder is no run, or its run searched other models or another method.
    """
    found = []
    for folder in folders:
        run = RunDirectory.open(Path(folder))
        manifest = run.manifest()
        spec = SpaceSpec.model_validate(manifest["space"])
        _check_method(run, spec, space.spec)
        then = manifest["sources"]
        ours = _same_donors(run, then, space, sources.file_hashes())
        study = open_study(run)
        laid = Space.build(spec, list(run.config.donors), space.groups)
        for one in _front(run, evaluations(study, run)):
            table = {ours[donor]: row for donor, row in laid.table(one.point).items()}
            origin = f"earlier {run.config.name} {one.number}"
            found.append(Earlier(origin, table, laid.parameters(one.point)))
    return found


def _front(run: RunDirectory, found: Sequence[Evaluation]) -> list[Evaluation]:
    """The non-dominated candidates by search scores; of too many some, evenly, ends kept.

    Where an objective is a cost, none that collapsed: a silent model has the shortest answers.
    """
    names = list(run.config.objectives)
    done = [one for one in found if not one.failure and one.origin != "receiver"]
    if run.config.costs and done:
        corner = reference_point(run.config, estimates_of(run.read_items(RECEIVER, "search")))
        fell = collapsed(_points(done, names), [corner[name] for name in names])
        done = [one for one, broken in zip(done, fell, strict=True) if not broken]
    if not done:
        return []
    points_NM = _points(done, names)
    front = sorted(
        (done[i] for i in non_dominated(points_NM)), key=lambda one: one.objectives[names[0]].mean
    )
    if len(front) <= MOST:
        return front
    kept = np.linspace(0, len(front) - 1, MOST).round().astype(int)
    return [front[i] for i in kept]


def _points(found: Sequence[Evaluation], names: Sequence[str]) -> np.ndarray:
    return np.array([[one.objectives[name].mean for name in names] for one in found])


def _check_method(run: RunDirectory, then: SpaceSpec, now: SpaceSpec) -> None:
    """Coefficients of another method, or under other fixed parameters, mean something else."""
    searched = {*then.searched_parameters, *now.searched_parameters}
    told = []
    for spec in (then, now):
        fixed = {k: v for k, v in spec.start_parameters.items() if k not in searched}
        told.append(f"{spec.method} {fixed}" if fixed else spec.method)
    if told[0] != told[1]:
        raise RunError(
            f"search.transfer: {run.path} searched with method {told[0]}, this space has "
            f"{told[1]}: coefficients do not carry over",
            hint="drop it from search.transfer, or take a space with its method and parameters",
        )


def _same_donors(run: RunDirectory, then: Hashes, space: Space, now: Hashes) -> dict[str, str]:
    """Earlier alias -> alias here, by the hashes of the donors and of the bases that are read.

    Raises:
        RunError: naming the models of either side that the other has not.
    """
    method = method_of(space.spec.method, space.spec.start_parameters)
    read = {source for term in method.terms(space.donors) for source in method.reads(term)}
    own = any(source.startswith("base:") for source in read)

    def files(donor: str, hashes: Hashes) -> str:
        base = hashes.get(f"base:{donor}", {}) if own else {}
        return repr([sorted(hashes.get(donor, {}).items()), sorted(base.items())])

    ours = {files(donor, now): donor for donor in space.donors}
    theirs = {files(donor, then): donor for donor in run.config.donors}
    common = [source for source in ("receiver", "base") if source in {*read, "receiver"}]
    differ: list[str] = [source for source in common if then.get(source) != now.get(source)]
    differ += sorted(f"its donor {theirs[one]}" for one in theirs.keys() - ours.keys())
    differ += sorted(f"this run's donor {ours[one]}" for one in ours.keys() - theirs.keys())
    if differ:
        raise RunError(
            f"search.transfer: {run.path} searched other models, by their files' hashes: "
            f"{', '.join(differ)} (a donor's base counts where the method reads it)",
            hint="candidates carry over between runs on the same receiver, donors and bases only",
        )
    return {donor: ours[files(donor, then)] for donor in run.config.donors}
