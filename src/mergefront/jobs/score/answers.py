"""Models answer the same questions, with one start of an engine for those that can share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from mergefront.engine import Engine
from mergefront.engine.answering import MarkedAnswer, answer_items
from mergefront.jobs.score.models import ScoredModel
from mergefront.jobs.score.questions import Questions

Progress = Callable[[int, int], None]

CHUNK = 512
"""An engine gets so many questions at a time, so that progress can be shown."""


class ModelAnswers(NamedTuple):
    """A model's marked answers by task; `blind` holds its answers without images, or is empty."""

    model: ScoredModel
    tasks: Mapping[str, Sequence[MarkedAnswer]]
    blind: Mapping[str, Sequence[MarkedAnswer]]


def ask_models(
    models: Sequence[ScoredModel],
    questions: Questions,
    *,
    blind: bool = False,
    progress: Progress = lambda done, total: None,
) -> list[ModelAnswers]:
    """Let every model answer the same questions; with `blind` once more without images.

    An engine is started once for models that can share it.

    Raises:
        UserError: a model is missing or unreadable.
        EngineError: an engine does not start, or an item cannot be asked or answered.
    """
    items = questions.flat()
    blind_items = [replace(item, images=()) for item in items if blind and item.images]
    prompts = [*items, *blind_items]
    total, count = len(models) * len(prompts), 0
    answers: list[ModelAnswers] = []
    engine: Engine | None = None
    try:
        for place, model in enumerate(models):
            if engine is None or not model.shares_engine(models[place - 1]):
                if engine is not None:
                    engine.close()
                engine = model.open()
                engine.check(prompts)
            if (plan := model.plan()) is not None:
                engine.load(plan)
            marked: list[MarkedAnswer] = []
            for start in range(0, len(prompts), CHUNK):
                chunk = prompts[start : start + CHUNK]
                by_objective, _ = answer_items(engine, {"": chunk})
                marked += by_objective[""]
                count += len(chunk)
                progress(count, total)
            with_images, without = marked[: len(items)], marked[len(items) :]
            answers.append(ModelAnswers(model, _by_task(with_images), _by_task(without)))
    finally:
        if engine is not None:
            engine.close()
    return answers


def _by_task(answers: Sequence[MarkedAnswer]) -> dict[str, list[MarkedAnswer]]:
    tasks: dict[str, list[MarkedAnswer]] = {}
    for marked in answers:
        tasks.setdefault(marked.item.task, []).append(marked)
    return tasks
