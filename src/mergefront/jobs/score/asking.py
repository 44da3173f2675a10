"""Asking models the same questions, with one start of an engine for those that can share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mergefront.engine import Engine
from mergefront.jobs.score.marks import Marked
from mergefront.jobs.score.questions import Questions
from mergefront.jobs.score.subjects import Subject
from mergefront.records import Item
from mergefront.tasks.scoring import score_all

Progress = Callable[[int, int], None]

CHUNK = 512
"""Questions that an engine is given at a time, so that progress can be shown."""


@dataclass(frozen=True)
class Answered:
    """A model's marked answers by task; `blind` holds those without images, if they were asked."""

    subject: Subject
    tasks: Mapping[str, Sequence[Marked]]
    blind: Mapping[str, Sequence[Marked]]


def evaluate(
    subjects: Sequence[Subject],
    questions: Questions,
    *,
    blind: bool = False,
    progress: Progress = lambda done, total: None,
) -> list[Answered]:
    """Ask every subject the same questions; with `blind` once more without their images.

    An engine is started once for subjects that can share it.

    Raises:
        UserError: a model is missing or unreadable.
        EngineError: an engine does not start, or an item cannot be asked or answered.
    """
    items = questions.flat()
    unseen = [replace(item, images=()) for item in items if blind and item.images]
    total, done = len(subjects) * (len(items) + len(unseen)), 0
    found: list[Answered] = []
    engine: Engine | None = None
    try:
        for place, subject in enumerate(subjects):
            if engine is None or not subject.shares_engine(subjects[place - 1]):
                if engine is not None:
                    engine.close()
                engine = subject.open()
                engine.check([*items, *unseen])
            plan = subject.plan()
            if plan is not None:
                engine.load(plan)
            marked: list[Marked] = []
            for asked in _chunks([*items, *unseen]):
                marked += _asked(engine, asked)
                done += len(asked)
                progress(done, total)
            seen, without = marked[: len(items)], marked[len(items) :]
            found.append(Answered(subject, _by_task(seen), _by_task(without)))
    finally:
        if engine is not None:
            engine.close()
    return found


def _asked(engine: Engine, items: Sequence[Item]) -> list[Marked]:
    answers = engine.generate(items)
    marks = score_all(items, answers)
    return [Marked(*one) for one in zip(items, answers, marks, strict=True)]


def _chunks(items: Sequence[Item]) -> list[Sequence[Item]]:
    return [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]


def _by_task(marked: Sequence[Marked]) -> dict[str, list[Marked]]:
    tasks: dict[str, list[Marked]] = {}
    for one in marked:
        tasks.setdefault(one.item.task, []).append(one)
    return tasks
