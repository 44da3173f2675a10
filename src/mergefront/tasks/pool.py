"""All items of a task, divided into splits, with images made only for those that are chosen."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergefront.errors import UserError
from mergefront.records import SPLITS, Item, Split
from mergefront.tasks.duplicates import (
    Dropped,
    counts,
    drop_duplicates,
    drop_straddling,
    relatives,
)
from mergefront.tasks.gather import Gathered, gather
from mergefront.tasks.pictures import finished
from mergefront.tasks.spec import Task
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
