"""How often does what a search believes of its best candidates hold, at 95 %?

Made-up surfaces (`synthetic_surfaces.py`), four knots, 200 common items an objective, random
candidates, no racing; many seeds, each with items of its own, for what all candidates share by
answering the same ones is one draw a seed. Asked of the front that is believed: how often the truth
lies within 1.96 standard errors of the mean, with the error among candidates alone, and with the
luck that all share as well (what is shown, and what guards and constraints go by).

    python benchmarks/claims.py

Seconds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from synthetic_surfaces import REFERENCE, Cell, Examination, Population, decode, make_surface

from mergefront.records import Estimate, Evaluation
from mergefront.runs.belief import Belief, fit_belief

NAMES = ("reasoning", "perception")
HIGHEST = 0.7  # of a knot, so that few candidates collapse
ITEMS = 200


def held(belief: Belief, truths: dict[int, np.ndarray]) -> Iterator[tuple[float, float]]:
    """Share of a front's claims that hold, by objective, without the shared luck and with it."""
    rows = [belief.numbers.index(number) for number in belief.front]
    off = np.abs(belief.front_KM - np.array([truths[number] for number in belief.front]))
    said = np.array([[belief.estimates(n)[name].se for name in NAMES] for n in belief.front])
    for m in range(len(NAMES)):
        alone = off[:, m] <= 1.96 * belief.deviation_NM[rows, m]
        yield float(alone.mean()), float((off[:, m] <= 1.96 * said[:, m]).mean())


def searched(
    surface_name: str, n: int, seed: int, population: Population
) -> list[tuple[float, float]]:
    """One seed: n random candidates, scored on the seed's items, and what is believed of them."""
    cell = Cell(surface_name, 32, 1, seed, fresh=False)
    surface = make_surface(cell, population)
    exam, found, truths = Examination(cell, surface), [], {}
    for number, point in enumerate(HIGHEST * np.random.default_rng(seed).random((n, cell.knots))):
        means, errors = exam(decode(point, cell), number)
        pairs = zip(NAMES, means, errors, strict=True)
        estimates = {name: Estimate(float(mean), float(se), ITEMS) for name, mean, se in pairs}
        found.append(Evaluation(number, tuple(point.tolist()), "random", estimates))
        truths[number] = surface.truth(decode(point, cell))
    return list(held(fit_belief(found, NAMES, dict(zip(NAMES, REFERENCE, strict=False))), truths))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=60)
    seeds = parser.parse_args().seeds
    population = Population()
    print("| surface | candidates | among candidates, % | all luck counted, % | ± one error |")
    print("|---|---|---|---|---|")
    for name in ("smooth", "mixed"):
        for n in (40, 100):
            rows = [one for seed in range(seeds) for one in searched(name, n, seed, population)]
            among, said = 100 * np.array(rows).T
            error = said.std(ddof=1) / len(said) ** 0.5
            print(f"| {name} | {n} | {among.mean():.0f} | {said.mean():.0f} | {error:.1f} |")


if __name__ == "__main__":
    main()
