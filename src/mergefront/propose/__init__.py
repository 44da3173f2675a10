"""Samplers by name, behind Optuna's interface: `make_sampler`, and `pending` for a resumed run.

Reading order: replay.py (laws and the Optuna side), como_cma.py on kernel.py, optuna_samplers.py,
noisy_gp.py on `surrogate`.
"""

from __future__ import annotations

from collections.abc import Sequence

from mergefront.errors import UserError
from mergefront.propose.replay import Proposer, ReplaySampler, pending

__all__ = ["SAMPLERS", "ReplaySampler", "make_sampler", "pending"]

SAMPLERS: tuple[str, ...] = ("como-cma", "nsga2", "tpe", "random", "noisy-gp")
"""Legal names: our multi-objective CMA-ES, Optuna's NSGA-II and TPE, random search, and our
Gaussian process that knows the noise."""


def make_sampler(
    name: str,
    *,
    dimension: int,
    seed: int,
    start: Sequence[float],
    n_objectives: int,
    reference: Sequence[float] | None = None,
) -> ReplaySampler:
    """Return the sampler `name` for points in [0, 1]^D and 1 to 4 objectives to maximise.

    `seed` is the run's seed (>= 0); `start`, of length D, is where como-cma begins without warm
    starts; `reference`, of length M, is the hypervolume's reference of como-cma and noisy-gp
    (default: just below the worst values told). All D parameters of a trial must be suggested as
    floats in [0, 1], in one order.

    Raises:
        UserError: an unknown name, or lengths or numbers out of range.
    """
    _check(name, dimension, seed, start, n_objectives, reference)
    return ReplaySampler(
        _proposer(name, dimension, seed, start, n_objectives, reference), dimension
    )


def _proposer(
    name: str,
    dimension: int,
    seed: int,
    start: Sequence[float],
    n_objectives: int,
    reference: Sequence[float] | None,
) -> Proposer:
    from mergefront.propose.como_cma import ComoCmaProposer
    from mergefront.propose.noisy_gp import NoisyGpProposer
    from mergefront.propose.optuna_samplers import OptunaProposer, RandomProposer

    match name:
        case "como-cma":
            return ComoCmaProposer(
                dimension=dimension,
                seed=seed,
                start=start,
                n_objectives=n_objectives,
                reference=reference,
            )
        case "nsga2" | "tpe":
            return OptunaProposer(name, dimension=dimension, seed=seed, n_objectives=n_objectives)
        case "noisy-gp":
            return NoisyGpProposer(
                dimension=dimension, seed=seed, n_objectives=n_objectives, reference=reference
            )
        case _:
            return RandomProposer(dimension=dimension, seed=seed)


def _check(
    name: str,
    dimension: int,
    seed: int,
    start: Sequence[float],
    n_objectives: int,
    reference: Sequence[float] | None,
) -> None:
    if name not in SAMPLERS:
        raise UserError(f"no sampler {name!r}", hint=f"samplers are {', '.join(SAMPLERS)}")
    if dimension < 1 or not 1 <= n_objectives <= 4 or seed < 0:
        raise UserError(
            f"sampler {name}: {dimension} knobs, {n_objectives} objectives, seed {seed}",
            hint="at least 1 knob, 1 to 4 objectives, a seed from 0 up",
        )
    if len(start) != dimension or not all(0.0 <= x <= 1.0 for x in start):
        raise UserError(f"sampler {name}: the start is no point in [0, 1]^{dimension}")
    if reference is not None and len(reference) != n_objectives:
        raise UserError(
            f"sampler {name}: a reference of {len(reference)} values for {n_objectives} objectives"
        )
