"""How well does the model foretell what comes next? On a finished run, one lengthscale or many.

From the first n candidates of a run the scores of the next are foretold, with the error that the
model states, and compared with what was scored. Kernels: `each`, the product's, a lengthscale for
each knob; `one`, the same prior and the same search with one lengthscale for all knobs.

    python benchmarks/foretelling.py runs/digits [runs/another ...]

Printed are means over prefixes and objectives: root mean squared error in points, mean squared
standardised error (1 for a model that errs as much as it says), log density of the scores (higher
is better; a difference of 0.1 is much).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from mergefront.runs.directory import RECEIVER, RunDirectory
from mergefront.runs.history import estimates_of, evaluations, open_study, reference_point
from mergefront.sampling.gp import GaussianProcess, fit
from mergefront.sampling.gp.fitting import objective
from mergefront.sampling.gp.kernel import Kernel, noise_parts
from mergefront.stats.pareto import collapsed

Array = NDArray[np.float64]

AHEAD = 12
"""Candidates foretold from each prefix."""
PREFIXES = (20, 30, 40, 50, 65, 80, 100, 120, 140, 160, 180)


def one_scale(points_ND: Array, values_N: Array, errors_N: Array, partial_N: Array) -> Kernel:
    """The kernel that fits best with one lengthscale for all knobs."""
    knobs, noise = points_ND.shape[1], noise_parts(errors_N, partial_N)
    spread, centred_N = max(float(values_N.std()), 0.002), values_N - values_N.mean()

    def tied(theta: Array) -> tuple[float, Array]:
        full = np.array([*np.full(knobs, theta[0]), *theta[1:]])
        value, gradient = objective(full, points_ND, centred_N, noise, spread)
        return value, np.array([gradient[:-2].sum(), *gradient[-2:]])

    bounds = [(math.log(0.03), math.log(60.0)), (math.log(0.1), math.log(10.0)), (-1.0, 3.0)]
    start = np.array([math.log(0.5), 0.0, 0.0])
    found = minimize(tied, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    share = 1.0 / (1.0 + math.exp(-found[2]))
    return Kernel((math.exp(found[0]),) * knobs, math.exp(found[1]) * spread, share)


def judged(process: GaussianProcess, rows: tuple[Array, ...]) -> tuple[float, float, float]:
    """Squared error, squared standardised error and log density of scores foretold, as means."""
    points, values, errors, partial = rows
    deviation = np.sqrt(process.deviation(points) ** 2 + process.kernel.noise(errors, partial))
    off = values - process.mean(points)
    density = -0.5 * (off / deviation) ** 2 - np.log(deviation) - 0.5 * math.log(2 * math.pi)
    return float((off**2).mean()), float(((off / deviation) ** 2).mean()), float(density.mean())


def examine(path: Path) -> dict[str, Any]:
    """Mean verdicts of both kernels over the prefixes and objectives of a run."""
    run = RunDirectory.open(path)
    names = list(run.config.objectives)
    receiver = estimates_of(run.read_with_costs(RECEIVER, "search"))
    reference = list(reference_point(run.config, receiver).values())
    found = [e for e in evaluations(open_study(run), run) if not e.failure]
    table = np.array(
        [[[getattr(e.objectives[o], w) for w in ("mean", "se", "partial")] for o in names]
         for e in found]
    )  # fmt: skip
    stands = ~collapsed(table[:, :, 0], reference)
    points, table = np.array([e.point for e in found])[stands], table[stands]
    verdicts: dict[str, list[tuple[float, float, float]]] = {"each": [], "one": []}
    for n in (n for n in PREFIXES if n + AHEAD <= len(points)):
        for m in range(len(names)):
            before, after = (
                (points[part], *table[part, m].T) for part in (slice(0, n), slice(n, n + AHEAD))
            )
            process = GaussianProcess(one_scale(*before), *before)
            verdicts["one"].append(judged(process, after))
            verdicts["each"].append(judged(fit(*before), after))
    return {name: np.mean(rows, axis=0).tolist() for name, rows in verdicts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="directories of runs")
    for path in parser.parse_args().runs:
        for name, (squared, standard, density) in examine(path).items():
            error = 100 * math.sqrt(squared)
            print(f"{path.name}: lengthscales {name:4s}  error {error:.2f} points, "
                  f"standardised {standard:.2f}, log density {density:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
