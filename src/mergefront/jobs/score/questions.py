"""What is asked of a model: items by task and split; and which of a run's were opened for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mergefront.errors import UserError
from mergefront.jobs.score.subjects import Subject
from mergefront.records import SPLITS, Item, Split
from mergefront.runs import study as ledger
from mergefront.runs.directory import RunDirectory
from mergefront.runs.history import open_study
from mergefront.tasks import item_set, load_task, pool_of, task_path
from mergefront.tasks.scoring.labels import has_labels, with_labels
from mergefront.tasks.splits import whole_prefix

Which = Literal["search", "validation", "test", "all"]


@dataclass(frozen=True)
class Questions:
    """Task -> split -> items, in the order in which they are asked."""

    tasks: Mapping[str, Mapping[Split, Sequence[Item]]]

    def of(self, task: str) -> list[Item]:
        """All items of a task; one that is in several splits comes once."""
        return list({i.id: i for items in self.tasks[task].values() for i in items}.values())

    def flat(self) -> list[Item]:
        return [item for task in self.tasks for item in self.of(task)]

    def splits(self) -> set[Split]:
        return {split for by_split in self.tasks.values() for split in by_split}

    def by_labels(self) -> Questions:
        """The same, scored by the log-probabilities of labels where an item has any.

        Raises:
            UserError: no item of a task has labels.
        """
        for task in self.tasks:
            if not any(has_labels(item) for item in self.of(task)):
                with_labels(self.of(task)[0])  # says why not
        return Questions({
            task: {
                split: [with_labels(item) if has_labels(item) else item for item in items]
                for split, items in found.items()
            }
            for task, found in self.tasks.items()
        })  # fmt: skip

    def mode(self, task: str | None = None) -> str:
        """How answers of a task, or all, come about: `generate`, `labels` (by log-probability), or
        `mixed`."""
        items = self.flat() if task is None else self.of(task)
        modes = {"labels" if item.labels else "generate" for item in items}
        return modes.pop() if len(modes) == 1 else "mixed"


def chosen(names: Sequence[str], which: Which, limit: int | None = None) -> Questions:
    """The first `limit` items (or all) a task of the named tasks (library, or YAML files).

    Raises:
        UserError: a task is unknown or faulty, is named twice, or has no such items.
    """
    paths: dict[str, Path] = {}
    for name in names:
        path = task_path(name, Path())
        task = load_task(path)
        if task.name in paths:
            raise UserError(
                f"--tasks: the task {task.name!r} is given twice",
                hint="name each task once; two files of one name: change `name:` in one",
            )
        paths[task.name] = path
    tasks = {}
    for name, path in paths.items():
        pool = pool_of(load_task(path), path.parent)
        sizes = _shares({split: pool.size(split) for split in _splits(which)}, limit)
        tasks[name] = {split: pool.take(split, n) for split, n in sizes.items()}
    return _some(Questions(tasks), which)


def of_run(run: RunDirectory, which: Which, limit: int | None = None) -> Questions:
    """The items that a run asks, by task.

    Raises:
        RunError: the items are not those that the run was started with.
        UserError: they cannot be read.
    """
    found = item_set(run.config.objective_tasks, run.config.items, Path())
    run.check_manifest({"items": found.card()})
    by_task: dict[str, dict[Split, list[Item]]] = {}
    for split in _splits(which):
        for item in found.flat(split):
            by_task.setdefault(item.task, {}).setdefault(split, []).append(item)
    tasks = {}
    for task, items in by_task.items():
        sizes = _shares({split: len(items[split]) for split in items}, limit)
        tasks[task] = {split: whole_prefix(items[split], n) for split, n in sizes.items()}
    return _some(Questions(tasks), which)


def _splits(which: Which) -> tuple[Split, ...]:
    return SPLITS if which == "all" else (which,)


def _shares(sizes: Mapping[Split, int], limit: int | None) -> dict[Split, int]:
    """How many items of each split make up the limit, or all; splits in their order."""
    left = sum(sizes.values()) if limit is None else limit
    shares = {}
    for split, size in sizes.items():
        shares[split] = min(left, size)
        left -= shares[split]
    return {split: n for split, n in shares.items() if n}


def _some(questions: Questions, which: Which) -> Questions:
    for task in questions.tasks:
        if not questions.of(task):
            raise UserError(
                f"task {task}: it has no {'' if which == 'all' else f'{which} '}items",
                hint="choose another --split; `mergefront tasks check` shows the sizes",
            )
    return questions


def openings(subjects: Sequence[Subject], questions: Questions) -> list[str]:
    """Record in each run's study which of its held-out items are opened for whom; say so.

    Raises:
        RunError: another process is searching in the run.
    """
    notes = []
    for subject in subjects:
        run = subject.run
        if run is None or not set(questions.tasks) & _own_tasks(run):
            continue
        splits = questions.splits()
        if "search" in splits and subject.member.isdigit():
            notes.append(
                f"{subject.name} was chosen on its search items: its score on them is optimistic"
            )
        held_out: list[Split] = [s for s in ("validation", "test") if s in splits]
        if held_out:
            _record(run, held_out, subject.member)
            notes.append(
                f"{' and '.join(held_out)} items of {run.path} opened for {subject.name}; "
                "recorded in its study"
            )
    return notes


def _own_tasks(run: RunDirectory) -> set[str]:
    names = [name for tasks in run.config.objective_tasks.values() for name in tasks]
    return {load_task(task_path(name, Path())).name for name in names}


def _record(run: RunDirectory, splits: Sequence[Split], member: str) -> None:
    release = run.lock()
    try:
        study = open_study(run)
        for split in splits:
            ledger.record_opening(study, split, member, len(ledger.finished(study)))
    finally:
        release()
