"""Questions to a live engine, and marks for its answers while it still gives others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from mergefront.engine import Engine
from mergefront.records import Item, Seconds, Split
from mergefront.rundir import ItemRecord, item_records
from mergefront.scoring import Beside


def answer(
    engine: Engine, asked: Mapping[str, Sequence[Item]], split: Split, rung: int = 0
) -> tuple[list[ItemRecord], Seconds]:
    """Answer and mark items, objective by objective, with the weights that are loaded.

    Returns the records, which are not stored, and the seconds of answering and marking.

    Raises:
        EngineError: see `Engine.generate`.
    """
    start = time.perf_counter()
    flat = [item for items in asked.values() for item in items]
    marking = Beside(flat)
    try:
        answers = engine.generate(flat, marking.take)
        generated = time.perf_counter()
    finally:
        marking.stop()
    said, marks = iter(answers), iter(marking.scores(answers))
    records: list[ItemRecord] = []
    for objective, items in asked.items():
        mine = [next(said) for _ in items], [next(marks) for _ in items]
        records += item_records(split, objective, items, *mine, rung=rung)
    scored = time.perf_counter()
    return records, Seconds(generate=generated - start, score=scored - generated)
