"""The race of one run: which items a rung holds, and which candidates leave before the last.

Its state comes from the answers of earlier candidates, taken in by `learn` in the order in which
they were told. So a resumed run that learns them again makes the same decisions.

Not here: the estimate and the chance (`stats.partial`), what is believed of candidates
(`runs.belief`), the questions to the engine (`loop`).

Reading order: `Race.verdict`, `Race.learn`, `rungs_of`. Shapes: M objectives.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from mergefront.config import RacingConfig, TokenCost
from mergefront.records import Estimate, Evaluation, Item
from mergefront.runs.belief import Belief, fit_belief
from mergefront.runs.directory import ItemRecord
from mergefront.runs.history import BEHIND, COLLAPSED, KNOWN, constant_objectives
from mergefront.runs.units import Units, of_objective, units_of
from mergefront.seeds import Purpose, generator
from mergefront.stats.partial import SPREAD, Difficulty, chance_on_front, partial_estimate, prefixes
from mergefront.tasks.splits import whole_prefix

Items = Mapping[str, Sequence[Item]]

_CHECK_FLAT_AFTER = 10  # candidates; an objective that is constant so far gets a warning

logger = logging.getLogger(__name__)


class Race:
    """Rungs, difficulties and the verdict for one run's candidates.

    `items` are the search items by objective in their fixed order, `reference` the hypervolume's
    reference point on them, `batch` the engine's (`Engine.batch`). `costs` are objectives
    that are scored on other objectives' answers, in the order in which rungs ask the items.

    `evaluations` are the finished candidates so far, and `belief` is fitted to them.
    """

    def __init__(
        self,
        settings: RacingConfig,
        items: Items,
        reference: Mapping[str, float],
        seed: int,
        batch: int = 1,
        costs: Mapping[str, TokenCost] = MappingProxyType({}),
    ) -> None:
        self._settings = settings
        self._reference = dict(reference)
        self._seed = seed
        self.rungs = rungs_of(items, settings, batch)
        self._difficulty = {
            name: Difficulty(len({(i.task, i.unit or i.id, bool(i.unit)) for i in objective_items}))
            for name, objective_items in items.items()
        }
        self._order = {name: order_of_cost_items(cost, self.rungs) for name, cost in costs.items()}
        self._difficulty |= {name: Difficulty(len(order)) for name, order in self._order.items()}
        self.evaluations: list[Evaluation] = []
        self.belief = self._believe()

    def learn(self, evaluation: Evaluation, records: Sequence[ItemRecord]) -> None:
        """Take in a finished candidate and its answers to search items."""
        self.learn_all([(evaluation, records)])

    def learn_all(self, history: Iterable[tuple[Evaluation, Sequence[ItemRecord]]]) -> None:
        """Take in several finished candidates in the order in which they were told."""
        for evaluation, records in history:
            self.evaluations.append(evaluation)
            if len(self.evaluations) == _CHECK_FLAT_AFTER:
                self._warn_of_flat_objectives()
            if evaluation.failure or evaluation.raced.left:
                continue
            for name, difficulty in self._difficulty.items():
                difficulty.learn(self._units(records, name).scores)
        self.belief = self._believe()

    def replace_evaluation(self, evaluation: Evaluation) -> None:
        """Take in the new evaluation of a candidate that had left and has now answered the rest."""
        numbers = [e.number for e in self.evaluations]
        self.evaluations[numbers.index(evaluation.number)] = evaluation
        self.belief = self._believe()

    def _believe(self) -> Belief:
        return fit_belief(self.evaluations, list(self._reference), self._reference, self._order)

    def _warn_of_flat_objectives(self) -> None:
        for name in constant_objectives(self.evaluations, list(self._reference)):
            logger.warning(
                "objective %s: all of the first candidates score the same, so that its items "
                "tell nothing apart; look at its answers in the item files, and at its task",
                name,
            )

    def _units(self, records: Sequence[ItemRecord], name: str) -> Units:
        """Return an objective's units; those of a prefix come first."""
        of_name = of_objective(records, name)
        if name in self._order:
            of_name.sort(key=lambda record: self._order[name][record.task, record.item])
        return units_of(of_name)

    def answers_all(self, number: int) -> bool:
        """Whether a candidate answers every item, whatever its chances.

        This is true for the first `full_first`, and at random for one in `full_every`; the draw
        depends on seed and number alone.
        """
        if not self._settings.enabled or number < self._settings.full_first:
            return True
        lot = generator(self._seed, Purpose.RACE_LOT, number).random()
        return bool(lot < 1.0 / self._settings.full_every)

    def estimate(self, records: Sequence[ItemRecord]) -> dict[str, Estimate]:
        """Objective -> estimate of a candidate from its answers to a prefix, or to all items."""
        estimates = {}
        for name, difficulty in self._difficulty.items():
            units = self._units(records, name)
            spread = difficulty.spread() if name in self._order else SPREAD
            hard = difficulty.mean()
            estimates[name] = partial_estimate(units.scores, units.clusters, hard, spread)
        return estimates

    def verdict(self, point: Sequence[float], estimates: Mapping[str, Estimate]) -> str:
        """BEHIND, KNOWN or COLLAPSED if a candidate should leave now, else empty.

        With a trusted model, its prediction for the point and the measured estimate are averaged,
        weighted by precision, and compared with the believed front. Without one, the estimate is
        compared with the front of the scores. A candidate is known well enough if answering
        everything would divide its error by less than `enough`; the likelier it is to be on the
        front, the nearer that factor is to 1.
        """
        if any(
            estimate.mean + 2.0 * estimate.partial < 0.5 * self._reference[name]
            for name, estimate in estimates.items()
        ):
            return COLLAPSED
        shown = [estimates[name] for name in self._reference]
        mean_M, deviation_M = np.array([(e.mean, e.partial) for e in shown]).T
        # The error that would remain if every search item were answered.
        whole_M = np.array([math.sqrt(max(0.0, e.se**2 - e.partial**2)) for e in shown])
        foretold = self.belief.predict(point)
        if foretold is not None:
            kernels = [surface.kernel for surface in self.belief.model.surfaces]
            answered = list(zip(kernels, shown, whole_M, strict=True))
            noise_M = np.array([kernel.noise(e.se, e.partial) for kernel, e, _ in answered])
            full_M = np.array([kernel.noise(whole, 0.0) for kernel, _, whole in answered])
            # Product of two normal densities: precisions add, means are weighted by them.
            precision_M = 1.0 / np.maximum(foretold[1], 1e-6) ** 2
            deviation_M = 1.0 / np.sqrt(precision_M + 1.0 / noise_M)
            mean_M = deviation_M**2 * (precision_M * foretold[0] + mean_M / noise_M)
            whole_M = 1.0 / np.sqrt(precision_M + 1.0 / full_M)
        margin, enough = self._settings.margin, self._settings.enough
        chance = chance_on_front(mean_M, deviation_M, self.belief.front_KM, margin)
        if chance < self._settings.delta:
            return BEHIND
        factor = 1.0 + (enough - 1.0) * (1.0 - chance)  # likely members answer more
        known_enough = enough > 1.0 and bool((deviation_M <= factor * whole_M).all())
        return KNOWN if known_enough else ""


