"""All items of a task, divided into splits, with images made only for those that are chosen.
A task's rows -> its items, every fault found, before they are divided into splits."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mergefront.errors import UserError
from mergefront.records import SPLITS, Item, Split
from mergefront.tasks import cache
from mergefront.tasks.cells import Row, cell_of, text_of
from mergefront.tasks.duplicates import Dropped, counts, drop_duplicates, drop_straddling, relatives
from mergefront.tasks.pictures import Picture, finished, joint_hash, pictures_of
from mergefront.tasks.rows import check_columns, item_of, kept, label_of, split_of
from mergefront.tasks.source import Table, open_table
from mergefront.tasks.spec import CONFIG, SPLIT, Task
from mergefront.tasks.splits import by_column, by_hash, reusing, stratified_order, whole_prefix

logger = logging.getLogger(__name__)


class Pool:
    """The items of a task by split, each split in its fixed order.

    Attributes:
        task: the task's definition.
        dropped: items left out because another item asks the same, or shows a picture of another
            split, and what they collide with.
        warnings: what a user of the task must hear, in words; logged as well.
    """

    def __init__(
        self,
        gathered: Gathered,
        parts: Mapping[Split, Sequence[Item]],
        dropped: Sequence[Dropped],
    ) -> None:
        self.task = gathered.task
        self.dropped = tuple(dropped)
        self.warnings = gathered.warnings
        self._gathered = gathered
        self._parts = {s: stratified_order(parts[s], self.task.salt) for s in SPLITS}

    def size(self, split: Split) -> int:
        """Number of items of a split."""
        return len(self._parts[split])

    def strata(self, split: Split) -> dict[str, int]:
        """Stratum -> number of items of a split."""
        return dict(sorted(Counter(item.stratum for item in self._parts[split]).items()))

    def outline(self, split: Split) -> list[Item]:
        """All items of a split in order, with the sha256 of each image in place of its bytes: to
        count and to mark, not to ask."""
        return list(self._parts[split])

    def take(self, split: Split, n: int | None = None, *, reuse: bool = False) -> list[Item]:
        """The first n items of a split (all if n is None), complete, every image decoded once.

        Items of a unit come together or not at all, so that fewer than n may come. With `reuse` a
        split that is too small borrows of the others (`splits.reusing`).

        Raises:
            UserError: the split has fewer items, or an image cannot be decoded.
        """
        items = reusing(self._parts)[split] if reuse else self._parts[split]
        if n is not None and len(items) < n:
            sizes = ", ".join(f"{name} {self.size(name)}" for name in SPLITS)
            way_out = "" if reuse else (
                "; or let splits share items with items.reuse_search_items: true, which flatters, "
                "so that every report of the run begins by saying it"
            )  # fmt: skip
            raise UserError(
                f"task {self.task.name}: {n} {split} items are asked for, it has {len(items)} "
                f"(its splits: {sizes})",
                hint=f"lower items.{split} in the run's configuration, or add a task{way_out}",
            )
        chosen = items if n is None else whole_prefix(items, n)
        return [self._finished(item) for item in chosen]

    def card(self) -> dict[str, Any]:
        """What identifies the data: its commit, hashes over all items and images, and counts."""
        return {
            "revision": self._gathered.revision,
            "source_sha256": self._gathered.source_sha256,
            "sha256": _outline_hash(self._gathered.items),
            "items": {split: self.size(split) for split in SPLITS},
            "dropped": counts(self.dropped),
            "faulty": list(self._gathered.faulty),
        }

    def _finished(self, item: Item) -> Item:
        label = f"task {self.task.name}: item {item.id}"
        pictures = self._gathered.pictures[item.id]
        if self.task.data.zoo is not None:  # drawn here: right as they are
            return replace(item, images=tuple(one.read() for one in pictures))
        images = tuple(finished(one, self.task.max_pixels, label) for one in pictures)
        return replace(item, images=images)


def pool_of(task: Task, folder: Path, limit: int | None = None) -> Pool:
    """The items of one task.

    Args:
        task: the task.
        folder: what its paths are relative to: the folder of its file.
        limit: read at most so many rows that the task keeps, to have a look at it.

    Raises:
        UserError: its data is missing or malformed, lacks a column, or has a faulty row.
    """
    return pools_of({task.name: task}, {task.name: folder}, limit)[task.name]


def pools_of(
    tasks: Mapping[str, Task], folders: Mapping[str, Path], limit: int | None = None
) -> dict[str, Pool]:
    """The items of the tasks of a study, without what would leak from one split to another.

    Args:
        tasks: name -> task, in the order of the configuration: where two ask the same, the
            earlier keeps it.
        folders: name -> what the task's paths are relative to.
        limit: as for `pool_of`.

    Raises:
        UserError: as `pool_of`.
    """
    found = {name: gather(task, folders[name], limit) for name, task in tasks.items()}
    questions = {key: q for one in found.values() for key, q in one.questions.items()}
    left = drop_duplicates({n: one.items for n, one in found.items()}, questions=questions)
    divided = drop_straddling({name: _divided(found[name], left.items[name]) for name in found})
    pools = {}
    for name, gathered in found.items():
        gone = [one for one in (*left.dropped, *divided.dropped) if one.task == name]
        pools[name] = Pool(gathered, divided.parts[name], gone)
        for words in gathered.warnings:
            logger.warning("task %s: %s", name, words)
        for one in counts(gone):
            logger.warning(
                "task %s: %d items are left out: %s (task %s)",
                *(name, one["items"], one["because"], one["other_task"]),
            )
    for words in relatives(list(tasks)):
        logger.warning("%s", words)
    return pools


def _divided(gathered: Gathered, items: Sequence[Item]) -> dict[Split, list[Item]]:
    task = gathered.task
    if task.fields.split is None:
        return by_hash(items, task.salt)
    splits = dict(zip((one.id for one in gathered.items), gathered.declared, strict=True))
    return by_column(items, [splits[item.id] for item in items])


def _outline_hash(items: Sequence[Item]) -> str:
    """sha256 over all fields of all items of a task and their images as they lie in the data."""
    digest = hashlib.sha256()
    for item in sorted(items, key=lambda one: one.id):
        digest.update(repr(tuple(vars(item).values())).encode() + b"\n")
    return digest.hexdigest()


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
