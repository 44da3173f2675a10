"""Questions to a live engine, and marks for its answers while it still gives others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergefront.engine import Engine
from mergefront.records import Answer, Item, Score, Seconds
from mergefront.tasks.scoring import BackgroundScorer


@dataclass(frozen=True)
class MarkedAnswer:
    """One question, what the engine answered, and the mark for it."""

    item: Item
    answer: Answer
    score: Score


def answer(
    engine: Engine, asked: Mapping[str, Sequence[Item]]
) -> tuple[dict[str, list[MarkedAnswer]], Seconds]:
    """Answer and mark items, objective by objective, with the weights that are loaded.

    Returns:
        The marked answers of each objective, in the order of its items, and the seconds of
        answering and marking.

    Raises:
        EngineError: see `Engine.generate`.
    """
    start = time.perf_counter()
    flat = [item for items in asked.values() for item in items]
    marking = BackgroundScorer(flat)
    try:
        answers = engine.generate(flat, marking.take)
        generated = time.perf_counter()
    finally:
        marking.stop()
    marked = map(MarkedAnswer, flat, answers, marking.scores(answers))
    by_objective = {name: [next(marked) for _ in items] for name, items in asked.items()}
    scored = time.perf_counter()
    return by_objective, Seconds(generate=generated - start, score=scored - generated)
