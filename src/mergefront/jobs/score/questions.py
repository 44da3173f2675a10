"""The items that models are scored on, by task and split, and the models' answers to them.

A run's study records who opened its items. An engine is started once for models that can share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from mergefront.engine import Engine
from mergefront.engine.answering import MarkedAnswer, answer_items
from mergefront.errors import UserError
from mergefront.jobs.score.models import ScoredModel
from mergefront.records import SPLITS, Item, Split
from mergefront.runs.directory import RunDirectory
from mergefront.runs.history import open_study
from mergefront.runs.study import finished, record_opening
from mergefront.tasks import item_set, load_task, pool_of, task_path
from mergefront.tasks.scoring.choices import has_labels, with_labels
from mergefront.tasks.splits import whole_prefix

SplitChoice = Literal["search", "validation", "test", "all"]
Mode = Literal["generate", "labels", "mixed"]


@dataclass(frozen=True)
class Questions:
    """Task -> split -> items, in the order of the engine's questions."""

    tasks: Mapping[str, Mapping[Split, Sequence[Item]]]

    def of(self, task: str) -> list[Item]:
        """Return all items of a task; an item that is in several splits comes once."""
        return list({i.id: i for items in self.tasks[task].values() for i in items}.values())

    def flat(self) -> list[Item]:
        """Return all items, task by task."""
        return [item for task in self.tasks for item in self.of(task)]

    def splits(self) -> set[Split]:
        """Return the splits that the items are of."""
        return {split for by_split in self.tasks.values() for split in by_split}

    def by_labels(self) -> Questions:
        """Return the same items, scored by the log-probabilities of labels where they have any.

        Raises:
            UserError: no item of a task has labels.
        """
        for task in self.tasks:
            if not any(has_labels(item) for item in self.of(task)):
                with_labels(self.of(task)[0])  # raises the error that says why not
        return Questions({
            task: {
                split: [with_labels(item) if has_labels(item) else item for item in items]
                for split, items in by_split.items()
            }
            for task, by_split in self.tasks.items()
        })  # fmt: skip

    def mode(self, task: str | None = None) -> Mode:
        """Return how a task, or all, is answered; `labels` means by their log-probabilities."""
        items = self.flat() if task is None else self.of(task)
        modes: set[Mode] = {"labels" if item.labels else "generate" for item in items}
        return modes.pop() if len(modes) == 1 else "mixed"


def questions_of_tasks(
    names: Sequence[str], split_choice: SplitChoice, limit: int | None = None
) -> Questions:
    """Return the first `limit` items (or all) of each named task (library, or YAML files).

    Raises:
        UserError: a task is unknown or faulty, is named twice, or has no such items.
    """
    tasks: dict[str, dict[Split, list[Item]]] = {}
    for name in names:
        path = task_path(name, Path())
        task = load_task(path)
        if task.name in tasks:
            raise UserError(
                f"--tasks: the task {task.name!r} is given twice",
                hint="name each task once; two files of one name: change `name:` in one",
            )
        pool = pool_of(task, path.parent)
        sizes = _split_sizes({split: pool.size(split) for split in _splits(split_choice)}, limit)
        tasks[task.name] = {split: pool.take(split, n) for split, n in sizes.items()}
    return _checked(Questions(tasks), split_choice)


def questions_of_run(
    run: RunDirectory, split_choice: SplitChoice, limit: int | None = None
) -> Questions:
    """Return the items of a run's tasks, at most the first `limit` of each.

    Raises:
        RunError: the items are not those that the run was started with.
        UserError: they cannot be read.
    """
    run_items = item_set(run.config.objective_tasks, run.config.items, Path())
    run.check_manifest({"items": run_items.card()})
    by_task: dict[str, dict[Split, list[Item]]] = {}
    for split in _splits(split_choice):
        for item in run_items.flat(split):
            by_task.setdefault(item.task, {}).setdefault(split, []).append(item)
    tasks = {}
    for task, items in by_task.items():
        sizes = _split_sizes({split: len(items[split]) for split in items}, limit)
        tasks[task] = {split: whole_prefix(items[split], n) for split, n in sizes.items()}
    return _checked(Questions(tasks), split_choice)


def _splits(split_choice: SplitChoice) -> tuple[Split, ...]:
    return SPLITS if split_choice == "all" else (split_choice,)


def _split_sizes(sizes: Mapping[Split, int], limit: int | None) -> dict[Split, int]:
    """Return how many items of each split make up the limit, or all, in the splits' order."""
    rest = sum(sizes.values()) if limit is None else limit
    shares = {}
    for split, size in sizes.items():
        shares[split] = min(rest, size)
        rest -= shares[split]
    return {split: n for split, n in shares.items() if n}


def _checked(questions: Questions, split_choice: SplitChoice) -> Questions:
    items = "items" if split_choice == "all" else f"{split_choice} items"
    for task in questions.tasks:
        if not questions.of(task):
            raise UserError(
                f"task {task}: it has no {items}",
                hint="choose another --split; `mergefront tasks check` shows the sizes",
            )
    return questions


def record_openings(models: Sequence[ScoredModel], questions: Questions) -> list[str]:
    """Record in each run's study that its held-out items are opened for a model; return notes.

    Raises:
        RunError: another process is searching in the run.
    """
    notes = []
    for model in models:
        run = model.run
        if run is None or not set(questions.tasks) & _tasks_of_run(run):
            continue
        splits = questions.splits()
        if "search" in splits and model.member.isdigit():
            notes.append(
                f"{model.name} was chosen on its search items: its score on them is optimistic"
            )
        held_out: list[Split] = [s for s in ("validation", "test") if s in splits]
        if held_out:
            release = run.lock()
            try:
                study = open_study(run)
                for split in held_out:
                    record_opening(study, split, model.member, len(finished(study)))
            finally:
                release()
            notes.append(
                f"{' and '.join(held_out)} items of {run.path} opened for {model.name}; "
                "recorded in its study"
            )
    return notes


def _tasks_of_run(run: RunDirectory) -> set[str]:
    names = [name for tasks in run.config.objective_tasks.values() for name in tasks]
    return {load_task(task_path(name, Path())).name for name in names}


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
