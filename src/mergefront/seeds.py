"""Random generators: a function of the run's seed, a purpose and an index, and of nothing else.

Numpy's global generator is never seeded or drawn from.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers are for. The numbers are part of every recorded run: never change one."""

    RANDOM_POINT = 10
    OPTUNA_SAMPLER = 11
    KERNEL_MEAN = 20
    KERNEL_DRAW = 21
    SOBOL_SEQUENCE = 30
    SURFACE_DRAW = 31
    RACE_LOT = 40
    EXPECTED_GAIN = 50
    # Bootstraps share two numbers with proposals; both are kept for the sake of recorded runs.
    HYPERVOLUME_BOOTSTRAP = 30
    DIFFERENCE_BOOTSTRAP = 31


def generator(seed: int, purpose: Purpose, *index: int) -> np.random.Generator:
    """Return the generator for one purpose, and one index of it, under a seed (>= 0)."""
    return np.random.default_rng(np.random.SeedSequence([seed, int(purpose), *index]))