def rungs_of(items: Items, settings: RacingConfig, batch: int = 1) -> list[dict[str, list[Item]]]:
    """Return what each rung asks, objective -> items not asked before; together all items, once.

    Every rung ends at the same share of all objectives, units stay whole, and none holds fewer
    items than `batch`. Without racing there is one rung.
    """
    longest = max(len(objective_items) for objective_items in items.values())
    total = sum(len(objective_items) for objective_items in items.values())
    least = -(-batch * longest // total)
    ends = prefixes(longest, settings.rungs, least) if settings.enabled else [longest]
    rungs: list[dict[str, list[Item]]] = []
    starts = dict.fromkeys(items, 0)
    for end in ends:
        rung = {}
        for name, objective_items in items.items():
            stop = _rung_end(objective_items, end / longest)
            stop = len(objective_items) if end == longest else max(stop, starts[name])
            rung[name] = list(objective_items[starts[name] : stop])
            starts[name] = stop
        rungs.append(rung)
    return [rung for rung in rungs if any(rung.values())]


def _rung_end(items: Sequence[Item], share: float) -> int:
    """Return how many items a prefix of about that share has; units stay whole."""
    whole = len(whole_prefix(items, max(1, round(share * len(items)))))
    if whole:
        return whole
    # The first unit is larger than the share, so the rung takes that unit whole.
    return next((k for k in range(1, len(items)) if not _breaks_unit(items, k)), len(items))


def order_of_cost_items(
    cost: TokenCost, rungs: Sequence[Mapping[str, Sequence[Item]]]
) -> dict[tuple[str, str], int]:
    """Return the order in which a cost's items are asked: (task, id) -> place."""
    keys = [(i.task, i.id) for rung in rungs for name in cost.tokens_of for i in rung[name]]
    return {key: place for place, key in enumerate(dict.fromkeys(keys))}


def _breaks_unit(items: Sequence[Item], k: int) -> bool:
    """Whether a cut before item k would break a unit."""
    return bool(items[k].unit) and items[k].unit == items[k - 1].unit
