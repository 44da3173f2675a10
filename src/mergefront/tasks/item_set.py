"""The items of a study: some of several tasks, by split and objective."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mergefront.config import ItemCounts
from mergefront.errors import UserError
from mergefront.records import SPLITS, Item, Rule, Split
from mergefront.tasks.pool import pools_of
from mergefront.tasks.scoring import SCORER_VERSION
from mergefront.tasks.splits import SPLIT_VERSION
from mergefront.tasks.task_file import Task, load_task, task_path


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
