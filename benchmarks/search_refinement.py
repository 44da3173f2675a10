"""Does a search gain from more knots on the way? With and without, on surfaces of a known front.

The surfaces are in `synthetic_surfaces.py`, the search is `search_synthetic.py`'s with noisy-gp:
four knots a module, 200 items. With `search.refine: exhausted` it goes on with seven knots once
`patience.Exhaustion` says so. Both are the same search until then. Score: hypervolume of the TRUE
accuracies of the front that is believed in the end, as a share of the true front in layer space.

    python benchmarks/search_refinement.py --candidates 200 --seeds 4
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import optuna
from synthetic_surfaces import (
    REFERENCE,
    Cell,
    Examination,
    Population,
    Surface,
    decode,
    make_surface,
)

from mergefront.records import REFINEMENT, RESULT, Estimate, Evaluation
from mergefront.runs.belief import believe
from mergefront.sampling import ReplaySampler, make_sampler
from mergefront.search.stopping import Exhaustion
from mergefront.stats.pareto import hypervolume

NAMES = ("reasoning", "perception")
CORNER = dict(zip(NAMES, REFERENCE, strict=False))
PROBLEMS = (("smooth", 1), ("smooth", 2), ("mixed", 1), ("mixed", 2), ("rough", 1))
"""Surface and modules."""
ITEMS = 200
_WARM = (0.0, 0.25, 0.5, 0.75, 1.0)


def search(cell: Cell, surface: Surface, total: int, refine: bool) -> tuple[float, int | None]:
    """Share of the true front that is found, and after how many candidates knots were added."""
    finer, exam = cell._replace(knots=2 * cell.knots - 1), Examination(cell, surface)
    study = optuna.create_study(directions=["maximize"] * 2)
    now, sampler, names = cell, sampler_of(cell, study), names_of(cell, "")
    for value in _WARM:
        study.enqueue_trial(dict.fromkeys(names, value))
    exhaustion, after = Exhaustion(CORNER, cell.seed), None
    found: list[Evaluation] = []
    layers = []
    for number in range(total):
        if refine and after is None and exhaustion.reached(found, total):
            carried = [embed(one.point, cell, finer) for one in found]
            study.set_user_attr(REFINEMENT, {"points": dict(enumerate(carried))})
            found = [
                Evaluation(e.number, e.point, "", e.objectives, carried=place)
                for e, place in zip(found, carried, strict=True)
            ]
            now, after, names = finer, number, names_of(finer, "v1.")
            sampler = sampler_of(finer, study)
        trial = sampler.ask(study, names)
        point = tuple(trial.suggest_float(name, 0.0, 1.0) for name in names)
        layers.append(decode(point, now))
        mean_M, error_M = exam(layers[-1], number)
        trial.set_user_attr(RESULT, {"se": dict(zip(NAMES, error_M, strict=True))})
        study.tell(trial, mean_M.tolist())
        scores = {
            name: Estimate(float(mean), float(error), ITEMS)
            for name, mean, error in zip(NAMES, mean_M, error_M, strict=True)
        }
        found.append(Evaluation(number, point, "", scores))
    front = believe(found, NAMES, CORNER).front
    true_KM = np.array([surface.truth(layers[number]) for number in front])
    ideal = surface.volume(np.eye(cell.layers * cell.modules))
    return hypervolume(true_KM, surface.reference) / ideal, after


def sampler_of(cell: Cell, study: optuna.Study) -> ReplaySampler:
    dimension = cell.knots * cell.modules
    sampler = make_sampler(
        "noisy-gp", dimension=dimension, seed=cell.seed, start=[0.5] * dimension,
        n_objectives=2, reference=list(CORNER.values()),
    )  # fmt: skip
    study.sampler = sampler
    return sampler


def names_of(cell: Cell, prefix: str) -> list[str]:
    return [f"{prefix}k{i}" for i in range(cell.knots * cell.modules)]


def embed(point: Sequence[float], coarse: Cell, fine: Cell) -> tuple[float, ...]:
    """The point of the finer space with the same curves over depth."""
    at, to = (np.linspace(0.0, 1.0, cell.knots) for cell in (coarse, fine))
    curves = np.reshape(point, (coarse.modules, coarse.knots))
    return tuple(float(u) for curve in curves for u in np.clip(np.interp(to, at, curve), 0.0, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=4)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    began, gains = time.time(), []
    print(f"| {args.candidates} candidates | never | exhausted | difference | refined after |")
    print("|---|---|---|---|---|", flush=True)
    for name, modules in PROBLEMS:
        rows = []
        for seed in range(args.seeds):
            cell = Cell(name, 32, modules, seed, fresh=False)
            surface = make_surface(cell, Population())
            finer, after = search(cell, surface, args.candidates, refine=True)
            plain = finer if after is None else search(cell, surface, args.candidates, False)[0]
            rows.append((plain, finer, after))
        plain_S, finer_S = np.array([row[:2] for row in rows]).T
        gains += (finer_S - plain_S).tolist()
        moments = ", ".join("never" if after is None else str(after) for *_, after in rows)
        print(
            f"| {name} 32x{modules} | {plain_S.mean():.3f} | {finer_S.mean():.3f} "
            f"| {(finer_S - plain_S).mean():+.3f} | {moments} |",
            flush=True,
        )
    error = np.std(gains, ddof=1) / np.sqrt(len(gains))
    print(f"over all {len(gains)}: {np.mean(gains):+.4f} +- {error:.4f} (one standard error)")
    print(f"{time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
