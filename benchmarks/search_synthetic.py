"""Which sampler, and which rule for the front, on surfaces whose true front is known?

The surfaces are in `synthetic_surfaces.py`. A candidate answers 200 items of each objective, the
same ones as all others, with correlated luck, and the sampler is told mean and standard error.
Samplers move four knots for each module; `line` is one coefficient for all layers, evenly spaced.

Score: hypervolume of the TRUE accuracies of the set that a rule returns, over the hypervolume of
the true front in layer space. Rules: `raw`, the non-dominated candidates by score; `model`, those
by posterior mean of `mergefront.sampling.gp`. Bias: reported minus true accuracy of that set.

    python benchmarks/search_synthetic.py --json benchmarks/search_synthetic.json
    python benchmarks/search_synthetic.py --show benchmarks/search_synthetic.json   # tables again
    python benchmarks/search_synthetic.py --choice --json benchmarks/search_choice.json

By default 32 layers and 5 seeds: about 6 minutes on 2 cores. `--full` takes hours. `--choice` is
what the sampler `auto` rests on: few and many candidates, few and many knobs, three objectives.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import optuna
from numpy.typing import NDArray
from search_tables import DEFAULTS, PROBLEM, RULES, print_rules, print_summary, print_tables
from synthetic_surfaces import (
    REFERENCE,
    SURFACES,
    Cell,
    Examination,
    Population,
    Surface,
    decode,
    make_surface,
)

from mergefront.records import RESULT_ATTRIBUTE
from mergefront.sampling import SAMPLERS, Problem, gp, make_sampler
from mergefront.sampling.noisy_gp import NoisyGpProposer
from mergefront.sampling.replay import Tell
from mergefront.stats.pareto import collapsed, hypervolume, non_dominated

Array = NDArray[np.float64]

EVALUATIONS, LINE = (100, 200), "line"
QUICK = ("como-cma", "cma", "nsga2", "nsga3", "tpe", "qmc", "random", "noisy-gp")
"""All samplers but Optuna's GP, which takes about a second for a proposal."""
FEW_AND_MANY = (25, 50, 100)
CHOICE = (
    ("smooth", 32, 1, 4, 2), ("mixed", 32, 1, 4, 2), ("mixed", 32, 2, 4, 2),
    ("mixed", 32, 1, 32, 2), ("mixed", 32, 2, 32, 2), ("mixed", 32, 2, 4, 3),
)  # fmt: skip
"""Surface, layers, modules, knots a module, objectives: 4, 4, 8, 32, 64 and 8 knobs."""


def search(
    name: str, cell: Cell, exam: Examination, total: int
) -> tuple[Array, Array, Array, float]:
    """Return points, scores and errors in the order told, and milliseconds for a proposal."""
    dimension = cell.knots * cell.modules
    study = optuna.create_study(directions=["maximize"] * cell.objectives)
    sampler = make_sampler(
        name, Problem(dimension=dimension, seed=cell.seed, start=[0.5] * dimension,
        n_objectives=cell.objectives, reference=REFERENCE[: cell.objectives],
    ))  # fmt: skip
    study.sampler = sampler
    names = [f"k{i}" for i in range(dimension)]
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):  # as a run's: the receiver and the uniform line
        study.enqueue_trial(dict.fromkeys(names, value))
    points, means, errors, seconds = [], [], [], 0.0
    for number in range(total):
        began = time.process_time()
        trial = sampler.ask(study, names)
        point = [trial.suggest_float(name, 0.0, 1.0) for name in names]
        seconds += time.process_time() - began
        mean_M, error_M = exam(decode(point, cell), number)
        trial.set_user_attr(
            RESULT_ATTRIBUTE, {"se": {str(m): error for m, error in enumerate(error_M)}}
        )
        study.tell(trial, mean_M.tolist())
        points.append(point)
        means.append(mean_M)
        errors.append(error_M)
    return np.array(points), np.array(means), np.array(errors), 1000 * seconds / total


def line(evaluations: int, cell: Cell, exam: Examination) -> tuple[Array, Array, Array, float]:
    """The uniform line's candidates, evenly spaced: the same budget on one coefficient."""
    points_ND = np.repeat(
        np.linspace(0, 1, evaluations)[:, None], cell.knots * cell.modules, axis=1
    )
    asked = [exam(decode(point, cell), i) for i, point in enumerate(points_ND)]
    return points_ND, np.array([m for m, _ in asked]), np.array([e for _, e in asked]), 0.0


def judge(
    cell: Cell, surface: Surface, ideal: float, told: tuple[Array, Array, Array]
) -> Iterable[dict[str, Any]]:
    """Yield share of the ideal hypervolume, bias and size of the set that each rule returns."""
    standing = ~collapsed(told[1], surface.reference)
    points_ND, means_NM, errors_NM = (a[standing] for a in told)
    each = range(cell.objectives)
    fits = [gp.fit(points_ND, means_NM[:, m], errors_NM[:, m]) for m in each]
    smooth_NM = np.column_stack([fit.mean(points_ND) for fit in fits])
    checks = [fit.calibration() for fit in fits]
    for rule, reported_NM in zip(RULES, (means_NM, smooth_NM), strict=True):
        chosen = non_dominated(reported_NM)
        true_KM = np.array([surface.truth(decode(points_ND[i], cell)) for i in chosen])
        yield {
            "rule": rule,
            "share": hypervolume(true_KM, surface.reference) / ideal,
            "bias": float((reported_NM[chosen] - true_KM).mean()),
            "size": len(chosen),
            "loo_mean_square": [check.mean_square for check in checks],
            "misfit": [check.misfit for check in checks],
        }


