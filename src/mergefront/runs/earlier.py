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
from mergefront.records import CoefficientTable, Evaluation
from mergefront.runs.directory import RECEIVER, RunDirectory
from mergefront.runs.history import estimates_of, evaluations, open_study, reference_point
from mergefront.runs.members import search_scores
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
    table: CoefficientTable
    parameters: Mapping[str, Any]


def read_earlier(folders: Sequence[str], space: Space, sources: Sources) -> list[Earlier]:
    """Return the fronts of earlier runs by search scores, at most MOST of each.

    Raises:
        RunError: a folder is no run, or its run searched other models or another method.
    """
    candidates = []
    for folder in folders:
        run = RunDirectory.open(Path(folder))
        manifest = run.manifest()
        spec = SpaceSpec.model_validate(manifest["space"])
        _check_method(run, spec, space.spec)
        aliases = _aliases(run, manifest["sources"], space, sources.file_hashes())
        earlier_space = Space.build(spec, list(run.config.donors), space.groups)
        for evaluation in _front(run, evaluations(open_study(run), run)):
            rows = earlier_space.table(evaluation.point)
            table = {aliases[donor]: row for donor, row in rows.items()}
            origin = f"earlier {run.config.name} {evaluation.number}"
            parameters = earlier_space.parameters(evaluation.point)
            candidates.append(Earlier(origin, table, parameters))
    return candidates


def _front(run: RunDirectory, history: Sequence[Evaluation]) -> list[Evaluation]:
    """The non-dominated candidates by search scores; of too many, some at even distances.

    Where an objective is a cost, collapsed candidates are left out: a silent model has the shortest
    answers.
    """
    names = list(run.config.objectives)
    candidates = [e for e in history if not e.failure and e.origin != "receiver"]
    if run.config.costs and candidates:
        corner = reference_point(run.config, estimates_of(run.read_with_costs(RECEIVER, "search")))
        scores_NM = search_scores(candidates, names)
        broken_N = collapsed(scores_NM, [corner[name] for name in names])
        candidates = [e for e, broken in zip(candidates, broken_N, strict=True) if not broken]
    if not candidates:
        return []
    rows = non_dominated(search_scores(candidates, names))
    front = sorted((candidates[i] for i in rows), key=lambda e: e.objectives[names[0]].mean)
    if len(front) <= MOST:
        return front
    places = np.linspace(0, len(front) - 1, MOST).round().astype(int)
    return [front[i] for i in places]


def _check_method(run: RunDirectory, earlier: SpaceSpec, current: SpaceSpec) -> None:
    """Coefficients of another method, or under other fixed parameters, mean something else."""
    searched = {*earlier.searched_parameters, *current.searched_parameters}
    methods = []
    for spec in (earlier, current):
        fixed = {k: v for k, v in spec.start_parameters.items() if k not in searched}
        methods.append(f"{spec.method} {fixed}" if fixed else spec.method)
    if methods[0] != methods[1]:
        raise RunError(
            f"search.transfer: {run.path} searched with method {methods[0]}, this space has "
            f"{methods[1]}: coefficients do not carry over",
            hint="drop it from search.transfer, or take a space with its method and parameters",
        )


def _aliases(run: RunDirectory, earlier: Hashes, space: Space, current: Hashes) -> dict[str, str]:
    """Alias in the earlier run -> alias here, by the files of donors and of bases that are read.

    Raises:
        RunError: one run has models that the other has not; names them.
    """
    method = method_of(space.spec.method, space.spec.start_parameters)
    sources = {source for term in method.terms(space.donors) for source in method.reads(term)}
    reads_bases = any(source.startswith("base:") for source in sources)

    def files(donor: str, hashes: Hashes) -> str:
        base = hashes.get(f"base:{donor}", {}) if reads_bases else {}
        return repr([sorted(hashes.get(donor, {}).items()), sorted(base.items())])

    current_alias = {files(donor, current): donor for donor in space.donors}
    earlier_alias = {files(donor, earlier): donor for donor in run.config.donors}
    common = [source for source in ("receiver", "base") if source in {*sources, "receiver"}]
    different: list[str] = [name for name in common if earlier.get(name) != current.get(name)]
    only_earlier = earlier_alias.keys() - current_alias.keys()
    only_current = current_alias.keys() - earlier_alias.keys()
    different += sorted(f"its donor {earlier_alias[key]}" for key in only_earlier)
    different += sorted(f"this run's donor {current_alias[key]}" for key in only_current)
    if different:
        raise RunError(
            f"search.transfer: {run.path} searched other models, by their files' hashes: "
            f"{', '.join(different)} (a donor's base counts where the method reads it)",
            hint="candidates carry over between runs on the same receiver, donors and bases only",
        )
    return {donor: current_alias[files(donor, earlier)] for donor in run.config.donors}
