"""The race of one run: which items a rung holds, and who leaves before the last.

State is what earlier candidates answered, taken in with `learn` in the order in which they were
told; so a resumed run that learns them again decides what the undisturbed one would have.

Not here: the estimate and the chance (`racing`), what is believed of candidates (`belief`), asking
(`search`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from mergefront.config import Racing, TokenCost
from mergefront.records import Estimate, Evaluation, Item
from mergefront.runs.belief import Belief, believe
from mergefront.runs.directory import ItemRecord
from mergefront.runs.history import BEHIND, COLLAPSED, KNOWN, constant_objectives
from mergefront.runs.units import Units, of_objective, units_of
from mergefront.stats.partial import SPREAD, Difficulty, chance_on_front, partial_estimate, prefixes
from mergefront.tasks.splits import whole_prefix

Items = Mapping[str, Sequence[Item]]

_LOT = 40  # purpose of derived seeds
_LOOK = 10  # candidates after which an objective should have moved

logger = logging.getLogger(__name__)


class Race:
    """Rungs, difficulties and the verdict for one run's candidates.

    `items` are the search items by objective in their fixed order, `reference` the hypervolume's
    reference point on them, `batch` the engine's (`Engine.batch`). `costs` are the objectives that
    ask nothing: their items are those of others, in the order in which rungs ask them.
    """

    def __init__(
        self,
        settings: Racing,
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
            name: Difficulty(len({(i.task, i.unit or i.id, bool(i.unit)) for i in mine}))
            for name, mine in items.items()
        }
        self._order = {name: order_of(cost, self.rungs) for name, cost in costs.items()}
        self._difficulty |= {name: Difficulty(len(mine)) for name, mine in self._order.items()}
        self.found: list[Evaluation] = []
        self._belief: Belief | None = None

    def learn(self, evaluation: Evaluation, records: Sequence[ItemRecord]) -> None:
        """Take in a finished candidate and its answers to search items."""
        self.found.append(evaluation)
        self._belief = None
        if len(self.found) == _LOOK:
            for name in constant_objectives(self.found, list(self._reference)):
                logger.warning(
                    "objective %s: all of the first candidates score the same, so that its items "
                    "tell nothing apart; look at its answers in the item files, and at its task",
                    name,
                )
        if evaluation.failure or evaluation.raced.left:
            return
        for name, difficulty in self._difficulty.items():
            difficulty.learn(self._units(records, name).scores)

    def _units(self, records: Sequence[ItemRecord], name: str) -> Units:
        """An objective's units, of which those of a prefix come first."""
        mine = of_objective(records, name)
        if name in self._order:
            mine.sort(key=lambda record: self._order[name][record.task, record.item])
        return units_of(mine)

    def correct(self, evaluation: Evaluation) -> None:
        """Take in what a candidate that had left scores now that it has answered the rest."""
        numbers = [e.number for e in self.found]
        self.found[numbers.index(evaluation.number)] = evaluation
        self._belief = None

    @property
    def belief(self) -> Belief:
        """What the candidates so far say together."""
        if self._belief is None:
            names = list(self._reference)
            self._belief = believe(self.found, names, self._reference, self._order)
        return self._belief

    def answers_all(self, number: int) -> bool:
        """Whether a candidate answers every item whatever its chances: the first ones, and one in
        `full_every` by a lot that depends on seed and number alone."""
        if not self._settings.enabled or number < self._settings.full_first:
            return True
        lot = np.random.default_rng(np.random.SeedSequence([self._seed, _LOT, number]))
        return bool(lot.random() < 1.0 / self._settings.full_every)

    def estimate(self, records: Sequence[ItemRecord]) -> dict[str, Estimate]:
        """Objective -> estimate of a candidate from its answers to a prefix, or to all items."""
        found = {}
        for name, difficulty in self._difficulty.items():
            units = self._units(records, name)
            spread = difficulty.spread() if name in self._order else SPREAD
            hard = difficulty.mean()
            found[name] = partial_estimate(units.scores, units.clusters, hard, spread)
        return found

    def verdict(self, point: Sequence[float], estimates: Mapping[str, Estimate]) -> str:
        """BEHIND, KNOWN or COLLAPSED if a candidate should leave now, else empty.

        With a model that is trusted, what it foretold of the point and what the candidate has
        shown are joined, each weighted by its precision, and compared with the front that the
        model believes. Without, the estimate is compared with the front of the scores. Enough is
        known of a candidate when all answers would make its error smaller by less than the factor
        `enough`; the surer it is to be on the front, the nearer that factor comes to 1.
        """
        if any(
            one.mean + 2.0 * one.partial < 0.5 * self._reference[name]
            for name, one in estimates.items()
        ):
            return COLLAPSED
        belief = self.belief
        shown = [estimates[name] for name in self._reference]
        mean_M, deviation_M = np.array([(one.mean, one.partial) for one in shown]).T
        whole_M = np.array([math.sqrt(max(0.0, e.se**2 - e.partial**2)) for e in shown])
        foretold, enough = belief.foretold(point), self._settings.enough
        if foretold is not None:
            kernels = [surface.kernel for surface in belief.model.surfaces]
            both = list(zip(kernels, shown, whole_M, strict=True))
            noise_M = np.array([kernel.noise(e.se, e.partial) for kernel, e, _ in both])
            full_M = np.array([kernel.noise(whole, 0.0) for kernel, _, whole in both])
            before_M = 1.0 / np.maximum(foretold[1], 1e-6) ** 2
            deviation_M = 1.0 / np.sqrt(before_M + 1.0 / noise_M)
            mean_M = deviation_M**2 * (before_M * foretold[0] + mean_M / noise_M)
            whole_M = 1.0 / np.sqrt(before_M + 1.0 / full_M)
        chance = chance_on_front(mean_M, deviation_M, belief.front_KM, self._settings.margin)
        if chance < self._settings.delta:
            return BEHIND
        enough = 1.0 + (enough - 1.0) * (1.0 - chance)  # who may be on the front is asked more
        known = self._settings.enough > 1.0 and bool((deviation_M <= enough * whole_M).all())
        return KNOWN if known else ""


