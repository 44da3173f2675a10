"""What a search believes of its candidates: the model's word if it can be trusted, else the scores.

The one place that turns recorded estimates into the numbers by which candidates are chosen: who
leaves a race, who is validated, who is picked, what the display calls the front. Reported numbers
never come from here (`front`: validation and test items).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mergefront.records import Estimate, Evaluation
from mergefront.sampling import gp
from mergefront.sampling.gp import posterior
from mergefront.sampling.gp.posterior import Posterior
from mergefront.stats.pareto import non_dominated

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class Belief:
    """What N finished candidates say together; failed ones are not among them.

    `numbers` are the candidates'; `mean_NM` and `deviation_NM` what is believed of each among the
    others: posterior mean and standard deviation (widened by what the calibration asks) where
    `by_model`, else the estimate and its standard error, as always of candidates that collapsed.
    `shared_NM` is the standard deviation of the luck that all have in common by answering the same
    items, where `deviation_NM` leaves it out: it is in every score and in no comparison. `why`
    says in a few words why the model does not choose; it is empty where it does. `barred` are the
    numbers that cannot be on the front: a model that collapsed may well give the shortest answers,
    so where an objective is a cost, what collapsed is left out.
    """

    objectives: tuple[str, ...]
    numbers: tuple[int, ...]
    mean_NM: Array
    deviation_NM: Array
    shared_NM: Array
    model: Posterior
    why: str = ""
    calibration: Mapping[str, gp.Calibration] = field(default_factory=dict)
    barred: frozenset[int] = frozenset()

    @property
    def by_model(self) -> bool:
        """Whether the model chooses."""
        return not self.why

    @cached_property
    def front(self) -> tuple[int, ...]:
        """Numbers of the non-dominated candidates, best first objective first."""
        rows = [row for row, number in enumerate(self.numbers) if number not in self.barred]
        found = [rows[i] for i in non_dominated(self.mean_NM[rows])] if rows else []
        return tuple(self.numbers[i] for i in sorted(found, key=lambda i: -self.mean_NM[i, 0]))

    @cached_property
    def front_KM(self) -> Array:
        """What is believed of the front's members (K, M), in the order of `front`."""
        return self.means(self.front)

    def means(self, numbers: Sequence[int]) -> Array:
        """What is believed of some candidates (K, M)."""
        return self.mean_NM[[self.numbers.index(number) for number in numbers]]

    def of(self, number: int) -> dict[str, Estimate]:
        """Objective -> what is believed of a candidate, its error that against all items like
        these; `n` is not known here, hence 0."""
        row = self.numbers.index(number)
        error_M = np.hypot(self.deviation_NM[row], self.shared_NM[row])
        pairs = zip(self.mean_NM[row].tolist(), error_M.tolist(), strict=True)
        return {
            name: Estimate(mean, deviation, 0)
            for name, (mean, deviation) in zip(self.objectives, pairs, strict=True)
        }

    def gain(self, number: int, other: Mapping[str, Estimate]) -> dict[str, Estimate]:
        """Objective -> what a candidate is believed to be better by than a model that answered all
        of the same items: their common luck cancels, the other's own is left."""
        row, made = self.numbers.index(number), {}
        for m, name in enumerate(self.objectives):
            error = float(self.deviation_NM[row, m])
            if self.by_model and self.model.stands_N[row]:
                own = self.model.surfaces[m].kernel.own_share
                error = math.hypot(error, math.sqrt(own) * _known(other[name]))
            mean = float(self.mean_NM[row, m]) - other[name].mean
            made[name] = Estimate(mean, error, 0)
        return made

    def foretold(self, point: Sequence[float]) -> tuple[Array, Array] | None:
        """Mean (M,) and deviation (M,) of a candidate not evaluated yet; None without a model."""
        if not self.by_model:
            return None
        wider = [one.widening for one in self.calibration.values()]
        return self.model.mean([point])[0], self.model.deviation([point])[0] * wider


def believe(
    found: Sequence[Evaluation],
    objectives: Sequence[str],
    reference: Mapping[str, float],
    costs: Collection[str] = (),
) -> Belief:
    """What finished candidates say together. `reference` is the hypervolume's, by objective;
    `costs` are the objectives that are one."""
    names = tuple(objectives)
    done = [e for e in found if not e.failure]
    shape = (len(done), len(names))
    values, errors, partial = (
        np.array([[getattr(e.objectives[o], what) for o in names] for e in done]).reshape(shape)
        for what in ("mean", "se", "partial")
    )
    points = np.array([e.point for e in done]) if done else np.zeros((0, 1))
    model = posterior.fit(points, values, errors, partial, [reference[name] for name in names])
    numbers = tuple(e.number for e in done)
    calibration = {
        name: surface.calibration() for name, surface in zip(names, model.surfaces, strict=False)
    }
    why = _why_not(model, names)
    fell = {n for n, stands in zip(numbers, model.stands_N, strict=True) if not stands}
    barred = frozenset(fell if costs and len(fell) < len(numbers) else ())
    shared = np.zeros_like(errors)
    if not why:
        stands = model.stands_N
        own = np.array([surface.kernel.own_share for surface in model.surfaces])
        _, whole = gp.noise_parts(gp.usable_errors(errors), partial)
        shared[stands] = np.sqrt((1.0 - own) * whole[stands])
        values[stands] = model.mean(points[stands])
        wider = [one.widening for one in calibration.values()]
        errors[stands] = model.deviation(points[stands]) * wider
    return Belief(names, numbers, values, errors, shared, model, why, calibration, barred)


def _known(one: Estimate) -> float:
    return float(gp.usable_errors(one.se))


def _why_not(model: Posterior, names: Sequence[str]) -> str:
    """Why the model does not choose, in a few words; empty if it does."""
    standing = int(model.stands_N.sum())
    if standing < posterior.TRUSTED_FROM:
        return f"{standing} of {posterior.TRUSTED_FROM} candidates that the model needs"
    misfit = [name for name, off in zip(names, model.misfits, strict=True) if off]
    return f"the model misjudges {' and '.join(misfit)}" if misfit else ""
