"""How often the 95 % intervals of `mergefront.statistics` cover the truth (its docstrings' source).

Simulates paired 0/1 scores that correlate within clusters and between models, at cluster counts
from 60 to 2,000. Minutes on one core: `python benchmarks/coverage.py`.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from mergefront.pareto import hypervolume
from mergefront.statistics import hypervolume_difference, hypervolume_interval, paired_difference

FRONT = np.array([[0.25, 0.93], [0.5, 0.92], [0.6, 0.9], [0.68, 0.86], [0.72, 0.8]])
OTHER = np.array([[0.25, 0.93], [0.45, 0.9], [0.55, 0.88], [0.6, 0.8]])
REFERENCE = [0.25, 0.75]
BETWEEN, WITHIN = 0.5, 0.2  # correlation of latent scores: item shared by models, cluster


def scores(rng: np.random.Generator, means_K: np.ndarray, clusters_N: np.ndarray) -> np.ndarray:
    """Scores of K models on N items, 0 or 1, with the given means."""
    cluster = rng.normal(size=clusters_N.max() + 1)[clusters_N]
    item = rng.normal(size=len(clusters_N))
    own = rng.normal(size=(len(means_K), len(clusters_N)))
    latent = WITHIN**0.5 * cluster + BETWEEN**0.5 * item + (1 - WITHIN - BETWEEN) ** 0.5 * own
    return (latent < norm.ppf(means_K)[:, None]).astype(float)


def clusters(rng: np.random.Generator, count: int, largest: int) -> np.ndarray:
    return np.repeat(np.arange(count), rng.integers(1, largest + 1, count))


def paired(count: int, largest: int, mean: float, gain: float, runs: int = 3000) -> float:
    rng = np.random.default_rng([count, largest, int(100 * mean)])
    covered = 0
    for _ in range(runs):
        labels = clusters(rng, count, largest)
        a, b = scores(rng, np.array([mean + gain, mean]), labels)
        found = paired_difference(a, b, labels.tolist())
        covered += found.low <= gain <= found.high
    return covered / runs


def volumes(count: int, largest: int, runs: int) -> tuple[float, float]:
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
    return covered[0] / runs, covered[1] / runs


def main() -> None:
    print("paired difference: clusters, largest cluster, mean, gain, coverage")
    for count in (60, 100, 150):
        for largest, mean, gain in (
            (1, 0.6, 0.05),
            (4, 0.6, 0.05),
            (4, 0.93, -0.02),
            (8, 0.5, 0.3),
        ):
            print(
                count, largest, mean, gain, f"{paired(count, largest, mean, gain):.3f}", flush=True
            )
    print("hypervolume: clusters, largest cluster, coverage of the value, of a difference")
    for count, largest in ((60, 1), (60, 4), (100, 4), (150, 4), (500, 1), (2000, 1)):
        one, two = volumes(count, largest, 600 if count >= 500 else 1500)
        print(count, largest, f"{one:.3f}", f"{two:.3f}", flush=True)


if __name__ == "__main__":
    main()
