"""When a search ends: time, what must be kept of it for the end, and what more could be gained.

Not here: the budget in candidates (`loop`), which point to try next (`sampling`).

Reading order: `Clock`, `reserve`, `Patience` on `expected_gain`.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from mergefront.config import BLIND_ITEMS, RunConfig
from mergefront.records import Evaluation
from mergefront.runs.belief import Belief
from mergefront.sampling.noisy_gp import pool
from mergefront.seeds import Purpose, generator
from mergefront.stats.pareto import hypervolume, improvements
from mergefront.tasks import ItemSet

logger = logging.getLogger(__name__)

EVERY: Final = 5
"""So many candidates are between two looks."""

_LOOKS = 3  # in a row that must find too little
_DRAWS = 25  # of the surfaces, for an expected gain


@dataclass
class Clock:
    """Wall seconds that a run has used, over all its sessions, against its budget of hours.

    `before` are the seconds of earlier sessions; `started` is when this one began.
    """

    hours: float | None
    before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Return the seconds that all sessions have used so far."""
        return self.before + time.monotonic() - self.started

    def left(self) -> float:
        """Return the seconds that are left; infinite without a budget in hours."""
        return float("inf") if self.hours is None else self.hours * 3600 - self.elapsed()


def reserve(config: RunConfig, items: ItemSet, history: Sequence[Evaluation]) -> float:
    """Return the seconds to keep for one more candidate, validation, test and export.

    By the dearest item of the last five candidates that answered any; 0 without a budget in hours.
    """
    timed = [e for e in history if not e.failure and e.seconds.generate > 0]
    if not timed or config.budget.hours is None:
        return 0.0
    per_item = max(e.seconds.total / e.answered(config.costs) for e in timed[-5:])
    validated = (config.report.finalists + 1) * len(items.flat("validation"))
    pickable = 3 + len(config.objectives)  # knee, guarded, the receiver
    tested = pickable * len(items.flat("test"))
    unseen = min(len(items.flat("validation")), BLIND_ITEMS * len(config.objective_tasks))
    blind = pickable * unseen if config.report.blind else 0
    questions = len(items.flat("search")) + validated + tested + blind
    export = 120.0 if config.export else 10.0
    return float(1.2 * per_item * questions + export)


def expected_gain(
    belief: Belief, history: Sequence[Evaluation], reference: Sequence[float], seed: int
) -> float | None:
    """Return what the next candidate adds to the hypervolume of the believed front, on average.

    Surfaces are drawn jointly at the front's members and at a pool of new points. Of each pair of
    draws, one says which point adds most, as Thompson sampling would propose it, and the other says
    what that point adds. None while the model is not trusted.
    """
    if not belief.by_model or not belief.front:
        return None
    points = {e.number: e.point for e in history}
    front_KD = np.array([points[number] for number in belief.front])
    random = generator(seed, Purpose.EXPECTED_GAIN, len(history))
    points_PD = np.vstack([front_KD, pool(front_KD, random)])
    worth = []
    for _ in range(_DRAWS):
        drawn = np.column_stack(
            [surface.draw(points_PD, random) for surface in belief.model.surfaces]
        )
        front_KM, new_PM = np.split(drawn, [len(front_KD)])
        worth.append(improvements(new_PM, front_KM, np.array(reference)))
    gains = [b_P[int(np.argmax(a_P))] for a_P, b_P in itertools.pairwise(worth)]
    return float(np.maximum(gains, 0.0).mean())


class Patience:
    """Looks every `EVERY` candidates whether the expected gain of an hour is still worth it.

    `least` is a share of the present hypervolume; three looks in a row must expect less. After a
    look, `rate` is the expected share an hour.
    """

    def __init__(self, least: float | None, reference: Sequence[float], seed: int) -> None:
        self._least = least
        self._reference = list(reference)
        self._seed = seed
        self._looks_in_a_row = 0
        self.rate: float | None = None

    def ended(self, belief: Belief, history: Sequence[Evaluation]) -> bool:
        """Whether to stop now; the log then says why."""
        if self._least is None or len(history) % EVERY:
            return False
        gain = expected_gain(belief, history, self._reference, self._seed)
        seconds = [e.seconds.total for e in history[-4 * EVERY :] if e.seconds.generate > 0]
        volume = hypervolume(belief.front_KM, self._reference) if belief.front else 0.0
        if gain is None or not seconds or volume <= 0:
            return False
        self.rate = gain / volume * 3600.0 / float(np.mean(seconds))
        self._looks_in_a_row = self._looks_in_a_row + 1 if self.rate < self._least else 0
        if self._looks_in_a_row < _LOOKS:
            return False
        logger.warning(
            "the search ends early: another hour is expected to add %.2g %% to the hypervolume, "
            "less than budget.min_gain",
            100 * self.rate,
        )
        return True
