"""The benchmark that decides: our search against the peers' algorithms, on the zoo, in vLLM.

Every arm gets the items of 100 candidates x (400 + 400) items in each of three settings, by seed on
the same items; what it returns, at most five points, is judged on 4,000 + 4,000 fresh items. How
the peers are configured, with sources and departures: `peers.py`. Kill it at any moment; the same
command goes on. Seed by seed, so that a part of it is balanced.

    python benchmarks/search/run.py --seeds 5 --out DIR
    python benchmarks/search/table.py DIR --json benchmarks/search/results.json --plot FILE.svg
    python benchmarks/search/run.py --quick --out DIR       # two minutes, to see it work

DIR/runs has one JSON a run (setting, seed, arm), DIR/judge the marks of every judged recipe,
DIR/ours ordinary run directories.

Reading order: `run.py`, `workbench.py` (engine and items), `peers.py`, `ours.py`, `returned.py`,
`table.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import best
import judging
import ours
from peers import PEERS, spec_of
from returned import Point, best_sum, raw_front
from workbench import OBJECTIVES, SETTINGS, Items, Workbench, estimates, reference

from mergefront.files import write_text

ARMS = (*PEERS, *ours.ARMS)
CANDIDATES = 100


def run_peer(
    bench: Workbench, setting: str, seed: int, arm: str, candidates: int
) -> dict[str, Any]:
    """Search with a peer's algorithm; every candidate answers all items."""
    space, items = bench.space(setting, spec_of(arm)), bench.search_items(seed)
    proposals = PEERS[arm](space, seed, candidates)
    found: list[dict[str, Any]] = []
    began, used = time.perf_counter(), time.process_time()
    table = next(proposals)
    for number in range(candidates):
        proposed = time.perf_counter() - began
        asked = bench.ask(bench.recipe(table), items)
        scores = estimates(asked, items)
        found.append({
            "number": number,
            "table": {donor: dict(row) for donor, row in table.items()},
            "mean": [scores[o].mean for o in OBJECTIVES],
            "se": [scores[o].se for o in OBJECTIVES],
            "n": [scores[o].n for o in OBJECTIVES],
            "engine": asked.seconds,
            "propose": proposed,
            "cpu": time.process_time() - used,
        })  # fmt: skip
        began, used = time.perf_counter(), time.process_time()
        try:
            table = proposals.send(found[-1]["mean"])
        except StopIteration:
            break
    return {"dimension": space.dimension, "candidates": found}


def receiver_means(bench: Workbench, items: Items) -> list[float]:
    """The receiver's scores on some items."""
    scores = estimates(bench.ask(bench.receiver, items), items)
    return [scores[o].mean for o in OBJECTIVES]


def rules_of(
    arm: str, candidates: list[dict[str, Any]], origin: list[float]
) -> dict[str, list[Point]]:
    """What a peer returns, by rule."""
    rules = {"front": raw_front(candidates, origin)}
    if arm == "mergekit-evolve":
        rules["best"] = best_sum(candidates)
    return rules


def search(bench: Workbench, args: argparse.Namespace, key: tuple[str, int, str]) -> dict[str, Any]:
    """One run, whole: its candidates and what it returns by each of its rules."""
    setting, seed, arm = key
    began = time.perf_counter()
    origin = list(reference(receiver_means(bench, bench.search_items(seed))))
    if arm in PEERS:
        run = run_peer(bench, setting, seed, arm, args.candidates)
        rules = rules_of(arm, run["candidates"], origin)
    else:
        folder = args.out / "ours"
        run, rules = ours.run(bench, setting, seed, arm, folder, args.candidates, origin)
    return {
        "setting": setting, "seed": seed, "arm": arm, "search_reference": origin, **run,
        "returned": rules, "items": sum(sum(one["n"]) for one in run["candidates"]),
        "engine": sum(one["engine"] for one in run["candidates"]),
        "propose": sum(one["propose"] for one in run["candidates"]),
        "wall": time.perf_counter() - began,
    }  # fmt: skip


def do(bench: Workbench, args: argparse.Namespace, key: tuple[str, int, str]) -> None:
    """Do a run, or what is left of it: search, then judging what it returned."""
    path, arm = judging.path_of(args.out, *key), key[2]
    if not path.is_file():
        write_text(path, json.dumps(search(bench, args, key)))
    run, began, asked = json.loads(path.read_text()), time.perf_counter(), 0
    if arm in PEERS:  # what is returned follows from what was scored
        run["returned"] = rules_of(arm, run["candidates"], run["search_reference"])
        write_text(path, json.dumps(run))
    points = [point for rule in run["returned"].values() for point in rule]
    for number in dict.fromkeys(point["number"] for point in points):
        asked += judging.judge(bench, args.out, judging.recipe_of(bench, run, number))
    if asked or points:
        print(f"{key}: {len(run['candidates'])} candidates, {run['items']} items, engine "
              f"{run['engine']:.0f} s, proposing {run['propose']:.0f} s; {asked} judged in "
              f"{time.perf_counter() - began:.0f} s", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where results go, and lie already")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--candidates", type=int, default=CANDIDATES)
    parser.add_argument("--quick", action="store_true", help="small, to see it work")
    args = parser.parse_args()
    bench = Workbench()
    if args.quick:
        bench, args.seeds, args.candidates = Workbench(60, 300), 2, 16
    (args.out / "runs").mkdir(parents=True, exist_ok=True)
    judging.keep_counts(bench, args.out)
    judging.judge(bench, args.out, bench.receiver)
    for seed in range(args.seeds):
        for setting in args.settings:
            for arm in args.arms:
                do(bench, args, (setting, seed, arm))
    for setting in args.settings:
        print(f"{setting}: {best.judge(bench, args.out, setting)} judged for the best front")
    bench.engine.close()


if __name__ == "__main__":
    main()
