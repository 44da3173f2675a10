"""A task's rows -> its items, every fault found, before they are divided into splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mergefront.errors import UserError
from mergefront.records import Item, Split
from mergefront.tasks import cache
from mergefront.tasks.cells import Row, cell_of, text_of
from mergefront.tasks.pictures import Picture, joint_hash, pictures_of
from mergefront.tasks.rows import check_columns, item_of, kept, label_of, split_of
from mergefront.tasks.source import Table, open_table
from mergefront.tasks.spec import CONFIG, SPLIT, Task

MOST_FAULTY = 0.05
"""Share of faulty rows that `faulty: drop` puts up with: beyond it the task file is wrong."""


@dataclass(frozen=True)
class Gathered:
    """A task's items before they are divided.

    `items` have the sha256 of their images in place of the images; `pictures` and `questions` give
    by item id what the data has. `declared` are the splits that a column names, or empty.
    """

    task: Task
    items: list[Item]
    declared: list[Split]
    pictures: dict[str, tuple[Picture, ...]]
    questions: dict[str, str]
    faulty: tuple[str, ...]
    warnings: tuple[str, ...]
    revision: str | None
    source_sha256: str | None


def gather(task: Task, folder: Path, limit: int | None = None) -> Gathered:
    """Read a task's rows into items. Arguments and errors as for `pool_of`."""
    table = open_table(task, folder, glance=limit is not None)
    reading = _Reading(task, table)
    for number, row in enumerate(table.rows, start=1):
        reading.add(row, number)
        if limit is not None and len(reading.items) >= limit:
            break
    return reading.done(whole=limit is None)


class _Reading:
    """A task's rows being read."""

    def __init__(self, task: Task, table: Table) -> None:
        self.task, self.table = task, table
        self.items: list[Item] = []
        self.declared: list[Split] = []
        self.pictures: dict[str, tuple[Picture, ...]] = {}
        self.questions: dict[str, str] = {}
        self.errors: list[tuple[str, UserError]] = []
        self.columns: list[str] = []
        self.repeated = 0
        self.seen: dict[str, Counter[str]] = {column: Counter() for column in task.where}

    def add(self, row: Row, number: int) -> None:
        task, place = self.task, self.table.place
        if number == 1:
            row = {CONFIG: "", SPLIT: "", **row}
            check_columns(task, row, images=place is not None)
            self.columns = [c for c in row if not c.startswith("_")]
        for column, counter in self.seen.items():
            counter[text_of(cell_of(row, column))] += 1
        if not kept(task, row):
            return
        label = label_of(task, row, number)
        if place is None:
            pictures: tuple[Picture, ...] = (row["_picture"],)
        else:
            pictures = pictures_of(row, task.fields.images, place, label)
        digests = tuple(bytes.fromhex(picture.sha256) for picture in pictures)
        try:
            item = item_of(task, row, digests, partial(joint_hash, pictures), label)
        except UserError as error:
            self.errors.append((label, error))
            return
        if item.id in self.pictures:
            if task.fields.id is None:  # named by its content: the same row once more
                self.repeated += 1
                return
            raise UserError(
                f"task {task.name}: two rows have the id {item.id!r}",
                hint="name several columns in fields.id that tell rows apart together, or none",
            )
        self.items.append(item)
        self.pictures[item.id] = pictures
        self.questions[item.id] = text_of(cell_of(row, task.fields.question))
        if task.fields.split is not None:
            self.declared.append(split_of(row, task.fields.split, label))

    def done(self, *, whole: bool) -> Gathered:
        """Raises UserError for faulty rows, unless the task drops them and they are few."""
        faulty = tuple(label.removeprefix(f"task {self.task.name}: ") for label, _ in self.errors)
        total = len(self.items) + len(faulty)
        if faulty and (self.task.faulty == "error" or len(faulty) > MOST_FAULTY * total):
            raise self._faults(faulty, total)
        warnings = tuple(self._warnings(faulty, whole=whole))
        table = self.table
        return Gathered(
            self.task, self.items, self.declared, self.pictures, self.questions, faulty, warnings,
            table.revision, table.sha256,
        )  # fmt: skip

    def _faults(self, faulty: Sequence[str], total: int) -> UserError:
        first = self.errors[0][1]
        if len(faulty) == 1:
            return first
        more = ", ".join(faulty[1:6]) + (", ..." if len(faulty) > 6 else "")
        return UserError(
            f"{first.message} (and {len(faulty) - 1} more of {total} rows: {more})", hint=first.hint
        )

    def _warnings(self, faulty: Sequence[str], *, whole: bool) -> Iterable[str]:
        task = self.task
        if faulty:
            yield (
                f"{len(faulty)} faulty rows are dropped, the first: "
                f"{self.errors[0][1].message.removeprefix(f'task {task.name}: ')}"
            )
        if self.repeated:
            yield f"{self.repeated} rows repeat another one, word for word, and are left out"
        for column, counter in self.seen.items() if whole else ():
            for value in task.where[column]:
                if not any(_spelled(value, cell) for cell in counter):
                    found = ", ".join(repr(cell) for cell, _ in counter.most_common(8))
                    yield f"where keeps {column}: {value!r}, which no row has; it holds {found}"
        total = len(self.items) + len(faulty) + self.repeated
        if whole and task.rows is not None and total != task.rows:
            yield f"{task.rows} items are expected, the data gives {total}"
        kept = self.table.sha256 is not None  # in the cache, which remembers who has looked
        first = whole and not (kept and not cache.first_look(task.data, task.name))
        if task.unverified and first:
            facts = "; ".join(task.unverified)
            yield (
                f"not verified when the task file was written: {facts}. Columns found: "
                f"{', '.join(self.columns)}. Look at it with `mergefront tasks check {task.name}`"
            )


def _spelled(value: str | int | float | bool, cell: str) -> bool:
    return str(value).lower() in {cell.strip().lower(), *cell.lower().split(", ")}