def rungs_of(items: Items, settings: Racing, batch: int = 1) -> list[dict[str, list[Item]]]:
    """What each rung asks, objective -> items not asked before; together all items, once.

    Every rung ends at the same share of all objectives, units stay whole, and none holds fewer
    items than `batch`. Without racing there is one rung.
    """
    longest = max(len(mine) for mine in items.values())
    total = sum(len(mine) for mine in items.values())
    least = -(-batch * longest // total)
    ends = prefixes(longest, settings.rungs, least) if settings.enabled else [longest]
    rungs: list[dict[str, list[Item]]] = []
    asked = dict.fromkeys(items, 0)
    for end in ends:
        rung = {}
        for name, mine in items.items():
            upto = len(whole_prefix(mine, max(1, round(end / longest * len(mine)))))
            if not upto:  # the first unit is larger than that: nobody is judged on nothing
                upto = next((k for k in range(1, len(mine)) if not _together(mine, k)), len(mine))
            upto = len(mine) if end == longest else max(upto, asked[name])
            rung[name] = list(mine[asked[name] : upto])
            asked[name] = upto
        rungs.append(rung)
    return [rung for rung in rungs if any(rung.values())]


def order_of(
    cost: TokenCost, rungs: Sequence[Mapping[str, Sequence[Item]]]
) -> dict[tuple[str, str], int]:
    """Task and id of the items that a cost counts -> place in the order in which they are asked."""
    asked = [(i.task, i.id) for rung in rungs for name in cost.tokens_of for i in rung[name]]
    return {key: place for place, key in enumerate(dict.fromkeys(asked))}


def _together(items: Sequence[Item], k: int) -> bool:
    """Whether a cut before item k would break a unit."""
    return bool(items[k].unit) and items[k].unit == items[k - 1].unit
