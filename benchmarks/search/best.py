"""The best front ever found in a setting, by which every arm's hypervolume is divided.

All that any arm returned in any seed has been judged. To these come the candidates that all runs
together think best: one surface for each objective over candidates of all arms and seeds, in
coefficient space; of those that no other beats by posterior mean, a dozen spread evenly, are judged
as well. The best front is what of all these no other beats on the judge items; so it knows them,
every arm is measured against the same, and none can exceed 1.

Surfaces are fitted to at most 900 candidates that answered all items and stand above the reference
point, taken evenly over the runs. Items differ between seeds: that is part of the noise here.
"""

from __future__ import annotations

import json
from pathlib import Path

import judging
import numpy as np
from workbench import OBJECTIVES, SETTINGS, Workbench

from mergefront.files import write_text
from mergefront.merging.recipe import Recipe
from mergefront.sampling import gp
from mergefront.stats.pareto import covering, non_dominated

EXTRA, FITTED = 12, 900


def _file(out: Path) -> Path:
    return out / "best.json"


def pooled(bench: Workbench, out: Path, setting: str) -> list[Recipe]:
    """The candidates that all runs of a setting together think best."""
    found = [
        one
        for run in judging.runs_of(out)
        if run["setting"] == setting
        for one in run["candidates"]
        if min(one["n"]) == bench.search_count
        and np.greater(one["mean"], run["search_reference"]).all()
    ]
    groups = [group.name for group in bench.sources.groups]
    features_NF = np.array([
        [one["table"][donor].get(name, 0.0) for donor in SETTINGS[setting] for name in groups]
        for one in found
    ])  # fmt: skip
    some = np.unique(np.linspace(0, len(found) - 1, min(FITTED, len(found))).round().astype(int))
    values_NM = np.array([one["mean"] for one in found])
    errors_NM = np.array([one["se"] for one in found])
    surfaces = [
        gp.fit(features_NF[some], values_NM[some, m], errors_NM[some, m])
        for m in range(len(OBJECTIVES))
    ]
    smooth_NM = np.column_stack([surface.mean(features_NF) for surface in surfaces])
    front = non_dominated(smooth_NM)
    return [
        bench.recipe(found[front[i]]["table"])
        for i in covering(smooth_NM[front], smooth_NM.min(axis=0), EXTRA)
    ]


def judge(bench: Workbench, out: Path, setting: str) -> int:
    """Judge the pooled candidates of a setting and write down which they are."""
    recipes = pooled(bench, out, setting)
    path = _file(out)
    kept = json.loads(path.read_text()) if path.is_file() else {}
    kept[setting] = sorted({*kept.get(setting, []), *(recipe.to_json() for recipe in recipes)})
    write_text(path, json.dumps(kept))
    return sum(judging.judge(bench, out, recipe) for recipe in recipes)


def extras(out: Path, setting: str) -> list[Recipe]:
    """The pooled candidates of a setting, as far as `judge` has been called."""
    path = _file(out)
    kept = json.loads(path.read_text()) if path.is_file() else {}
    return [Recipe.from_json(text) for text in kept.get(setting, [])]
