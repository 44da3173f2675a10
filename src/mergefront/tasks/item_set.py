"""The items of tasks: all of one, divided into splits (`Pool`), and those of a study (`ItemSet`).

Images are made only for the items that are taken.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from mergefront.config import ItemCounts
from mergefront.errors import UserError
from mergefront.records import SPLITS, Item, Rule, Split
from mergefront.tasks import cache
from mergefront.tasks.cells import Row, cell_of, text_of
from mergefront.tasks.pictures import (
    ImageStore,
    Picture,
    bytes_for_engine,
    joint_hash,
    pictures_of,
)
from mergefront.tasks.rows import check_columns, declared_split, is_selected, item_of, row_label
from mergefront.tasks.scoring import SCORER_VERSION
from mergefront.tasks.source import open_table
from mergefront.tasks.splits import (
    SPLIT_VERSION,
    DroppedItem,
    by_column,
    by_hash,
    drop_counts,
    drop_duplicates,
    drop_straddling,
    overlap_warnings,
    stratified_order,
    whole_prefix,
    with_borrowed_items,
)
from mergefront.tasks.task_file import CONFIG, SPLIT, Task, load_task, task_path

logger = logging.getLogger(__name__)

MOST_FAULTY = 0.05
"""Share of faulty rows that `faulty: drop` accepts: beyond it, the task file is wrong."""


class UndividedItems:
    """A task's items before they are divided into splits, and what the user must be warned of.

    `items` have the sha256 of their images in place of the images. `pictures_by_item` and
    `questions` hold the data's pictures and words by item id, `splits` what a column declares.
    `values_seen` counts the values of the columns by which `where` selects rows.
    """

    def __init__(self, task: Task, folder: Path, limit: int | None = None) -> None:
        """Read a task's rows into items. Arguments and errors as for `pool_of`."""
        table = open_table(task, folder, glance=limit is not None)
        self.task, self.revision, self.sha256 = task, table.revision, table.sha256
        self.items: list[Item] = []
        self.splits: dict[str, Split] = {}
        self.pictures_by_item: dict[str, tuple[Picture, ...]] = {}
        self.questions: dict[str, str] = {}
        self.errors: list[tuple[str, UserError]] = []
        self.columns_found: list[str] = []
        self.repeated_rows = 0
        self.values_seen: dict[str, Counter[str]] = {column: Counter() for column in task.where}
        for number, row in enumerate(table.rows, start=1):
            self._add(row, number, table.store)
            if limit is not None and len(self.items) >= limit:
                break
        self.faulty = [label.removeprefix(f"task {task.name}: ") for label, _ in self.errors]
        self._check_faulty()
        self.warnings = tuple(self._warnings(whole=limit is None))

    def _add(self, row: Row, number: int, store: ImageStore | None) -> None:
        task = self.task
        if number == 1:
            row = {CONFIG: "", SPLIT: "", **row}
            check_columns(task, row, images=store is not None)
            self.columns_found = [c for c in row if not c.startswith("_")]
        for column, counter in self.values_seen.items():
            counter[text_of(cell_of(row, column))] += 1
        if not is_selected(task, row):
            return
        label = row_label(task, row, number)
        if store is None:
            pictures: tuple[Picture, ...] = (row["_picture"],)
        else:
            pictures = pictures_of(row, task.fields.images, store, label)
        digests = tuple(bytes.fromhex(picture.sha256) for picture in pictures)
        try:
            item = item_of(task, row, digests, partial(joint_hash, pictures), label)
        except UserError as error:
            self.errors.append((label, error))
            return
        if item.id in self.pictures_by_item:
            if task.fields.id is None:  # the id is a hash of the content: the same row again
                self.repeated_rows += 1
                return
            raise UserError(
                f"task {task.name}: two rows have the id {item.id!r}",
                hint="fields.id must tell all rows apart: add columns to it, or leave it out",
            )
        self.items.append(item)
        self.pictures_by_item[item.id] = pictures
        self.questions[item.id] = text_of(cell_of(row, task.fields.question))
        if task.fields.split is not None:
            self.splits[item.id] = declared_split(row, task.fields.split, label)

    def _check_faulty(self) -> None:
        """Raise UserError if rows are faulty, unless the task drops them and they are few."""
        total, faulty = len(self.items) + len(self.faulty), self.faulty
        if not faulty or (self.task.faulty == "drop" and len(faulty) <= MOST_FAULTY * total):
            return
        error = self.errors[0][1]
        if len(faulty) == 1:
            raise error
        more = ", ".join(faulty[1:6]) + (", ..." if len(faulty) > 6 else "")
        raise UserError(
            f"{error.message} (and {len(faulty) - 1} more of {total} rows: {more})", hint=error.hint
        )

    def _warnings(self, *, whole: bool) -> Iterable[str]:
        """Yield warnings; with `whole`, the task's rows were read to their end."""
        task = self.task
        if self.faulty:
            yield (
                f"{len(self.faulty)} faulty rows are dropped, the first: "
                f"{self.errors[0][1].message.removeprefix(f'task {task.name}: ')}"
            )
        if self.repeated_rows:
            yield f"{self.repeated_rows} rows repeat another one, word for word, and are left out"
        for column, counter in self.values_seen.items() if whole else ():
            for value in task.where[column]:
                if not any(_cell_has_value(cell, value) for cell in counter):
                    cells = ", ".join(repr(cell) for cell, _ in counter.most_common(8))
                    yield f"where keeps {column}: {value!r}, which no row has; it holds {cells}"
        total = len(self.items) + len(self.faulty) + self.repeated_rows
        if whole and task.rows is not None and total != task.rows:
            yield f"{task.rows} items are expected, the data gives {total}"
        # The cache remembers which tasks have looked at it; without it, each look is the first.
        is_cached = self.sha256 is not None
        first_look = whole and (not is_cached or cache.first_look(task.data, task.name))
        if task.unverified and first_look:
            yield (
                f"not verified when the task file was written: {'; '.join(task.unverified)}. "
                f"Columns found: {', '.join(self.columns_found)}. "
                f"Look at it with `mergefront tasks check {task.name}`"
            )


