"""When a search ends: what must be kept of its time for the end, and what more could be gained.

Not here: the time used (`clock`), the budget in candidates (`loop`), which point to try next
(`sampling`).

Reading order: `reserve`, `Patience` on `expected_gain`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from mergefront.config import BLIND_ITEMS, RunConfig
from mergefront.records import Evaluation
from mergefront.runs.belief import Belief
from mergefront.runs.members import choose_members
from mergefront.sampling.noisy_gp import pool
from mergefront.seeds import Purpose, generator
from mergefront.stats.pareto import hypervolume, improvements
from mergefront.tasks import ItemSet

if TYPE_CHECKING:
    from mergefront.search.race import Race

logger = logging.getLogger(__name__)

EVERY: Final = 5
"""So many candidates are between two looks."""

_RECENT = 20  # candidates whose seconds are averaged
_MARGIN = 1.1  # for what takes longer than the average
_COMPLETIONS = 3.0  # of the members now: others take their places (measured: 1.0 and 3.2)
_STARTS = 2.0  # of the engine, which take as long as to write, to load and to check an export
_REPORT_SECONDS = 5.0  # figures and page, besides what the margin gives

_LOOKS = 3  # in a row that must find too little
_DRAWS = 25  # of the surfaces, for an expected gain


def reserve(config: RunConfig, items: ItemSet, race: Race, start_seconds: float) -> float:
    """Return the seconds to keep for one more candidate and all that follows the search.

    That is the completion of members, validation, test, the blind control, report and export. By
    what the last candidates took for a question and for a model, and by `start_seconds`, which the
    engine took to start. 0 without a budget in hours, or before any candidate has answered.
    """
    timed = [e for e in race.evaluations if not e.failure and e.seconds.generate > 0]
    if not timed or config.budget.hours is None:
        return 0.0
    sizes = [sum(len(part) for part in rung.values()) for rung in race.rungs]
    # A short rung takes longer for a question than the whole splits that are asked at the end.
    timed = ([e for e in timed if answered_everything(e)] or timed)[-_RECENT:]
    answering = sum(e.seconds.generate + e.seconds.score for e in timed)
    per_question = answering / sum(sum(sizes[: _rungs(e, sizes)]) for e in timed)
    per_model = (sum(e.seconds.total for e in timed) - answering) / len(timed)
    members = would_be_members(race.evaluations, config, race.belief)
    incomplete = [sum(sizes[e.raced.rungs :]) for e in members if not answered_everything(e)]
    validated = 1 + min(len(members) + 1, config.report.finalists)  # and the receiver
    picked = 1 + min(2 + len(config.objectives), validated - 1)  # knee, guarded, the best of each
    unseen = min(len(items.flat("validation")), BLIND_ITEMS * len(config.objective_tasks))
    blind = picked if config.report.blind else 0
    models = 1 + _COMPLETIONS * len(incomplete) + validated + picked + blind
    questions = (
        sum(sizes)
        + _COMPLETIONS * sum(incomplete)
        + validated * len(items.flat("validation"))
        + picked * len(items.flat("test"))
        + blind * unseen
    )
    export = 0.0
    if config.export:  # it is loaded in transformers, and asked the test items in a new engine
        export = _STARTS * start_seconds + per_question * len(items.flat("test"))
    return _MARGIN * (per_question * questions + per_model * models + export) + _REPORT_SECONDS


def _rungs(evaluation: Evaluation, sizes: Sequence[int]) -> int:
    """Return how many rungs a candidate has answered."""
    return len(sizes) if evaluation.raced.completed else evaluation.raced.rungs


def would_be_members(
    evaluations: Sequence[Evaluation], config: RunConfig, belief: Belief
) -> list[Evaluation]:
    """Return the candidates that would be members if nobody answered any more, by number."""
    scored = [e for e in evaluations if not e.failure]
    numbers = set(choose_members(scored, config, belief)) if scored else set()
    return [e for e in scored if e.number in numbers]


def answered_everything(evaluation: Evaluation) -> bool:
    """Whether a candidate has answered every search item."""
    return evaluation.raced.completed or not evaluation.raced.left


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
