"""Which sampler, and which rule for the front, on surfaces whose true front is known?

The surfaces are in `synthetic_surfaces.py`. A candidate answers 200 items of each objective, the
same ones as all others, with correlated luck, and the sampler is told mean and standard error.
Samplers move four knots for each module; `line` is one coefficient for all layers, evenly spaced.

Score: hypervolume of the TRUE accuracies of the set that a rule returns, over the hypervolume of
the true front in layer space. Rules: `raw`, the non-dominated candidates by score; `model`, those
by posterior mean of `mergefront.surrogate`. Bias: reported minus true accuracy of that set.

    python benchmarks/search_synthetic.py --json benchmarks/search_synthetic.json
    python benchmarks/search_synthetic.py --show benchmarks/search_synthetic.json   # tables again

By default 32 layers and 5 seeds: about 6 minutes on 2 cores. `--full` takes hours.
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
from scipy.special import stdtrit
from synthetic_surfaces import (
    KNOTS,
    REFERENCE,
    SURFACES,
    Cell,
    Examination,
    Population,
    Surface,
    decode,
    make_surface,
)

from mergefront import surrogate
from mergefront.pareto import hypervolume, non_dominated
from mergefront.propose import SAMPLERS, make_sampler
from mergefront.propose.noisy_gp import NoisyGpProposer
from mergefront.propose.replay import Tell
from mergefront.records import RESULT

Array = NDArray[np.float64]

EVALUATIONS, LINE = (100, 200), "line"
RULES = ("raw", "model")


def search(name: str, cell: Cell, exam: Examination) -> tuple[Array, Array, Array, float]:
    """Return points, scores and errors in the order told, and milliseconds for a proposal."""
    total, dimension = EVALUATIONS[-1], KNOTS * cell.modules
    study = optuna.create_study(directions=["maximize"] * 2)
    sampler = make_sampler(
        name, dimension=dimension, seed=cell.seed, start=[0.5] * dimension,
        n_objectives=2, reference=REFERENCE,
    )  # fmt: skip
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
        mean_2, error_2 = exam(decode(point, cell), number)
        trial.set_user_attr(RESULT, {"se": {"reasoning": error_2[0], "perception": error_2[1]}})
        study.tell(trial, mean_2.tolist())
        points.append(point)
        means.append(mean_2)
        errors.append(error_2)
    return np.array(points), np.array(means), np.array(errors), 1000 * seconds / total


def line(evaluations: int, cell: Cell, exam: Examination) -> tuple[Array, Array, Array, float]:
    """The uniform line's candidates, evenly spaced: the same budget on one coefficient."""
    points_ND = np.repeat(np.linspace(0, 1, evaluations)[:, None], KNOTS * cell.modules, axis=1)
    asked = [exam(decode(point, cell), i) for i, point in enumerate(points_ND)]
    return points_ND, np.array([m for m, _ in asked]), np.array([e for _, e in asked]), 0.0


def judge(
    cell: Cell, surface: Surface, ideal: float, told: tuple[Array, Array, Array]
) -> Iterable[dict[str, Any]]:
    """Yield share of the ideal hypervolume, bias and size of the set that each rule returns."""
    standing = ~surrogate.collapsed(told[1], REFERENCE)
    points_ND, means_N2, errors_N2 = (a[standing] for a in told)
    fits = [surrogate.fit(points_ND, means_N2[:, m], errors_N2[:, m]) for m in range(2)]
    smooth_N2 = np.column_stack([fit.mean(points_ND) for fit in fits])
    checks = [fit.calibration() for fit in fits]
    for rule, reported_N2 in zip(RULES, (means_N2, smooth_N2), strict=True):
        chosen = non_dominated(reported_N2)
        true_K2 = np.array([surface.truth(decode(points_ND[i], cell)) for i in chosen])
        yield {
            "rule": rule,
            "share": hypervolume(true_K2, REFERENCE) / ideal,
            "bias": float((reported_N2[chosen] - true_K2).mean()),
            "size": len(chosen),
            "loo_mean_square": [check.mean_square for check in checks],
            "misfit": [check.misfit for check in checks],
        }