def _cell_has_value(cell: str, value: str | int | float | bool) -> bool:
    return str(value).lower() in {cell.strip().lower(), *cell.lower().split(", ")}


class Pool:
    """The items of a task by split, each split in its fixed order.

    Attributes:
        task: the task's definition.
        dropped: items that ask the same as another one, or show a picture of another split, with
            the task that they collide with.
        warnings: sentences for the user of the task; they are logged as well.
    """

    def __init__(
        self,
        source: UndividedItems,
        parts: Mapping[Split, Sequence[Item]],
        dropped: Sequence[DroppedItem],
    ) -> None:
        self.task = source.task
        self.dropped = tuple(dropped)
        self.warnings = source.warnings
        self._source = source
        self._parts = {s: stratified_order(parts[s], self.task.salt) for s in SPLITS}

    def size(self, split: Split) -> int:
        """Return the number of items of a split."""
        return len(self._parts[split])

    def strata(self, split: Split) -> dict[str, int]:
        """Return the number of items of each stratum of a split."""
        return dict(sorted(Counter(item.stratum for item in self._parts[split]).items()))

    def outline(self, split: Split) -> list[Item]:
        """Return all items of a split in order, with hashes in place of the images' bytes.

        They can be counted and marked, but no engine can answer them.
        """
        return list(self._parts[split])

    def take(self, split: Split, n: int | None = None, *, reuse: bool = False) -> list[Item]:
        """Return the first n items of a split (or all), complete, with each image decoded once.

        Items of a unit come together or not at all, so there may be fewer than n. With `reuse`, a
        split that is too small borrows items of the others (`splits.with_borrowed_items`).

        Raises:
            UserError: the split has fewer items, or an image cannot be decoded.
        """
        items = with_borrowed_items(self._parts)[split] if reuse else self._parts[split]
        if n is not None and len(items) < n:
            sizes = ", ".join(f"{name} {self.size(name)}" for name in SPLITS)
            sharing = "" if reuse else (
                "; or let splits share items with items.reuse_search_items: true; scores are then "
                "too high, and every report of the run begins by saying so"
            )  # fmt: skip
            raise UserError(
                f"task {self.task.name}: {n} {split} items are asked for, it has {len(items)} "
                f"(its splits: {sizes})",
                hint=f"lower items.{split} in the run's configuration, or add a task{sharing}",
            )
        prefix = items if n is None else whole_prefix(items, n)
        return [self._with_images(item) for item in prefix]

    def card(self) -> dict[str, Any]:
        """Return what identifies the data: commit, hashes over all items and images, counts."""
        return {
            "revision": self._source.revision,
            "source_sha256": self._source.sha256,
            "sha256": _outline_hash(self._source.items),
            "items": {split: self.size(split) for split in SPLITS},
            "dropped": drop_counts(self.dropped),
            "faulty": self._source.faulty,
        }

    def _with_images(self, item: Item) -> Item:
        label = f"task {self.task.name}: item {item.id}"
        pictures = self._source.pictures_by_item[item.id]
        if self.task.data.zoo is not None:  # engines take them as they were drawn
            return replace(item, images=tuple(picture.read() for picture in pictures))
        max_pixels = self.task.max_pixels
        images = tuple(bytes_for_engine(picture, max_pixels, label) for picture in pictures)
        return replace(item, images=images)


