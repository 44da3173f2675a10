"""Samplers by name, behind Optuna's interface: `make_sampler`, and `pending` for a resumed run.

Reading order: `replay` (laws and the Optuna side) with `tell_order`, `auto` (which sampler, if
nobody says), `quasirandom`, `noisy_gp` on the package `gp`, `cma` (como-cma and cma),
`optuna_samplers`; `problem` is what all are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from mergefront.errors import UserError
from mergefront.sampling.auto import AUTO, SamplerChoice, choose_sampler
from mergefront.sampling.cma import ComoCmaProposer, ScalarCmaProposer
from mergefront.sampling.noisy_gp import NoisyGpProposer
from mergefront.sampling.optuna_samplers import OptunaProposer
from mergefront.sampling.problem import Problem
from mergefront.sampling.quasirandom import QmcProposer, RandomProposer
from mergefront.sampling.replay import Proposer, ReplaySampler, pending

__all__ = [
    "AUTO",
    "SAMPLERS",
    "Problem",
    "ReplaySampler",
    "SamplerChoice",
    "choose_sampler",
    "make_sampler",
    "pending",
]

_PROPOSERS: Final[Mapping[str, Callable[[Problem], Proposer]]] = {
    "noisy-gp": NoisyGpProposer,
    "como-cma": ComoCmaProposer,
    "cma": ScalarCmaProposer,
    "nsga2": partial(OptunaProposer, "nsga2"),
    "nsga3": partial(OptunaProposer, "nsga3"),
    "tpe": partial(OptunaProposer, "tpe"),
    "gp": partial(OptunaProposer, "gp"),
    "qmc": QmcProposer,
    "random": RandomProposer,
}
SAMPLERS: Final = tuple(_PROPOSERS)
"""Legal names: our Gaussian process that knows the noise; CMA-ES by hypervolume and by weightings;
Optuna's NSGA-II, NSGA-III, TPE and GP; an even sequence; random search. `auto` (`AUTO`) is none of
them: `choose_sampler` says which."""


def make_sampler(name: str, problem: Problem) -> ReplaySampler:
    """Return the sampler `name` for a problem.

    All D parameters of a trial must be suggested as floats in [0, 1], in one order. qmc and random
    know no scores and ignore constraints.

    Raises:
        UserError: an unknown name, or lengths or numbers out of range.
    """
    _check(name, problem)
    return ReplaySampler(_PROPOSERS[name](problem), problem.dimension)


def _check(name: str, problem: Problem) -> None:
    dimension, n_objectives, seed = problem.dimension, problem.n_objectives, problem.seed
    if name == AUTO:
        raise UserError(
            f"sampler {AUTO!r} is a choice to be made, not a sampler",
            hint="ask mergefront.sampling.choose_sampler for a name first",
        )
    if name not in SAMPLERS:
        raise UserError(f"no sampler {name!r}", hint=f"samplers are {', '.join(SAMPLERS)}")
    if dimension < 1 or not 1 <= n_objectives <= 4 or seed < 0:
        raise UserError(
            f"sampler {name}: {dimension} knobs, {n_objectives} objectives, seed {seed}",
            hint="at least 1 knob, 1 to 4 objectives, a seed from 0 up",
        )
    if len(problem.start) != dimension or not all(0.0 <= x <= 1.0 for x in problem.start):
        raise UserError(f"sampler {name}: the start is no point in [0, 1]^{dimension}")
    reference = problem.reference
    if reference is not None and len(reference) != n_objectives:
        raise UserError(
            f"sampler {name}: a reference of {len(reference)} values for {n_objectives} objectives"
        )
    constraints = problem.constraints or ()
    if problem.constraints is not None and len(constraints) != n_objectives:
        raise UserError(
            f"sampler {name}: {len(constraints)} constraints for {n_objectives} objectives",
            hint="one least value for each objective, None where any will do",
        )
    for index, bound in enumerate(constraints):
        if bound is not None and not math.isfinite(bound):
            raise UserError(
                f"sampler {name}: the least value of objective {index + 1} is {bound}",
                hint="a finite number, or None where any will do",
            )
