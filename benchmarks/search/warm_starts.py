"""Are warm starts good candidates? Each on fresh questions, and against uniform at its own level.

For three settings of donors on the zoo, the candidates of `uniform`, `ramp`, `importance` and
`activations` answer the same judge items, which no search sees. `activations` is measured on the
search items of several seeds, so as to see what those matter.

- `at level`: the candidate minus the uniform one with the same mean coefficient of each donor, so
  that its shape over depth is judged and not its level: mean of both objectives, in points. A
  profile that is worth anything is above 0 here.
- `adds`: hypervolume of receiver, uniform and this start's candidates minus that of receiver and
  uniform: what a search has of it before its sampler proposes anything. More candidates always add
  something; the control is two more uniform ones, at three eighths and five eighths.

    python benchmarks/search/warm_starts.py --items 2000 --seeds 3
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from workbench import SETTINGS, Workbench, reference

from mergefront import files, stats
from mergefront.config import EngineConfig, WarmStart
from mergefront.engine import activations
from mergefront.search import warm_starts
from mergefront.space.file import load_space
from mergefront.space.space import Space
from mergefront.stats.pareto import hypervolume

REFERENCE = EngineConfig(kind="transformers", dtype="float32", threads=1)
SPEC = load_space(files.find_yaml("search_spaces", "knots_by_part"))

Marks = list[NDArray[np.float64]]
"""Objective by objective, the marks of one candidate."""


class Judge:
    """Answers of candidates to the judge items; each is asked once."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.clusters = bench.judge_clusters
        self._known: dict[str, Marks] = {}
        self.reference = reference([float(m.mean()) for m in self.of({})])

    def of(self, table: dict[str, dict[str, float]]) -> Marks:
        recipe = self.bench.recipe(table)
        if recipe.hash() not in self._known:
            asked = self.bench.ask(recipe, self.bench.judge_items)
            self._known[recipe.hash()] = list(asked.scores.values())
        return self._known[recipe.hash()]

    def difference(self, a: Marks, b: Marks) -> tuple[float, float]:
        """Mean over the objectives of a - b with its error, clusters across objectives as one."""
        moved = [(x - y) / len(x) / len(a) for x, y in zip(a, b, strict=True)]
        labels = [label for them in self.clusters for label in them]
        count = len(labels)
        found = stats.estimate(np.concatenate(moved) * count, labels)
        return 100 * found.mean, 100 * found.se

    def volume(self, them: Sequence[Marks]) -> float:
        points = [[float(m.mean()) for m in marks] for marks in them]
        return hypervolume(np.array(points), np.array(self.reference))

    def added(self, them: Sequence[Marks], more: Sequence[Marks]) -> tuple[float, float, float]:
        """Hypervolume that `more` adds to `them`, with its interval."""
        before, after = (
            [np.array([m[o] for m in s]) for o in range(2)] for s in (them, [*them, *more])
        )
        found = stats.hypervolume_difference(after, before, self.clusters, self.reference)
        return found.mean, found.low, found.high


def starts(
    bench: Workbench, space: Space, name: WarmStart, changes: activations.Changes
) -> list[warm_starts.Start]:
    """The candidates of a name in a setting; `changes` are of all donors."""
    mine = {o: {k: rows[k] for k in space.donors} for o, rows in changes.items()}
    return warm_starts.warm_points(space, [name], bench.sources, measure=lambda: mine)


def at_level(space: Space, table: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The uniform candidate with the same mean coefficient of each donor."""
    means = {donor: fmean(row.values()) for donor, row in table.items()}
    return space.table(space.uniform_point(means))


def report(judge: Judge, setting: str, measured: Sequence[activations.Changes]) -> None:
    """Print one setting's rows."""
    space = judge.bench.space(setting, SPEC)
    line = starts(judge.bench, space, "uniform", measured[0])
    first = [judge.of({}), *(judge.of(space.table(point)) for _, point in line)]
    print(f"\n{setting}: hypervolume of receiver and uniform {judge.volume(first):.4f}")
    more = [(f"uniform {v:g}", space.uniform_point(v)) for v in (0.375, 0.625)]
    rows = {"uniform": line, "two more uniform": more}
    rows |= {name: starts(judge.bench, space, name, measured[0]) for name in ("ramp", "importance")}
    for seed, changes in enumerate(measured):
        rows[f"activations, seed {seed}"] = starts(judge.bench, space, "activations", changes)
    for name, them in rows.items():
        tables = [space.table(point) for _, point in them]
        for (origin, _), table in zip(them, tables, strict=True):
            means = [100 * float(marks.mean()) for marks in judge.of(table)]
            gain, se = judge.difference(judge.of(table), judge.of(at_level(space, table)))
            scores = " ".join(f"{mean:5.1f}" for mean in means)
            print(f"  {origin:18} {scores}   at level {gain:+5.1f} ±{se:.1f}", flush=True)
        if name != "uniform":
            mean, low, high = judge.added(first, [judge.of(table) for table in tables])
            print(f"  {name} adds {mean:+.4f} [{low:+.4f}, {high:+.4f}]")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--items", type=int, default=2000, help="judge items an objective")
    parser.add_argument("--seeds", type=int, default=3, help="sets of search items to measure on")
    args = parser.parse_args()
    bench = Workbench(judge_count=args.items)
    space = bench.space("two conflicting", SPEC)
    groups = warm_starts.moved_groups(space)
    measured = [
        activations.measure(REFERENCE, bench.sources, groups, bench.search_items(seed))
        for seed in range(args.seeds)
    ]
    tables = [activations.shares(changes, bench.sources.groups) for changes in measured]
    spread = max(
        max(values) - min(values)
        for donor in space.donors
        for values in zip(*(table[donor].values() for table in tables), strict=True)
    )
    print(f"shares differ by at most {spread:.3f} between {args.seeds} sets of questions")
    judge = Judge(bench)
    for setting in SETTINGS:
        report(judge, setting, measured)


if __name__ == "__main__":
    main()