def pool_of(task: Task, folder: Path, limit: int | None = None) -> Pool:
    """Read the items of one task and divide them.

    Args:
        task: the task.
        folder: its paths are relative to this folder, the one of its file.
        limit: read at most so many rows that the task keeps, for a quick look.

    Raises:
        UserError: its data is missing or malformed, lacks a column, or has a faulty row.
    """
    return pools_of({task.name: task}, {task.name: folder}, limit)[task.name]


def pools_of(
    tasks: Mapping[str, Task], folders: Mapping[str, Path], limit: int | None = None
) -> dict[str, Pool]:
    """Read the items of a study's tasks, drop what would leak between splits, divide the rest.

    Args:
        tasks: name -> task, in the order of the configuration: where two have the same question,
            the earlier one keeps it.
        folders: name -> the folder that the task's paths are relative to.
        limit: as for `pool_of`.

    Raises:
        UserError: as `pool_of`.
    """
    sources = {name: UndividedItems(task, folders[name], limit) for name, task in tasks.items()}
    questions = {key: text for source in sources.values() for key, text in source.questions.items()}
    distinct, repeated = drop_duplicates(
        {name: source.items for name, source in sources.items()}, questions=questions
    )
    parts, straddling = drop_straddling({n: _divide(s, distinct[n]) for n, s in sources.items()})
    pools = {}
    for name, source in sources.items():
        dropped = [item for item in (*repeated, *straddling) if item.task == name]
        pools[name] = Pool(source, parts[name], dropped)
        for warning in source.warnings:
            logger.warning("task %s: %s", name, warning)
        for count in drop_counts(dropped):
            logger.warning(
                "task %s: %d items are left out: %s (task %s)",
                *(name, count["items"], count["because"], count["other_task"]),
            )
    for warning in overlap_warnings(list(tasks)):
        logger.warning("%s", warning)
    return pools


def _divide(source: UndividedItems, items: Sequence[Item]) -> dict[Split, list[Item]]:
    task = source.task
    if task.fields.split is None:
        return by_hash(items, task.salt)
    return by_column(items, [source.splits[item.id] for item in items])


def _outline_hash(items: Sequence[Item]) -> str:
    """Return the sha256 over all fields of a task's items and their images as in the data."""
    digest = hashlib.sha256()
    for item in sorted(items, key=lambda item: item.id):
        digest.update(repr(tuple(vars(item).values())).encode() + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True)
