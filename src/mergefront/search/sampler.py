"""The sampler of a run: which one it is, and how it is made for the run's space.

Not here: the samplers (`sampling`), when one is asked (`loop`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import optuna

from mergefront.config import RunConfig
from mergefront.runs.history import record_sampler, recorded_sampler
from mergefront.sampling import AUTO, Problem, ReplaySampler, choose_sampler, make_sampler
from mergefront.space.space import Space

logger = logging.getLogger(__name__)


def sampler_name(config: RunConfig, study: optuna.Study, space: Space) -> str:
    """Return the name of a run's sampler; `auto` is decided once, and recorded in the study."""
    if config.search.sampler != AUTO:
        return config.search.sampler
    decision = recorded_sampler(study)
    if decision is None:
        decision = choose_sampler(space.dimension, config.budget.candidates, len(config.objectives))
        logger.info("sampler auto: %s, since %s", *decision)
        record_sampler(study, *decision)
    return decision[0]


def sampler_of(
    name: str, config: RunConfig, space: Space, reference: Mapping[str, float]
) -> ReplaySampler:
    """Return the sampler `name` for points of `space`; `reference` is that of the hypervolume."""
    return make_sampler(
        name,
        Problem(
            dimension=space.dimension,
            seed=config.search.seed,
            start=space.start_point(),
            n_objectives=len(config.objectives),
            reference=[reference[objective] for objective in config.objectives],
            constraints=[config.least_scores.get(objective) for objective in config.objectives],
        ),
    )