def run_cell(
    cell: Cell, samplers: Sequence[str], evaluations: Sequence[int] = EVALUATIONS
) -> list[dict[str, Any]]:
    """Everything about one problem and seed: a row for each sampler, budget and rule."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    surface = make_surface(cell, Population())
    knots_DD = np.eye(cell.knots * cell.modules)
    basis_LD = np.column_stack([decode(knot_D, cell) for knot_D in knots_DD])
    ideal = surface.volume(np.eye(len(basis_LD)))
    exam, rows = Examination(cell, surface), []
    ceiling = {"ceiling": surface.volume(basis_LD) / ideal}
    for sampler in samplers:
        found = None if sampler == LINE else search(sampler, cell, exam, evaluations[-1])
        for n in evaluations:
            *told, ms = line(n, cell, exam) if found is None else found
            kept = tuple(a[:n] for a in told)
            for row in judge(cell, surface, ideal, kept):  # type: ignore[arg-type]
                rows.append(cell._asdict() | {"sampler": sampler, "n": n, "ms": ms} | ceiling | row)
    return rows


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Five decimals suffice, and keep the file short."""
    short: dict[str, Any] = json.loads(
        json.dumps(row), parse_float=lambda text: round(float(text), 5)
    )
    return short


def print_cost() -> None:
    """CPU time of one proposal of noisy-gp, its surfaces fitted anew and already fitted."""
    print("| knobs | candidates | objectives | ms, new scores | ms, same scores |")
    print("|---|---|---|---|---|")
    sizes = (
        (8, 100, 2),
        (8, 400, 2),
        (200, 400, 2),
        (200, 1000, 2),
        (200, 1000, 3),
        (200, 1000, 4),
    )
    for dimension, n, objectives in sizes:
        random = np.random.default_rng(0)
        points_ND = random.random((n, dimension))
        best_M = np.linspace(0.7, 0.2, objectives)
        means_NM = 0.6 - 0.5 * np.column_stack([((points_ND - t) ** 2).mean(1) for t in best_M])
        means_NM = means_NM + 0.03 * random.standard_normal(means_NM.shape)
        tells = [
            Tell(i, tuple(p.tolist()), tuple(v.tolist()), True, (0.03,) * objectives)
            for i, (p, v) in enumerate(zip(points_ND, means_NM, strict=True))
        ]
        proposer = NoisyGpProposer(
            Problem(
                dimension=dimension, seed=0, n_objectives=objectives, reference=(0.4,) * objectives
            )
        )
        clock = [time.process_time()]
        for seen in (n - 2, n - 1, n, n):  # the first warms up
            proposer.propose(tells[:seen], n)
            clock.append(time.process_time())
        spent = 1000 * np.diff(clock)
        print(f"| {dimension} | {n} | {objectives} | {spent[1:3].mean():.0f} | {spent[3]:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="8, 16 and 32 layers, 1 and 2 modules")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="other items for every candidate")
    parser.add_argument("--surfaces", nargs="+", default=SURFACES, choices=SURFACES)
    parser.add_argument("--samplers", nargs="+", default=(LINE, *QUICK), choices=(LINE, *SAMPLERS))
    parser.add_argument("--choice", action="store_true", help="the problems that `auto` rests on")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--show", type=Path, help="print the tables of an earlier --json instead")
    parser.add_argument("--cost", action="store_true", help="time of a proposal, nothing else")
    args = parser.parse_args()
    if args.cost:
        return print_cost()
    rows = json.loads(args.show.read_text()) if args.show else run_all(args)
    rows = [dict(zip(PROBLEM[-2:], DEFAULTS, strict=True)) | row for row in rows]  # of older files
    samplers = list(dict.fromkeys(row["sampler"] for row in rows))
    print_summary(rows, samplers)
    print_rules(rows)
    print_tables(rows, samplers)
    if args.json:
        lines = ",\n".join(json.dumps(row) for row in rows)
        args.json.write_text(f"[\n{lines}\n]\n")


def run_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run every problem and seed, in as many processes as asked for."""
    sizes = [(layers, m) for layers in (8, 16, 32) for m in (1, 2)] if args.full else [(32, 1)]
    shapes = [(s, *size, *DEFAULTS) for size in sizes for s in args.surfaces]
    if not args.full and "mixed" in args.surfaces:
        shapes.append(("mixed", 32, 2, *DEFAULTS))
    if args.choice:
        shapes = list(CHOICE)
    cells = [
        Cell(*shape[:3], seed, args.fresh, *shape[3:])
        for shape in shapes
        for seed in range(args.seeds)
    ]
    evaluations = FEW_AND_MANY if args.choice else EVALUATIONS
    began = time.perf_counter()
    with ProcessPoolExecutor(args.jobs) as workers:
        found = workers.map(
            run_cell, cells, [args.samplers] * len(cells), [evaluations] * len(cells)
        )
        rows = [rounded(row) for cell_rows in found for row in cell_rows]
    print(f"{len(cells)} problems, {time.perf_counter() - began:.0f} s\n")
    return rows


if __name__ == "__main__":
    main()
