"""Our own arms, through the product's own search: warm starts, sampler, race, belief.

`noisy-gp`: the sampler of docs/search.md with racing as it is by default: candidates leave early,
    so that the same items pay for more candidates; those that would be members answer the rest.
`noisy-gp, as many candidates`: the same with as many candidates as the others: what racing saves.
`noisy-gp full`, `como-cma full`: every candidate answers every item.

All search `knots_by_part` and begin with the receiver and the uniform line, which count against the
budget. What is returned is of the front that the model of all candidates believes (raw scores where
it is not trusted), the five that cover most, as of the peers'; values claimed are those believed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from returned import MOST, Point
from workbench import METHOD, OBJECTIVES, SETTINGS, Workbench, engine_seconds

from mergefront.config import (
    Budget,
    ItemCounts,
    RacingConfig,
    RunConfig,
    SamplerName,
    SearchConfig,
    TrackingConfig,
)
from mergefront.records import Evaluation
from mergefront.runs.belief import fit_belief
from mergefront.runs.history import evaluations
from mergefront.search.finish import complete_members
from mergefront.search.loop import start_search
from mergefront.search.setup import PreparedSearch, prepare_search
from mergefront.stats.pareto import covering
from mergefront.tasks import ItemSet

ARMS: dict[str, tuple[SamplerName, bool, int]] = {
    "noisy-gp": ("noisy-gp", True, 20),
    "noisy-gp, as many candidates": ("noisy-gp", True, 1),
    "noisy-gp full": ("noisy-gp", False, 1),
    "como-cma full": ("como-cma", False, 1),
}
"""Arm -> sampler, whether candidates race, and how many times the others' candidates it may have;
20: no limit but the items."""

SPACE = "knots_by_part"
_KEPT = 0.1  # of the items, for those that would be returned and have not answered everything


def prepare(
    bench: Workbench, setting: str, seed: int, arm: str, folder: Path, candidates: int
) -> PreparedSearch:
    """An ordinary run, new or resumed, but for the workbench's engine and items."""
    sampler, racing, times = ARMS[arm]
    config = RunConfig(
        name=f"{setting}.{seed}.{arm}".replace(",", "").replace(" ", "-"),
        receiver=bench.models.receiver,
        base=bench.models.base,
        donors={name: bench.models.donors[name] for name in SETTINGS[setting]},
        space=SPACE,
        objectives={name: (task,) for name, task in OBJECTIVES.items()},
        items=ItemCounts(search=bench.search_count, validation=1, test=1),
        search=SearchConfig(sampler=sampler, seed=seed, racing=RacingConfig(enabled=racing)),
        budget=Budget(candidates=candidates * times),
        tracking=TrackingConfig(enabled=False),
    )
    folder.mkdir(parents=True, exist_ok=True)
    prepared = prepare_search(config, folder)
    assert prepared.space.spec.method == METHOD
    items = ItemSet({"search": bench.search_items(seed)}, bench.tasks)
    return replace(prepared, models=bench.models, sources=bench.sources, items=items)


def run(
    bench: Workbench,
    setting: str,
    seed: int,
    arm: str,
    folder: Path,
    candidates: int,
    reference: Sequence[float],
) -> tuple[dict[str, Any], dict[str, list[Point]]]:
    """Search until the items are spent; returns the candidates and what is returned by rule."""
    prepared = prepare(bench, setting, seed, arm, folder, candidates)
    budget = candidates * sum(len(mine) for mine in bench.search_items(seed).values())
    spent = {one.number: _items(one) for one in evaluations(prepared.study, prepared.run)}
    cpu: dict[int, float] = {}
    used = time.process_time()
    kept = _KEPT if ARMS[arm][1] else 0.0
    search = start_search(prepared, lambda: bench.engine)  # which the bench closes
    for one in search.candidates(lambda: sum(spent.values()) >= (1.0 - kept) * budget):
        spent[one.number] = _items(one)
        cpu[one.number], used = time.process_time() - used, time.process_time()
    for _ in complete_members(search):
        if sum(map(_items, evaluations(prepared.study, prepared.run))) >= budget:
            break
    prepared.close()
    found = [one for one in evaluations(prepared.study, prepared.run) if not one.failure]
    cpu[found[-1].number] = cpu.get(found[-1].number, 0.0) + time.process_time() - used
    rules = {"front": believed(found, reference)}
    return {
        "dimension": prepared.space.dimension,
        "candidates": [{**_record(prepared, one), "cpu": cpu.get(one.number)} for one in found],
    }, rules


def believed(found: Sequence[Evaluation], reference: Sequence[float]) -> list[Point]:
    """What the model of all candidates would hand over: at most five of the front it believes.

    The standard error of a claim is that against all items like those asked.
    """
    names = list(OBJECTIVES)
    belief = fit_belief(found, names, dict(zip(names, reference, strict=True)))
    means_KM = belief.front_KM
    better = np.flatnonzero((means_KM > np.asarray(reference)).all(axis=1))
    rows = better if len(better) else np.arange(len(means_KM))
    points = []
    for i in covering(means_KM[rows], reference, MOST):
        number = belief.front[rows[i]]
        claimed = [belief.estimates(number)[name] for name in names]
        values, errors = [one.mean for one in claimed], [one.se for one in claimed]
        points.append(Point(number=number, values=values, errors=errors))
    return points


def _items(one: Evaluation) -> int:
    return sum(estimate.n for estimate in one.objectives.values())


def _record(prepared: PreparedSearch, one: Evaluation) -> dict[str, Any]:
    estimates = [one.objectives[name] for name in OBJECTIVES]
    return {
        "number": one.number,
        "origin": one.origin,
        "table": prepared.space.table(one.point),
        "mean": [estimate.mean for estimate in estimates],
        "se": [estimate.se for estimate in estimates],
        "partial": [estimate.partial for estimate in estimates],
        "n": [estimate.n for estimate in estimates],
        "engine": engine_seconds(one.seconds),
        "propose": one.seconds.propose,
    }