def run_cell(cell: Cell, samplers: Sequence[str]) -> list[dict[str, Any]]:
    """Everything about one problem and seed: a row for each sampler, budget and rule."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    surface = make_surface(cell, Population())
    knots_DD = np.eye(KNOTS * cell.modules)
    basis_LD = np.column_stack([decode(knot_D, cell) for knot_D in knots_DD])
    ideal = surface.volume(np.eye(len(basis_LD)))
    exam, rows = Examination(cell, surface), []
    ceiling = {"ceiling": surface.volume(basis_LD) / ideal}
    for sampler in samplers:
        found = None if sampler == LINE else search(sampler, cell, exam)
        for n in EVALUATIONS:
            *told, ms = line(n, cell, exam) if found is None else found
            kept = tuple(a[:n] for a in told)
            for row in judge(cell, surface, ideal, kept):  # type: ignore[arg-type]
                rows.append(cell._asdict() | {"sampler": sampler, "n": n, "ms": ms} | ceiling | row)
    return rows


def interval(values: Sequence[float]) -> str:
    """Mean with the half-width of its 95 % t interval over seeds."""
    half = float("nan")
    if len(values) > 1:
        half = float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / len(values) ** 0.5)
    return f"{np.mean(values):+.3f} ±{half:.3f}"


def print_tables(rows: list[dict[str, Any]], samplers: Sequence[str]) -> None:
    def of(key: str, **wanted: Any) -> list[float]:
        same = (r for r in rows if all(r[k] == v for k, v in wanted.items()))
        return [r[key] for r in sorted(same, key=lambda r: r["seed"])]

    problems = dict.fromkeys((r["surface"], r["layers"], r["modules"]) for r in rows)
    for surface, layers, modules in problems:
        at = {"surface": surface, "layers": layers, "modules": modules}
        ceiling = interval(of("ceiling", sampler=samplers[0], n=EVALUATIONS[0], rule="raw", **at))
        print(
            f"\n{surface}, {layers} layers; the best that {KNOTS * modules} knots can reach: ",
            end="",
        )
        print(f"{ceiling[1:]}\n")
        print(
            "| sampler | n | raw | model | model: noisy-gp ahead by | bias raw | bias model | ms |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for sampler in samplers:
            for n in EVALUATIONS:
                here = at | {"sampler": sampler, "n": n}
                raw, model = of("share", rule="raw", **here), of("share", rule="model", **here)
                ours = of("share", rule="model", **(here | {"sampler": "noisy-gp"}))
                ahead = [a - b for a, b in zip(ours, model, strict=False)]
                gap = interval(ahead) if ahead and sampler != "noisy-gp" else "-"
                bias = [
                    f"{100 * np.mean(of('bias', rule=r, **here)):+.1f}" for r in ("raw", "model")
                ]
                print(
                    f"| {sampler} | {n} | {interval(raw)[1:]} | {interval(model)[1:]} | {gap} | "
                    f"{bias[0]} | {bias[1]} | {np.mean(of('ms', **here)):.0f} |"
                )
    misfits = [any(r["misfit"]) for r in rows if r["rule"] == "model"]
    print(f"\nmodels flagged as misfit: {sum(misfits)} of {len(misfits)}")


def print_summary(rows: list[dict[str, Any]], samplers: Sequence[str]) -> None:
    """Mean share by the model rule, problems side by side, and the paired lead over all of them."""
    kept = [r for r in rows if r["rule"] == "model"]
    share = {(*_problem(r), r["seed"], r["sampler"], r["n"]): r["share"] for r in kept}
    problems = list(dict.fromkeys(_problem(r) for r in kept))
    titles = [f"{s} {layers}x{modules}" for s, layers, modules in problems]
    budgets = " / ".join(map(str, EVALUATIONS))
    print(f"| {budgets} candidates | {' | '.join(titles)} | noisy-gp ahead by |")
    print("|---" * (len(problems) + 2) + "|")
    for sampler in samplers:
        cells = []
        for problem in problems:
            found = [
                [v for k, v in share.items() if k[:3] == problem and k[4:] == (sampler, n)]
                for n in EVALUATIONS
            ]
            cells.append(" / ".join(f"{np.mean(f):.3f}"[1:] for f in found))
        leads = [
            [share[*k[:4], "noisy-gp", n] - v for k, v in share.items() if k[4:] == (sampler, n)]
            for n in EVALUATIONS
            if "noisy-gp" in samplers
        ]
        cells.append("-" if sampler == "noisy-gp" else " / ".join(map(interval, leads)))
        print(f"| {sampler} | {' | '.join(cells)} |")


def print_rules(rows: list[dict[str, Any]]) -> None:
    """What each rule returns, over all searches of the greater budget."""
    print("\n| rule | share | bias, points | members |\n|---|---|---|---|")
    for rule in RULES:
        same = [r for r in rows if r["rule"] == rule and r["n"] == EVALUATIONS[-1]]
        mean = {key: np.mean([r[key] for r in same]) for key in ("share", "bias", "size")}
        print(f"| {rule} | {mean['share']:.3f} | {100 * mean['bias']:+.2f} | {mean['size']:.0f} |")


def _problem(row: dict[str, Any]) -> tuple[str, int, int]:
    return row["surface"], row["layers"], row["modules"]


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Five decimals suffice, and keep the file short."""
    short: dict[str, Any] = json.loads(
        json.dumps(row), parse_float=lambda text: round(float(text), 5)
    )
    return short


