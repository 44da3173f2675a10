"""The peers' search algorithms, each as its own project configures it, and two plain baselines.

All add coefficients times task vectors to the receiver, without embedding and head, and answer
400 + 400 items a candidate, 100 candidates. Where a peer searches a box it is given ours, [0, 1.5].
An arm is a generator: it yields a table of coefficients and is sent that candidate's (reasoning,
perception).

`mergekit-evolve` (mergekit 0.1.5, scripts/evolve.py and evo/genome.py; Sakana, arXiv 2403.13187,
    gives the same step and population). pycma without bounds; weights pass through |x|; x0 = 1 /
    number of models (receiver and donors); sigma0 = 1/6; population 4 + floor(3 ln n), pycma's own;
    100 evaluations; fitness the sum of both objectives, each weighted 1. One weight for each donor
    and layer (layer_granularity 1; Sakana: per layer). Departures: the receiver's own weight stays
    1 (as a gene it would only ruin perception); a seed (it has none); it stops at 100 evaluations
    sharp. Restarts after pycma's own termination from x0 (fmin2 would end there).
`nsga2-mergenetic` (mergenetic 0.1.1: pymoo's NSGA2 with eliminate_duplicates; its command line
    suggests population 10 and 10 generations). Optuna's NSGA-II in those settings and pymoo's
    operators: SBX with probability .9 and eta 15, polynomial mutation with eta 20 and probability
    1/n. Genes as in its one layered merger: 5 knots for attention, 5 for MLP, 1 for the rest, for
    each donor. Departures: Optuna for pymoo; no 0.1 grid; 400 items an objective instead of 10 to
    20 anchors.
`ap-bmm` (AP-BMM's README: layer-wise task arithmetic, one coefficient a block of layers, 8 Sobol
    points, then a GP with an expected hypervolume improvement, 48 evaluations of 65 items).
    Optuna's GP sampler (Matern 5/2 with a lengthscale for each knob, log-EHVI, noise level fitted),
    one coefficient for each layer and donor. Departures: no SAAS prior from layer discrepancies, no
    asynchrony and no reranking; EHVI where it has qNEHVI; 100 candidates of 400 + 400 items where
    the same items would buy 615 of its own (a GP of 615 takes longer than the answers).
`uniform`: one coefficient for each donor: a line of 100 points, or a 10 x 10 grid.
`random`: our default space, `knots_by_part`, at scrambled Sobol points.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from itertools import product

import cma
import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler
from optuna.samplers.nsgaii import PolynomialMutation, SBXCrossover
from scipy.stats import qmc

from mergefront import files
from mergefront.records import CoefficientTable
from mergefront.space.file import SpaceSpec, load_space
from mergefront.space.space import Space

Proposals = Generator[CoefficientTable, Sequence[float], None]
Arm = Callable[[Space, int, int], Proposals]
"""A space, a seed and the number of candidates -> proposals."""

LOW, HIGH = 0.0, 1.5
FROZEN = ("embedding", "head")
WEIGHTS = (1.0, 1.0)  # mergekit-evolve's, by task


def _spec(lines: Sequence[tuple[tuple[str, ...], object]], high: float = HIGH) -> SpaceSpec:
    knobs = [
        {"parts": parts, "layers": layers, "low": LOW, "high": high} for parts, layers in lines
    ]
    return SpaceSpec.model_validate({"knobs": knobs, "frozen": FROZEN})


EVERYTHING = ("attention", "mlp", "norm")


def spec_of(arm: str) -> SpaceSpec:
    """The search space of an arm."""
    match arm:
        case "mergekit-evolve":  # unbounded there; nothing comes near 3 from 1/2 in steps of 1/6
            return _spec([(EVERYTHING, "each")], high=3.0)
        case "ap-bmm":
            return _spec([(EVERYTHING, "each")])
        case "nsga2-mergenetic":
            return _spec([
                (("attention",), {"knots": 5}), (("mlp",), {"knots": 5}), (("norm",), "all"),
            ])  # fmt: skip
        case "uniform":
            return _spec([(EVERYTHING, "all")])
        case _:
            return load_space(files.find_yaml("search_spaces", "knots_by_part"))


def mergekit_evolve(space: Space, seed: int, candidates: int) -> Proposals:
    """CMA-ES on the weighted sum."""
    del candidates
    high, start = space.knobs[0].high, 1 / (1 + len(space.donors))
    restarts = 0
    while True:
        options = {"seed": 1 + seed + 1000 * restarts, "verbose": -9}
        strategy = cma.CMAEvolutionStrategy([start] * space.dimension, 1 / 6, options)
        while not strategy.stop():
            asked, costs = strategy.ask(), []
            for x in asked:
                values = yield space.table(np.minimum(np.abs(x) / high, 1.0).tolist())
                costs.append(-float(np.dot(WEIGHTS, values)))
            strategy.tell(asked, costs)
        restarts += 1


def nsga2_mergenetic(space: Space, seed: int, candidates: int) -> Proposals:
    """NSGA-II, ten generations of ten."""
    del candidates
    sampler = NSGAIISampler(
        population_size=10,
        crossover=SBXCrossover(eta=15.0),
        crossover_prob=0.9,
        mutation=PolynomialMutation(eta=20.0),
        mutation_prob=1 / space.dimension,
        seed=seed,
    )
    yield from _optuna(space, sampler, [])


def ap_bmm(space: Space, seed: int, candidates: int) -> Proposals:
    """A GP with expected hypervolume improvement after 8 Sobol points."""
    del candidates
    first = qmc.Sobol(space.dimension, rng=np.random.default_rng(seed)).random(8)
    sampler = GPSampler(seed=seed, n_startup_trials=len(first))
    yield from _optuna(space, sampler, first.tolist())


def _optuna(space: Space, sampler: BaseSampler, first: Sequence[Sequence[float]]) -> Proposals:
    study = optuna.create_study(directions=["maximize"] * 2, sampler=sampler)
    names = [knob.name for knob in space.knobs]
    for point in first:
        study.enqueue_trial(dict(zip(names, point, strict=True)))
    unit: dict[str, BaseDistribution] = dict.fromkeys(names, FloatDistribution(0.0, 1.0))
    while True:
        trial = study.ask(unit)
        values = yield space.table([trial.params[name] for name in names])
        study.tell(trial, list(values))


def uniform(space: Space, seed: int, candidates: int) -> Proposals:
    """A line, or a square grid, of one coefficient for each donor; looks at nothing."""
    del seed
    side = round(candidates ** (1 / space.dimension))
    for point in product(np.linspace(0, 1, side), repeat=space.dimension):
        yield space.table([float(u) for u in point])


def random(space: Space, seed: int, candidates: int) -> Proposals:
    """Scrambled Sobol points of our default space."""
    points = qmc.Sobol(space.dimension, rng=np.random.default_rng(seed))
    for point in points.random_base2(int(np.ceil(np.log2(candidates)))):
        yield space.table(point.tolist())


PEERS: dict[str, Arm] = {
    "mergekit-evolve": mergekit_evolve,
    "nsga2-mergenetic": nsga2_mergenetic,
    "ap-bmm": ap_bmm,
    "uniform": uniform,
    "random": random,
}

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
