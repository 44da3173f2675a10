"""What a search believes of its candidates: what the model says if it can be trusted, else scores.

The one place that turns recorded estimates into the numbers by which candidates are chosen: which
candidate leaves a race, is validated or picked, and what the display calls the front. Reported
numbers never come from here (`summary`: validation and test items).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mergefront.records import Calibration, Estimate, Evaluation
from mergefront.sampling.gp import posterior
from mergefront.sampling.gp.kernel import noise_parts, usable_errors
from mergefront.sampling.gp.posterior import Posterior
from mergefront.sampling.problem import Array
from mergefront.stats.pareto import non_dominated


@dataclass(frozen=True)
class Belief:
    """What N candidates say together; candidates that failed are not among them.

    `numbers` are the candidates'. `mean_NM` and `deviation_NM` are for comparing candidates with
    each other: where `by_model`, posterior mean and standard deviation (widened by what the
    calibration asks), else, and for candidates that collapsed, the estimate and its standard error.
    `shared_NM` is the standard deviation of the luck that all candidates share by answering the
    same items, where `deviation_NM` leaves it out: it is in every score and in no comparison.
    `why_scores_choose` says why the model does not choose; it is empty if it does.
    `ineligible` are numbers that cannot be on the front: a collapsed model may well give the
    shortest answers, so where an objective is a cost, collapsed candidates are left out.
    """

    objectives: tuple[str, ...]
    numbers: tuple[int, ...]
    mean_NM: Array
    deviation_NM: Array
    shared_NM: Array
    model: Posterior
    why_scores_choose: str = ""
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    ineligible: frozenset[int] = frozenset()

    @property
    def by_model(self) -> bool:
        """Whether the model chooses."""
        return not self.why_scores_choose

    @cached_property
    def front(self) -> tuple[int, ...]:
        """Numbers of the non-dominated candidates, sorted by the first objective, best first."""
        rows = [row for row, number in enumerate(self.numbers) if number not in self.ineligible]
        front = [rows[i] for i in non_dominated(self.mean_NM[rows])] if rows else []
        return tuple(self.numbers[i] for i in sorted(front, key=lambda i: -self.mean_NM[i, 0]))

    @cached_property
    def front_KM(self) -> Array:
        """What is believed of the front's members (K, M), in the order of `front`."""
        return self.means(self.front)

    def means(self, numbers: Sequence[int]) -> Array:
        """What is believed of some candidates (K, M)."""
        return self.mean_NM[[self.numbers.index(number) for number in numbers]]

    def estimates(self, number: int) -> dict[str, Estimate]:
        """What is believed of a candidate, by objective.

        The error is that against all items like these; `n` is not known here, hence 0.
        """
        row = self.numbers.index(number)
        error_M = np.hypot(self.deviation_NM[row], self.shared_NM[row])
        means, errors = self.mean_NM[row].tolist(), error_M.tolist()
        return {
            name: Estimate(mean, error, 0)
            for name, mean, error in zip(self.objectives, means, errors, strict=True)
        }

    def gains(self, number: int, receiver: Mapping[str, Estimate]) -> dict[str, Estimate]:
        """What a candidate is believed to gain over a model that answered all of the same items.

        The luck that both share by answering the same items cancels; the luck of the other
        model's own answers does not.
        """
        row, gains = self.numbers.index(number), {}
        for m, name in enumerate(self.objectives):
            error = float(self.deviation_NM[row, m])
            if self.by_model and self.model.not_collapsed_N[row]:
                own_share = self.model.surfaces[m].kernel.own_share
                receiver_error = float(usable_errors(receiver[name].se))
                error = math.hypot(error, math.sqrt(own_share) * receiver_error)
            mean = float(self.mean_NM[row, m]) - receiver[name].mean
            gains[name] = Estimate(mean, error, 0)
        return gains

    def predict(self, point: Sequence[float]) -> tuple[Array, Array] | None:
        """Mean (M,) and deviation (M,) of a candidate not evaluated yet; None without a model."""
        if not self.by_model:
            return None
        deviation_M = self.model.deviation([point])[0] * _widenings(self.calibration)
        return self.model.mean([point])[0], deviation_M


def fit_belief(
    evaluations: Sequence[Evaluation],
    objectives: Sequence[str],
    reference: Mapping[str, float],
    costs: Collection[str] = (),
) -> Belief:
    """Return what finished candidates say together.

    `reference` is the hypervolume's, by objective; `costs` are the names of the cost
    objectives.
    """
    names = tuple(objectives)
    scored = [e for e in evaluations if not e.failure]
    shape = (len(scored), len(names))
    values, errors, partial = (
        np.array([[getattr(e.objectives[o], part) for o in names] for e in scored]).reshape(shape)
        for part in ("mean", "se", "partial")
    )
    points = np.array([e.point for e in scored]) if scored else np.zeros((0, 1))
    model = posterior.fit(points, values, errors, partial, [reference[name] for name in names])
    numbers = tuple(e.number for e in scored)
    calibration = {
        name: surface.calibration() for name, surface in zip(names, model.surfaces, strict=False)
    }
    why = _why_scores_choose(model, names)
    collapsed = {n for n, stands in zip(numbers, model.not_collapsed_N, strict=True) if not stands}
    ineligible = frozenset(collapsed if costs and len(collapsed) < len(numbers) else ())
    shared = np.zeros_like(errors)
    if not why:
        stands = model.not_collapsed_N
        own_share = np.array([surface.kernel.own_share for surface in model.surfaces])
        _, whole = noise_parts(usable_errors(errors), partial)
        shared[stands] = np.sqrt((1.0 - own_share) * whole[stands])
        values[stands] = model.mean(points[stands])
        errors[stands] = model.deviation(points[stands]) * _widenings(calibration)
    return Belief(names, numbers, values, errors, shared, model, why, calibration, ineligible)


def _widenings(calibration: Mapping[str, Calibration]) -> list[float]:
    return [check.widening for check in calibration.values()]


def _why_scores_choose(model: Posterior, names: Sequence[str]) -> str:
    """Why the model does not choose, in a few words; empty if it does."""
    standing = int(model.not_collapsed_N.sum())
    if standing < posterior.TRUSTED_FROM:
        return f"{standing} of {posterior.TRUSTED_FROM} candidates that the model needs"
    misfits = [name for name, misfit in zip(names, model.misfits, strict=True) if misfit]
    return f"the model misjudges {' and '.join(misfits)}" if misfits else ""