def print_cost() -> None:
    """CPU time of one proposal of noisy-gp, its surfaces fitted anew and already fitted."""
    print("| knobs | candidates | ms, new scores | ms, same scores |\n|---|---|---|---|")
    for dimension, n in ((8, 100), (8, 400), (200, 400), (200, 1000)):
        random = np.random.default_rng(0)
        points_ND = random.random((n, dimension))
        means_N2 = 0.6 - 0.5 * np.column_stack([((points_ND - t) ** 2).mean(1) for t in (0.7, 0.2)])
        means_N2 = means_N2 + 0.03 * random.standard_normal((n, 2))
        tells = [
            Tell(i, tuple(p.tolist()), tuple(v.tolist()), True, (0.03, 0.03))
            for i, (p, v) in enumerate(zip(points_ND, means_N2, strict=True))
        ]
        proposer = NoisyGpProposer(dimension=dimension, seed=0, n_objectives=2, reference=REFERENCE)
        clock = [time.process_time()]
        for seen in (n - 2, n - 1, n, n):  # the first warms up
            proposer.propose(tells[:seen], n)
            clock.append(time.process_time())
        spent = 1000 * np.diff(clock)
        print(f"| {dimension} | {n} | {spent[1:3].mean():.0f} | {spent[3]:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="8, 16 and 32 layers, 1 and 2 modules")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="other items for every candidate")
    parser.add_argument("--surfaces", nargs="+", default=SURFACES, choices=SURFACES)
    parser.add_argument("--samplers", nargs="+", default=(LINE, *SAMPLERS))
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--show", type=Path, help="print the tables of an earlier --json instead")
    parser.add_argument("--cost", action="store_true", help="time of a proposal, nothing else")
    args = parser.parse_args()
    if args.cost:
        return print_cost()
    rows = json.loads(args.show.read_text()) if args.show else run_all(args)
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
    shapes = [(s, *size) for size in sizes for s in args.surfaces]
    if not args.full and "mixed" in args.surfaces:
        shapes.append(("mixed", 32, 2))
    cells = [Cell(*shape, seed, args.fresh) for shape in shapes for seed in range(args.seeds)]
    began = time.perf_counter()
    with ProcessPoolExecutor(args.jobs) as workers:
        found = workers.map(run_cell, cells, [args.samplers] * len(cells))
        rows = [rounded(row) for cell_rows in found for row in cell_rows]
    print(f"{len(cells)} problems, {time.perf_counter() - began:.0f} s\n")
    return rows


if __name__ == "__main__":
    main()
