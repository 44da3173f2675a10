"""An engine answers items, and its answers are marked while it still generates others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergefront.engine.contract import Engine
from mergefront.records import Answer, Item, Score, Seconds
from mergefront.tasks.scoring import BackgroundScorer


@dataclass(frozen=True)
class MarkedAnswer:
    """One item, the engine's answer to it, and its score."""

    item: Item
    answer: Answer
    score: Score


def answer_items(
    engine: Engine, items_by_objective: Mapping[str, Sequence[Item]]
) -> tuple[dict[str, list[MarkedAnswer]], Seconds]:
    """Answer and mark items, objective by objective, with the loaded weights.

    Returns:
        The marked answers of each objective, in the order of its items, and the seconds of
        answering and of the marking that was left after it.

    Raises:
        EngineError: see `Engine.generate`.
    """
    start = time.perf_counter()
    items = [item for part in items_by_objective.values() for item in part]
    scorer = BackgroundScorer(items)
    try:
        answers = engine.generate(items, scorer.take)
        generation_end = time.perf_counter()
    finally:
        scorer.stop()
    marked = map(MarkedAnswer, items, answers, scorer.scores(answers))
    by_objective = {
        objective: [next(marked) for _ in part] for objective, part in items_by_objective.items()
    }
    end = time.perf_counter()
    return by_objective, Seconds(generate=generation_end - start, score=end - generation_end)
