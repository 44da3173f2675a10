"""Samplers by name, behind Optuna's interface: `make_sampler`, and `pending` for a resumed run.

`auto`, which sampler if nobody says, follows what `benchmarks/search_synthetic.py` measured. The
figures are in docs/search.md; where they resolve nothing, the reason says so.

Reading order: `problem` (what all are given), `replay` (laws and the Optuna side) with
`tell_order`, `quasirandom`, `noisy_gp` on the package `gp`, `cma` (como-cma and cma),
`optuna_samplers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

from mergefront.errors import UserError
from mergefront.sampling.problem import Problem
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

AUTO: Final = "auto"
MANY_KNOBS: Final = 16
"""Between the 8 with which samplers differ and the 32 with which none was ahead at 100."""

SAMPLERS: Final = (
    "noisy-gp", "como-cma", "cma", "nsga2", "nsga3", "tpe", "gp", "qmc", "random",
)  # fmt: skip
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
    return ReplaySampler(_proposers()[name](problem), problem.dimension)


def _proposers() -> Mapping[str, Callable[[Problem], Proposer]]:
    """Return what makes each sampler's proposals; scipy and pycma are imported only now."""
    from mergefront.sampling.cma import ComoCmaProposer, ScalarCmaProposer
    from mergefront.sampling.noisy_gp import NoisyGpProposer
    from mergefront.sampling.optuna_samplers import OptunaProposer
    from mergefront.sampling.quasirandom import QmcProposer, RandomProposer

    return {
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


class SamplerChoice(NamedTuple):
    """A sampler's name and why it was chosen: a clause that can follow "since"."""

    name: str
    reason: str


def choose_sampler(dimension: int, candidates: int, n_objectives: int) -> SamplerChoice:
    """Return the sampler for D >= 1 knobs, candidates in all (warm starts too), 1 to 4 objectives.

    Raises:
        UserError: a number out of range.
    """
    if dimension < 1 or candidates < 1 or not 1 <= n_objectives <= 4:
        raise UserError(
            f"sampler {AUTO}: {dimension} knobs, {candidates} candidates, "
            f"{n_objectives} objectives",
            hint="at least 1 knob and 1 candidate, 1 to 4 objectives",
        )
    from mergefront.sampling.noisy_gp import design_trials

    if candidates <= design_trials(dimension):
        reason = f"{candidates} candidates are too few for a model: an even spread is left"
        return SamplerChoice("qmc", reason)
    reason = (
        "with 4 and 8 knobs and 2 objectives it covered as much or more of made-up fronts than any "
        "other, from 50 candidates on"
    )
    if dimension > MANY_KNOBS:
        reason += (
            "; with 32 and 64 knobs none was measurably ahead of one coefficient for all layers, "
            f"so that fewer than your {dimension} knobs would serve better"
        )
    if n_objectives == 3:
        reason += "; with 3 objectives its lead was within noise"
    elif n_objectives != 2:
        reason += f"; {n_objectives} objectives were not measured"
    return SamplerChoice("noisy-gp", reason)
