"""Samplers by name, behind Optuna's interface: `make_sampler`, and `pending` for a resumed run.

Reading order: `replay` (laws and the Optuna side) with `tell_order`, `auto` (which sampler, if
nobody says), `quasirandom`, `noisy_gp` on the package `gp`, `cma` (como-cma) and `scalar_cma`,
`optuna_samplers`; `constraints` is what they share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mergefront.errors import UserError
from mergefront.sampling.auto import AUTO, SamplerChoice, choose_sampler
from mergefront.sampling.constraints import Least
from mergefront.sampling.replay import Proposer, ReplaySampler, pending

__all__ = [
    "AUTO",
    "SAMPLERS",
    "ReplaySampler",
    "SamplerChoice",
    "choose_sampler",
    "make_sampler",
    "pending",
]

SAMPLERS: tuple[str, ...] = (
    "noisy-gp", "como-cma", "cma", "nsga2", "nsga3", "tpe", "gp", "qmc", "random",
)  # fmt: skip
"""Legal names: our Gaussian process that knows the noise; CMA-ES by hypervolume and by weightings;
Optuna's NSGA-II, NSGA-III, TPE and GP; an even sequence; random search. `auto` (`AUTO`) is none of
them: `choose_sampler` says which."""


def make_sampler(
    name: str,
    *,
    dimension: int,
    seed: int,
    start: Sequence[float],
    n_objectives: int,
    reference: Sequence[float] | None = None,
    constraints: Least | None = None,
) -> ReplaySampler:
    """Return the sampler `name` for points in [0, 1]^D and 1 to 4 objectives to maximise.

    `seed` is the run's seed (>= 0); `start`, of length D, is where como-cma and cma begin without
    warm starts; `reference`, of length M, is the hypervolume's reference of noisy-gp and como-cma
    and where the scale of cma begins (default: just below the worst values told). All D parameters
    of a trial must be suggested as floats in [0, 1], in one order.

    `constraints`, of length M, is the least value of each objective, None where any will do. qmc
    and random know no scores and ignore them.

    Raises:
        UserError: an unknown name, or lengths or numbers out of range.
    """
    _check(name, dimension, seed, start, n_objectives)
    _check_values(name, n_objectives, reference, constraints)
    return ReplaySampler(
        _proposer(name, dimension, seed, start, n_objectives, reference, constraints),
        dimension,
    )


def _proposer(
    name: str,
    dimension: int,
    seed: int,
    start: Sequence[float],
    n_objectives: int,
    reference: Sequence[float] | None,
    constraints: Least | None,
) -> Proposer:
    from mergefront.sampling.cma import ComoCmaProposer
    from mergefront.sampling.noisy_gp import NoisyGpProposer
    from mergefront.sampling.optuna_samplers import OptunaProposer
    from mergefront.sampling.quasirandom import QmcProposer, RandomProposer
    from mergefront.sampling.scalar_cma import ScalarCmaProposer

    match name:
        case "noisy-gp":
            return NoisyGpProposer(
                dimension=dimension,
                seed=seed,
                n_objectives=n_objectives,
                reference=reference,
                constraints=constraints,
            )
        case "como-cma" | "cma":
            evolving = ComoCmaProposer if name == "como-cma" else ScalarCmaProposer
            return evolving(
                dimension=dimension,
                seed=seed,
                start=start,
                n_objectives=n_objectives,
                reference=reference,
                constraints=constraints,
            )
        case "nsga2" | "nsga3" | "tpe" | "gp":
            return OptunaProposer(
                name,
                dimension=dimension,
                seed=seed,
                n_objectives=n_objectives,
                constraints=constraints,
            )
        case "qmc":
            return QmcProposer(dimension=dimension, seed=seed)
        case _:
            return RandomProposer(dimension=dimension, seed=seed)


def _check(name: str, dimension: int, seed: int, start: Sequence[float], n_objectives: int) -> None:
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
    if len(start) != dimension or not all(0.0 <= x <= 1.0 for x in start):
        raise UserError(f"sampler {name}: the start is no point in [0, 1]^{dimension}")


def _check_values(
    name: str, n_objectives: int, reference: Sequence[float] | None, constraints: Least | None
) -> None:
    if reference is not None and len(reference) != n_objectives:
        raise UserError(
            f"sampler {name}: a reference of {len(reference)} values for {n_objectives} objectives"
        )
    if constraints is None:
        return
    if len(constraints) != n_objectives:
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
