"""Our own arms, through the product's own search: warm starts, sampler, race, belief.

`noisy-gp`: the sampler of docs/search.md with racing as it is by default: candidates without a
    chance leave early, so that the same items pay for more candidates. What it would have returned
    after as many candidates as the others is judged as well: "first".
`noisy-gp full`, `como-cma full`: every candidate answers every item.

All search `knots_by_part` and begin with the receiver and the uniform line, which count against the
budget. What is returned is the front that the model of all candidates believes (raw scores where it
is not trusted), thinned as the peers' is; the values claimed are the believed ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from returned import MOST, Point, thin
from workbench import METHOD, OBJECTIVES, SETTINGS, Workbench, engine_seconds

from mergefront.assemble import assemble
from mergefront.belief import believe
from mergefront.config import Budget, Racing, RunConfig, SamplerName, Tracking
from mergefront.config import Items as ItemCounts
from mergefront.config import Search as SearchConfig
from mergefront.recorded import evaluations
from mergefront.records import Evaluation
from mergefront.search import Search
from mergefront.tasks import ItemSet

ARMS: dict[str, tuple[SamplerName, bool]] = {
    "noisy-gp": ("noisy-gp", True),
    "noisy-gp full": ("noisy-gp", False),
    "como-cma full": ("como-cma", False),
}
"""Arm -> sampler, and whether candidates race."""

SPACE = "knots_by_part"
_MANY = 20  # times the candidates: no limit but the items


def open_search(
    bench: Workbench, setting: str, seed: int, arm: str, folder: Path, candidates: int
) -> Search:
    """An ordinary run, new or resumed, but for the workbench's engine and items."""
    sampler, racing = ARMS[arm]
    config = RunConfig(
        name=f"{setting}.{seed}.{arm}".replace(" ", "-"),
        receiver=bench.models.receiver,
        base=bench.models.base,
        donors={name: bench.models.donors[name] for name in SETTINGS[setting]},
        space=SPACE,
        objectives={name: (task,) for name, task in OBJECTIVES.items()},
        items=ItemCounts(search=bench.search_count, validation=1, test=1),
        search=SearchConfig(sampler=sampler, seed=seed, racing=Racing(enabled=racing)),
        budget=Budget(candidates=candidates * (_MANY if racing else 1)),
        tracking=Tracking(enabled=False),
    )
    folder.mkdir(parents=True, exist_ok=True)
    search = assemble(config, folder)
    assert search.space.spec.method == METHOD
    items = ItemSet({"search": bench.search_items(seed)}, bench.tasks)
    return replace(
        search, models=bench.models, sources=bench.sources, items=items, engine=bench.engine
    )


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
    search = open_search(bench, setting, seed, arm, folder, candidates)
    budget = candidates * sum(len(mine) for mine in bench.search_items(seed).values())
    spent = {one.number: _items(one) for one in evaluations(search.study, search.run)}
    cpu: dict[int, float] = {}
    used = time.process_time()
    for one in search.candidates(lambda: sum(spent.values()) >= budget):
        spent[one.number] = _items(one)
        cpu[one.number], used = time.process_time() - used, time.process_time()
    search.release()
    found = [one for one in evaluations(search.study, search.run) if not one.failure]
    rules = {"front": believed(found, reference)}
    if len(found) > candidates:
        rules["first"] = believed(found[:candidates], reference)
    return {
        "dimension": search.space.dimension,
        "candidates": [{**_record(search, one), "cpu": cpu.get(one.number)} for one in found],
    }, rules


def believed(found: Sequence[Evaluation], reference: Sequence[float]) -> list[Point]:
    """What the model of all candidates would hand over: at most five of the front it believes.

    The standard error of a claim is the model's own and, besides, that of the luck which all
    candidates share by answering the same items: the share of their errors that the model gives to
    the constant.
    """
    names = list(OBJECTIVES)
    belief = believe(found, names, dict(zip(names, reference, strict=True)))
    rows = [belief.numbers.index(number) for number in belief.front]
    better = [row for row in rows if (belief.mean_NM[row] > np.asarray(reference)).all()]
    rows = better or rows
    by_number = {one.number: one for one in found}
    points = []
    for row in (rows[i] for i in thin(belief.mean_NM[rows], MOST)):
        one, errors = by_number[belief.numbers[row]], belief.deviation_NM[row].tolist()
        if belief.by_model and belief.model.stands_N[row]:
            errors = [
                math.sqrt(own**2 + (1 - surface.kernel.own_share) * _shared(one, name))
                for own, surface, name in zip(errors, belief.model.surfaces, names, strict=True)
            ]
        points.append(Point(number=one.number, values=belief.mean_NM[row].tolist(), errors=errors))
    return points


def _shared(one: Evaluation, objective: str) -> float:
    estimate = one.objectives[objective]
    return max(0.0, estimate.se**2 - estimate.partial**2)


def _items(one: Evaluation) -> int:
    return sum(estimate.n for estimate in one.objectives.values())


def _record(search: Search, one: Evaluation) -> dict[str, Any]:
    estimates = [one.objectives[name] for name in OBJECTIVES]
    return {
        "number": one.number,
        "origin": one.origin,
        "table": search.space.table(one.point),
        "mean": [estimate.mean for estimate in estimates],
        "se": [estimate.se for estimate in estimates],
        "partial": [estimate.partial for estimate in estimates],
        "n": [estimate.n for estimate in estimates],
        "engine": engine_seconds(one.seconds),
        "propose": one.seconds.propose,
    }