class ItemSet:
    """The items of one study: split -> objective -> items in their fixed order.

    `tasks` maps a task's name to its definition, `data` to what identifies what it was read from.
    """

    items: Mapping[Split, Mapping[str, tuple[Item, ...]]]
    tasks: Mapping[str, Task]
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def flat(self, split: Split) -> list[Item]:
        """Return all items of a split, objective by objective, as the engine is asked."""
        return [item for items in self.items[split].values() for item in items]

    def card(self) -> dict[str, Any]:
        """Return what identifies the item set, so that a run refuses another.

        These are the whole task definitions (data, filter, prompt, rule, salt, licence); of each
        task's data the commit, the content hash, the sizes of splits and the dropped items; the
        content hash of the items by split and objective; the versions of splitter and scorer.
        """
        return {
            "splitter": SPLIT_VERSION,
            "scorer": SCORER_VERSION,
            "tasks": {name: _definition(task) for name, task in self.tasks.items()},
            "data": {name: dict(card) for name, card in self.data.items()},
            "splits": {
                split: {
                    objective: {"n": len(items), "sha256": content_hash(items)}
                    for objective, items in self.items[split].items()
                }
                for split in SPLITS
            },
        }


def _definition(task: Task) -> dict[str, Any]:
    """Return all fields of a task; one younger than 0.3 only if it is set: older cards hold."""
    unset = {"image_root"} if task.data.image_root is None else set[str]()
    return task.model_dump(mode="json", exclude={"data": unset})


def content_hash(items: Sequence[Item]) -> str:
    """Return the sha256 over the questions in order, with the image bytes that an engine gets.

    It covers all fields of the items but `stratum` and `max_tokens`, which change no question.
    """
    digest = hashlib.sha256()
    for item in items:
        text = [item.id, item.task, item.question, *item.answers, *item.choices, item.cluster]
        # Fields with their default values stay out, so that older hashes hold.
        extras = {
            "rule": asdict(item.rule) if item.rule != Rule("exact") else None,
            "unit": item.unit,
            "labels": list(item.labels),
        }
        text += [json.dumps({k: v for k, v in extras.items() if v})] if any(extras.values()) else []
        digest.update(json.dumps(text, ensure_ascii=False).encode())
        for image in item.images:
            digest.update(hashlib.sha256(image).digest())
    return digest.hexdigest()


def item_set(objectives: Mapping[str, Sequence[str]], counts: ItemCounts, folder: Path) -> ItemSet:
    """Load the items of a study: `counts` items for each objective and split.

    Args:
        objectives: objective -> task names or paths.
        counts: items per objective in each split, shared evenly by the objective's tasks. A task
            whose items count only in units gives whole units, and so perhaps fewer items.
        folder: paths of task files are relative to it.

    Raises:
        ConfigError: a task file is faulty or unknown.
        UserError: two task files have one name; a task's data is missing or malformed, lacks a
            column, has a faulty row or image, or too few items.
    """
    paths = {name: task_path(name, folder) for names in objectives.values() for name in names}
    tasks = {name: load_task(path) for name, path in paths.items()}
    files: dict[str, Path] = {}
    for name, task in tasks.items():
        file = files.setdefault(task.name, paths[name])
        if file.resolve() != paths[name].resolve():
            raise UserError(
                f"two task files have the name {task.name!r}: {file} and {paths[name]}",
                hint="change `name:` in one of them",
            )
    pools = pools_of(
        {task.name: task for task in tasks.values()},
        {task.name: paths[name].parent for name, task in tasks.items()},
    )
    by_objective: dict[Split, dict[str, tuple[Item, ...]]] = {split: {} for split in SPLITS}
    for objective, names in objectives.items():
        for split in SPLITS:
            share, rest = divmod(getattr(counts, split), len(names))
            parts = [
                pools[tasks[name].name].take(
                    split, share + (place < rest), reuse=counts.reuse_search_items
                )
                for place, name in enumerate(names)
            ]
            by_objective[split][objective] = tuple(_interleave(parts))
    data = {name: pool.card() for name, pool in pools.items()}
    return ItemSet(by_objective, {task.name: task for task in tasks.values()}, data)


def _interleave(parts: Sequence[Sequence[Item]]) -> list[Item]:
    """Mix the items of several tasks evenly; items of a unit stay together."""
    keyed_items = []
    for index, part in enumerate(parts):
        start = 0.0
        for rank, item in enumerate(part):
            if not (rank and item.unit and item.unit == part[rank - 1].unit):
                start = (rank + 0.5) / len(part)
            keyed_items.append(((start, index, rank), item))
    return [item for _, item in sorted(keyed_items, key=lambda entry: entry[0])]
