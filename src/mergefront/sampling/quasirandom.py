"""The samplers `random` and `qmc`, which look at no score: random points, and an even sequence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mergefront.sampling.problem import Array, Problem
from mergefront.sampling.replay import Proposer, Tell
from mergefront.seeds import Purpose, generator


class RandomProposer(Proposer):
    """Uniform points in [0, 1]^D; looks at nothing but the trial's number."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def propose(self, tells: Sequence[Tell], number: int) -> Array:
        return generator(self._problem.seed, Purpose.RANDOM_POINT, number).random(
            self._problem.dimension
        )


class QmcProposer(Proposer):
    """Quasi-Monte Carlo: trial `number` gets point `number` of the run's scrambled Sobol sequence.

    Any aligned run of 2^k points fills the box evenly. A warm start uses up the point of its
    number. noisy-gp begins with the same points. Optuna's QMCSampler numbers its points in the
    order in which they are asked for; here the trial's number says which point it gets, so that a
    trial in flight keeps its own.
    Reference: Owen, Scrambling Sobol' and Niederreiter-Xing points, Journal of Complexity 14
    (1998).
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def propose(self, tells: Sequence[Tell], number: int) -> Array:
        from scipy.stats.qmc import Sobol

        seed = generator(self._problem.seed, Purpose.SOBOL_SEQUENCE)
        sequence = Sobol(self._problem.dimension, scramble=True, seed=seed)
        if number:  # scipy 1.17 cannot skip none
            sequence.fast_forward(number)
        return np.asarray(sequence.random(1)[0], dtype=np.float64)
