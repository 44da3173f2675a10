"""Does searching per layer and part pay? Profile search against the uniform baseline on the zoo.

For every seed the same budget is spent twice: on `knots_by_part` (a profile over depth for each
donor and part) and on `uniform` (one coefficient for each donor, all layers alike), by the same
sampler. A third arm needs no seed: `uniform` on a square grid over the same bounds, about as many
points. All fronts are chosen by the same rule and scored again on the same validation items; the
hypervolumes are compared in pairs. Resumable: runs are ordinary runs under --runs.

    python benchmarks/search_gain.py --seeds 5 --candidates 200 --json benchmarks/search_gain.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics as stdlib
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mergefront import files, stats
from mergefront.config import RunConfig
from mergefront.engine import Engine
from mergefront.records import Seconds
from mergefront.runs.directory import RunDirectory
from mergefront.runs.front import read_front
from mergefront.search.finish import finish
from mergefront.search.loop import start_search
from mergefront.search.setup import PreparedSearch, prepare_search
from mergefront.yaml_file import read_mapping, validate

SPACES = ("knots_by_part", "uniform")
GRID = "grid"


def run_one(
    space: str, seed: int, args: argparse.Namespace, engine: Engine | None
) -> tuple[RunDirectory, Engine | None]:
    """Run one search to its front (or find it finished); hands the engine on to the next."""
    data = read_mapping(files.find_yaml("configs", "digits"))
    name = GRID if space == GRID else f"{space}-{seed}"
    data.update(name=f"gain-{name}", space="uniform" if space == GRID else space, export=None)
    data["search"] = {**data["search"], "sampler": args.sampler, "seed": seed}
    data["budget"] = {"candidates": args.candidates}
    if space == GRID:
        data["search"]["warm_start"] = []
        data["budget"] = {"candidates": int(args.candidates**0.5) ** 2}
    data["tracking"] = {"enabled": False}
    prepared = prepare_search(validate(data, RunConfig, "benchmark"), args.runs)
    run = prepared.run
    if run.front.is_file():
        return run, engine
    if space == GRID:
        _enqueue_grid(prepared, args.candidates)
    start = time.perf_counter()
    search = start_search(prepared, None if engine is None else lambda: engine)
    for evaluation in search.candidates():
        if evaluation.number % 50 == 0:
            print(f"{run.path.name}: candidate {evaluation.number}", flush=True)
    for _ in finish(search):
        pass
    print(f"{run.path.name}: {time.perf_counter() - start:.0f} s", flush=True)
    return run, search.slot.engine()


def _enqueue_grid(prepared: PreparedSearch, candidates: int) -> None:
    """Queue a square grid over the two coefficients, in place of anything the sampler would do."""
    side = int(candidates**0.5)
    known = {t.user_attrs.get("origin") for t in prepared.study.get_trials(deepcopy=False)}
    for u, v in product(np.linspace(0, 1, side), repeat=2):
        origin = f"grid {u:.3f} {v:.3f}"
        if origin not in known:
            params = {k.name: float(w) for k, w in zip(prepared.space.knobs, (u, v), strict=True)}
            prepared.study.enqueue_trial(params, user_attrs={"origin": origin})


def validation_scores(run: RunDirectory) -> tuple[list[np.ndarray], list[list[str]]]:
    """Per objective the K x N validation scores of the members, and the items' clusters."""
    members = [str(m.number) for m in read_front(run).members]
    tables, clusters = [], []
    for objective in run.config.objectives:
        rows = [
            [r for r in run.read_with_costs(name, "validation") if r.objective == objective]
            for name in members
        ]
        tables.append(np.array([[r.score for r in row] for row in rows]))
        clusters.append([r.cluster for r in rows[0]])
    return tables, clusters


def mean_seconds(run: RunDirectory) -> dict[str, float]:
    """Mean wall seconds of a candidate by phase."""
    empty = vars(Seconds())
    return {key: read_front(run).seconds.get(key, 0.0) for key in empty}


def compare_seed(
    seed: int, grid: RunDirectory, args: argparse.Namespace, engine: Engine | None
) -> tuple[dict[str, Any], Engine | None]:
    """Both searches of a seed, and the hypervolumes against one reference (search items)."""
    found = {}
    for space in SPACES:
        found[space], engine = run_one(space, seed, args, engine)
    front = read_front(found["uniform"])
    reference = [front.reference[o] for o in front.objectives]
    (a, clusters), (b, _) = (validation_scores(found[space]) for space in SPACES)
    g, _ = validation_scores(grid)
    profiles, uniform, squares = (
        stats.hypervolume_interval(scores, clusters, reference).mean for scores in (a, b, g)
    )
    gain = vars(stats.hypervolume_difference(a, b, clusters, reference))
    over_grid = vars(stats.hypervolume_difference(a, g, clusters, reference))
    print(f"seed {seed}: profiles {profiles:.4f}, uniform {uniform:.4f}, grid {squares:.4f}; gain "
          f"{gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}], over the grid "
          f"{over_grid['mean']:+.4f}", flush=True)  # fmt: skip
    row = {"seed": seed, "profiles": profiles, "uniform": uniform, "grid": squares, "gain": gain,
           "over_grid": over_grid, "seconds": mean_seconds(found["knots_by_part"])}  # fmt: skip
    return row, engine


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean gain over seeds with a 95 % t interval; prints it."""
    from scipy.stats import t

    made = {}
    for label in ("gain", "over_grid"):
        gains = [row[label]["mean"] for row in rows]
        mean, n = stdlib.mean(gains), len(gains)
        half = float(t.ppf(0.975, n - 1)) * stdlib.stdev(gains) / n**0.5 if n > 1 else float("nan")
        relative = mean / stdlib.mean(
            [row["uniform" if label == "gain" else "grid"] for row in rows]
        )
        print(f"mean {label} over {n} seeds {mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}], "
              f"{100 * relative:+.1f} %, better in {sum(g > 0 for g in gains)}")  # fmt: skip
        made[label] = {"mean": mean, "low": mean - half, "high": mean + half, "relative": relative}
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them")
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--sampler", default="como-cma")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--also", type=Path, help="JSON of an earlier call: its seeds count too")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    engine: Engine | None = None
    rows = json.loads(args.also.read_text())["rows"] if args.also else []
    grid, engine = run_one(GRID, 0, args, engine)
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        row, engine = compare_seed(seed, grid, args, engine)
        rows.append(row)
    if engine is not None:
        engine.close()
    result = {
        "machine": f"{os.cpu_count()} CPUs, {platform.platform()}",
        "date": time.strftime("%Y-%m-%d"),
        "candidates": args.candidates,
        "sampler": args.sampler,
        "rows": rows,
        "mean": summary(rows),
    }
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
