"""How often the intervals of `mergefront.stats` cover the truth, and its tests reject it.

Simulates paired 0/1 scores that correlate within clusters and between models, at cluster counts
from 60 to 2,000, and prints tables. A quarter of an hour on one core:

    python benchmarks/coverage.py --update docs/statistics.md

writes them between the markers of that page; --runs 100 is a quick look. --lengths prints the last
table alone, in a minute.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import norm

from mergefront.stats import (
    compare,
    estimate,
    holm,
    hypervolume_difference,
    hypervolume_interval,
    items_needed,
    mcnemar,
    normal_interval,
    paired_bootstrap,
    paired_difference,
    paired_p,
    wilson,
)
from mergefront.stats.pareto import hypervolume

FRONT = np.array([[0.25, 0.93], [0.5, 0.92], [0.6, 0.9], [0.68, 0.86], [0.72, 0.8]])
OTHER = np.array([[0.25, 0.93], [0.45, 0.9], [0.55, 0.88], [0.6, 0.8]])
REFERENCE = [0.25, 0.75]
BETWEEN, WITHIN, OWN = 0.5, 0.15, 0.15
# Shares of a latent score's variance: the item, whatever the model; the cluster, whatever the
# model; and what one model makes of one cluster, which is why clusters matter to differences.
MEMBERS = 8
LIMIT = 512
MARKERS = re.compile(r"(<!-- coverage -->\n).*(<!-- /coverage -->)", re.DOTALL)


def scores(rng: np.random.Generator, means_K: np.ndarray, clusters_N: np.ndarray) -> np.ndarray:
    """Scores of K models on N items, 0 or 1, with the given means."""
    count = clusters_N.max() + 1
    cluster = rng.normal(size=count)[clusters_N]
    item = rng.normal(size=len(clusters_N))
    habit = rng.normal(size=(len(means_K), count))[:, clusters_N]
    own = rng.normal(size=(len(means_K), len(clusters_N)))
    latent = WITHIN**0.5 * cluster + BETWEEN**0.5 * item + OWN**0.5 * habit
    latent = latent + (1 - WITHIN - BETWEEN - OWN) ** 0.5 * own
    return (latent < norm.ppf(means_K)[:, None]).astype(float)


def clusters(rng: np.random.Generator, count: int, largest: int) -> np.ndarray:
    return np.repeat(np.arange(count), rng.integers(1, largest + 1, count))


def intervals(count: int, largest: int, mean: float, gain: float, runs: int) -> list[float]:
    """Coverage of the t interval, the basic bootstrap (of fewer runs), and Wilson's of a mean."""
    rng = np.random.default_rng([count, largest, int(100 * mean)])
    booted = max(1, runs // 3)
    covered = np.zeros(3)
    for run in range(runs):
        labels = clusters(rng, count, largest)
        a, b = scores(rng, np.array([mean + gain, mean]), labels)
        groups = labels.tolist()
        found = paired_difference(a, b, groups)
        covered[0] += found.low <= gain <= found.high
        if run < booted:
            found = paired_bootstrap(a, b, groups, seed=run, resamples=500)
            covered[1] += found.low <= gain <= found.high
        low, high = wilson(estimate(a, groups))
        covered[2] += low <= mean + gain <= high
    return list(covered / [runs, booted, runs])


def lengths(count: int, largest: int, median: float, spread: float, runs: int) -> list[float]:
    """Coverage of the normal interval of a cost's mean, and its width as a share of Wilson's.

    Answers have log-normal lengths that correlate by WITHIN in a cluster; `spread` is the deviation
    of the logarithm. They are cut off at LIMIT tokens, and score 1 - t / LIMIT.
    """
    rng = np.random.default_rng([count, largest, int(median), int(100 * spread)])

    def drawn(labels: np.ndarray) -> np.ndarray:
        latent = WITHIN**0.5 * rng.normal(size=labels.max() + 1)[labels]
        latent = latent + (1 - WITHIN) ** 0.5 * rng.normal(size=len(labels))
        return 1.0 - np.minimum(median * np.exp(spread * latent), LIMIT) / LIMIT

    truth = drawn(np.arange(2_000_000)).mean()
    covered, share = 0, 0.0
    for _ in range(runs):
        labels = clusters(rng, count, largest)
        found = estimate(drawn(labels), labels.tolist())
        low, high = normal_interval(found)
        covered += low <= truth <= high
        wide = wilson(found)
        share += (high - low) / (wide[1] - wide[0])
    return [covered / runs, share / runs]


def rejections(count: int, largest: int, mean: float, runs: int) -> list[float]:
    """How often equal models are called different at 5 %: McNemar as if items were independent,
    the clustered t test, and any of MEMBERS after Holm's adjustment and before it."""
    rng = np.random.default_rng([count, largest, int(100 * mean), 1])
    rejected = np.zeros(4)
    for _ in range(runs):
        labels = clusters(rng, count, largest)
        table = scores(rng, np.full(MEMBERS + 1, mean), labels)
        groups = labels.tolist()
        rejected[0] += mcnemar(table[1], table[0]) < 0.05
        rejected[1] += paired_p(table[1], table[0], groups) < 0.05
        chances = [compare(row, table[0], groups).p for row in table[1:]]
        rejected[2] += min(holm(chances)) <= 0.05
        rejected[3] += min(chances) <= 0.05
    return list(rejected / runs)


def achieved_power(gain: float, discordance: float, runs: int) -> list[float]:
    """Items that `items_needed` asks for at 80 %, and how often each test then finds the gain."""
    n = items_needed(gain, discordance)
    rng = np.random.default_rng([int(1000 * gain), int(1000 * discordance)])
    found = np.zeros(2)
    for _ in range(runs):
        u = rng.random(n)
        a = (u < (discordance + gain) / 2).astype(float)
        b = (u > 1 - (discordance - gain) / 2).astype(float)
        found += paired_p(a, b, range(n)) < 0.05, mcnemar(a, b) < 0.05
    return [n, *(found / runs)]


def volumes(count: int, largest: int, runs: int) -> list[float]:
    """Coverage of a hypervolume's interval and of a difference of two."""
    rng = np.random.default_rng([count, largest])
    truth = hypervolume(FRONT, REFERENCE)
    gain = truth - hypervolume(OTHER, REFERENCE)
    covered = np.zeros(2)
    for _ in range(runs):
        ours, theirs, labels = [], [], []
        for objective in range(2):
            own = clusters(rng, count, largest)
            both = scores(rng, np.r_[FRONT[:, objective], OTHER[:, objective]], own)
            ours.append(both[: len(FRONT)])
            theirs.append(both[len(FRONT) :])
            labels.append([(objective, label) for label in own.tolist()])
        one = hypervolume_interval(ours, labels, REFERENCE, n_boot=500)
        two = hypervolume_difference(ours, theirs, labels, REFERENCE, n_boot=500)
        covered += one.low <= truth <= one.high, two.low <= gain <= two.high
    return list(covered / runs)


def percent(values: list[float]) -> list[str]:
    return [f"{100 * value:.1f}" for value in values]


def lines(title: str, columns: list[str], rows: Iterator[list[object]]) -> Iterator[str]:
    yield from ("", f"**{title}**", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|")
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"


def tables(runs: int) -> Iterator[str]:
    shapes = ((1, 0.6, 0.05), (4, 0.6, 0.05), (4, 0.93, -0.02), (8, 0.5, 0.3))
    yield from lines(
        f"95 % intervals, coverage in percent ({runs} runs a cell, the bootstrap {runs // 3})",
        ["clusters", "largest", "mean", "gain", "paired t", "paired bootstrap", "Wilson"],
        ([n, *s, *percent(intervals(n, *s, runs))] for n in (60, 100, 150, 500) for s in shapes),
    )  # fmt: skip
    yield from lines(
        f"Equal models called different at 5 %, in percent ({runs} runs a cell)",
        ["clusters", "largest", "mean", "McNemar, clusters ignored", "clustered t",
         f"any of {MEMBERS}, Holm", f"any of {MEMBERS}, unadjusted"],
        ([n, *s, *percent(rejections(n, *s, runs))]
         for n in (60, 150, 500) for s in ((1, 0.6), (4, 0.6), (8, 0.93))),
    )  # fmt: skip
    yield from lines(
        f"Power where `items_needed` promises 80 %, in percent ({runs} runs a cell)",
        ["gain", "discordance", "items", "t", "McNemar, exact"],
        ([g, d, f"{int(found[0])}", *percent(found[1:])]
         for g, d in ((0.02, 0.1), (0.03, 0.2), (0.05, 0.1), (0.1, 0.3))
         for found in [achieved_power(g, d, runs)]),
    )  # fmt: skip
    yield from lines(
        f"Hypervolumes, 95 % intervals, coverage in percent ({runs // 2} runs a cell, "
        f"{runs // 5} from 500 clusters)",
        ["clusters", "largest", "value", "difference of two"],
        ([n, largest, *percent(volumes(n, largest, runs // (5 if n >= 500 else 2)))]
         for n, largest in ((60, 1), (60, 4), (100, 4), (150, 4), (500, 1), (2000, 1))),
    )  # fmt: skip
    yield from length_table(runs)


def length_table(runs: int) -> Iterator[str]:
    shapes = ((1, 90, 0.5), (4, 90, 0.5), (4, 200, 1.0), (8, 400, 1.0))
    yield from lines(
        f"Mean lengths of answers, limit {LIMIT}: coverage of the normal 95 % interval, and its "
        f"width as a share of Wilson's, in percent ({runs} runs a cell)",
        ["clusters", "largest", "median tokens", "deviation of log", "normal", "width"],
        ([n, *s, *percent(lengths(n, *s, runs))] for n in (60, 100, 150, 500) for s in shapes),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3000)
    parser.add_argument("--update", type=Path, help="page whose marked part is replaced")
    parser.add_argument("--lengths", action="store_true", help="only the table of lengths")
    arguments = parser.parse_args()
    made = []
    for line in (length_table if arguments.lengths else tables)(arguments.runs):
        print(line, flush=True)
        made.append(line)
    if arguments.update is not None and not arguments.lengths:
        text = arguments.update.read_text()
        body = "\n".join(made).strip()
        arguments.update.write_text(MARKERS.sub(lambda m: f"{m[1]}{body}\n{m[2]}", text))


if __name__ == "__main__":
    main()
