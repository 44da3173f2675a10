"""From a folder of runs to the rows of the table: one for each run and rule of returning.

Score of a run: hypervolume of what it returned by the judge's scores, over that of the best front
ever found in the setting; reference point: the receiver's reasoning and 0.8 of its perception on
the judge items. Its interval is over items, clustered by scan. Bias is what was claimed minus what
was judged. `held` is the share of claims (points x objectives) whose 95 % interval, claimed value
+- 1.96 errors of claim and judge together, holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import best
import judging
import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from workbench import OBJECTIVES, SETTINGS, reference

from mergefront import stats
from mergefront.stats.pareto import hypervolume, non_dominated

Row = dict[str, Any]


class Judge:
    """What the judge items say, by recipe."""

    def __init__(self, out: Path) -> None:
        self.out, self.bench = out, judging.bench_of(out)
        receiver = judging.judged(out, self.bench.receiver)
        assert receiver is not None, "the receiver is judged before anything is searched"
        self.receiver = [float(marks.mean()) for marks in receiver]
        self.reference = reference(self.receiver)

    def of_run(self, run: judging.Run, numbers: Sequence[int]) -> list[NDArray[np.float64]] | None:
        """For each objective the marks (K, N) of some candidates; None if one is not judged."""
        recipes = [judging.recipe_of(self.bench, run, number) for number in numbers]
        found = [judging.judged(self.out, recipe) for recipe in recipes]
        if not found or any(marks is None for marks in found):
            return None
        tables = [marks for marks in found if marks is not None]
        return [np.array([marks[m] for marks in tables]) for m in range(len(OBJECTIVES))]


def rows_of(judge: Judge, runs: Sequence[judging.Run]) -> Iterator[Row]:
    """One row for each run and rule whose points have been judged."""
    for run in runs:
        for rule, points in run["returned"].items():
            marks = judge.of_run(run, [point["number"] for point in points])
            if marks is None:
                print(f"{run['setting']}, seed {run['seed']}, {run['arm']}: not judged yet")
                continue
            upto = run["candidates"]
            yield {
                "setting": run["setting"], "seed": run["seed"], "arm": name_of(run["arm"], rule),
                **_scored(judge, points, marks),
                "dimension": run["dimension"], "candidates": len(upto),
                "items": sum(sum(one["n"]) for one in upto),
                "engine": sum(one["engine"] for one in upto),
                "propose": sum(one["propose"] for one in upto),
                "cpu": _cpu(upto),
            }  # fmt: skip


def name_of(arm: str, rule: str) -> str:
    """What a row is called."""
    if rule == "front":
        return arm
    return f"{arm}, one best"


def _cpu(candidates: Sequence[Row]) -> float | None:
    """CPU seconds of all candidates, proposals included.

    For those searched before a kill the mean of the others stands; None if none is known.
    """
    known = [one["cpu"] for one in candidates if one.get("cpu") is not None]
    return float(np.mean(known)) * len(candidates) if known else None


def _scored(judge: Judge, points: Sequence[Row], marks: Sequence[NDArray[np.float64]]) -> Row:
    clusters = judge.bench.judge_clusters
    interval = stats.hypervolume_interval(marks, clusters, judge.reference)
    judged_KM = np.column_stack([table.mean(axis=1) for table in marks])
    errors_KM = np.array([
        [stats.estimate(row, labels).se for row in table]
        for table, labels in zip(marks, clusters, strict=True)
    ]).T  # fmt: skip
    claimed_KM = np.array([point["values"] for point in points])
    gaps_KM = claimed_KM - judged_KM
    both_KM = np.hypot(errors_KM, np.array([point["errors"] for point in points]))
    return {
        "volume": hypervolume(judged_KM, judge.reference),
        "interval": [interval.low, interval.high],
        "judged": judged_KM.tolist(),
        "claimed": claimed_KM.tolist(),
        "bias": gaps_KM.mean(axis=0).tolist(),
        "held": float((np.abs(gaps_KM) <= 1.96 * both_KM).mean()),
    }


def best_fronts(judge: Judge, rows: Sequence[Row]) -> dict[str, Row]:
    """For each setting the best front ever found, its hypervolume, and who found its members."""
    found = {}
    for setting in SETTINGS:
        mine = [row for row in rows if row["setting"] == setting]
        if not mine:
            continue
        points = [(tuple(p), row["arm"]) for row in mine for p in row["judged"]]
        for recipe in best.extras(judge.out, setting):
            marks = judging.judged(judge.out, recipe)
            if marks is not None:
                points.append((tuple(float(one.mean()) for one in marks), "all together"))
        values = np.array([value for value, _ in points])
        front = non_dominated(values)
        members = {points[i][0]: points[i][1] for i in reversed(front)}
        found[setting] = {
            "volume": hypervolume(values, judge.reference),
            "members": [{"judged": list(v), "arm": arm} for v, arm in sorted(members.items())],
        }
    return found


def paired(ahead: Sequence[float]) -> dict[str, float]:
    """Mean of paired differences with its 95 % t interval; NaN bounds of a single one."""
    values = np.array(ahead, dtype=float)
    half = float("nan")
    if len(values) > 1:
        half = float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / len(values) ** 0.5)
    mean = float(values.mean())
    return {"mean": mean, "half": half, "n": len(values), "better": int((values > 0).sum())}


def differences(rows: Sequence[Row], ours: str) -> dict[str, dict[str, dict[str, float]]]:
    """By arm and setting (and over all): share of `ours` minus the arm's, paired by seed."""
    share = {(row["arm"], row["setting"], row["seed"]): row["share"] for row in rows}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        pairs = {
            (setting, seed): share[ours, setting, seed] - value
            for (name, setting, seed), value in share.items()
            if name == arm and (ours, setting, seed) in share
        }
        if arm == ours or not pairs:
            continue
        found[arm] = {
            setting: paired([gap for (where, _), gap in pairs.items() if where == setting])
            for setting in dict.fromkeys(where for where, _ in pairs)
        }
        found[arm]["all"] = paired(_seed_means(pairs))
    return found


def _seed_means(pairs: dict[tuple[str, int], float]) -> list[float]:
    """Mean over settings for each seed: settings of a seed share their items, seeds do not."""
    seeds = sorted({seed for _, seed in pairs})
    return [float(np.mean([gap for (_, s), gap in pairs.items() if s == seed])) for seed in seeds]


def summarise(out: Path) -> dict[str, Any]:
    """Everything that table and plot need."""
    judge = Judge(out)
    rows = list(rows_of(judge, judging.runs_of(out)))
    fronts = best_fronts(judge, rows)
    for row in rows:
        row["share"] = row["volume"] / fronts[row["setting"]]["volume"]
    return {
        "items": {"search": judge.bench.search_count, "judge": judge.bench.judge_count},
        "receiver": judge.receiver,
        "reference": list(judge.reference),
        "best": fronts,
        "rows": sorted(rows, key=lambda row: (row["setting"], row["arm"], row["seed"])),
    }
