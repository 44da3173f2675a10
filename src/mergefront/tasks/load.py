"""Task files -> the items of a study, and the library of shipped task files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mergefront.config import ItemCounts
from mergefront.errors import ConfigError, UserError
from mergefront.records import SPLITS, Item, Rule, Split
from mergefront.tasks.pool import pools_of
from mergefront.tasks.scoring import SCORER_VERSION
from mergefront.tasks.spec import Task
from mergefront.tasks.splits import SPLIT_VERSION
from mergefront.yaml_file import load_yaml

LIBRARY = Path(__file__).parent / "library"


@dataclass(frozen=True)
class ItemSet:
    """The items of one study: split -> objective -> items in their fixed order.

    `tasks` maps a task's name to its definition, `data` to what identifies what it was read from.
    """

    items: Mapping[Split, Mapping[str, tuple[Item, ...]]]
    tasks: Mapping[str, Task]
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def flat(self, split: Split) -> list[Item]:
        """All objectives' items of a split, one after the other, as the engine is asked."""
        return [item for items in self.items[split].values() for item in items]

    def card(self) -> dict[str, Any]:
        """What identifies the item set, so that a run refuses another.

        Task definitions whole (data, filter, prompt, rule, salt, licence), for each task's data the
        commit, content hash, sizes of splits and what was dropped; content hash of the chosen
        items; versions of splitter and scorer.
        """
        return {
            "splitter": SPLIT_VERSION,
            "scorer": SCORER_VERSION,
            "tasks": {name: task.model_dump(mode="json") for name, task in self.tasks.items()},
            "data": {name: dict(card) for name, card in self.data.items()},
            "splits": {
                split: {
                    objective: {"n": len(items), "sha256": content_hash(items)}
                    for objective, items in self.items[split].items()
                }
                for split in SPLITS
            },
        }


def content_hash(items: Sequence[Item]) -> str:
    """sha256 over what is asked, in order, and the image bytes an engine gets: all fields of the
    items but `stratum` and `max_tokens`, which change no question."""
    digest = hashlib.sha256()
    for item in items:
        text = [item.id, item.task, item.question, *item.answers, *item.choices, item.cluster]
        more = {
            "rule": asdict(item.rule) if item.rule != Rule("exact") else None,
            "unit": item.unit,
            "labels": list(item.labels),
        }
        text += [json.dumps({k: v for k, v in more.items() if v})] if any(more.values()) else []
        digest.update(json.dumps(text, ensure_ascii=False).encode())
        for image in item.images:
            digest.update(hashlib.sha256(image).digest())
    return digest.hexdigest()


def task_path(name: str, relative_to: Path) -> Path:
    """A task's file: a shipped one by name, or a path. Raises ConfigError naming the legal set."""
    shipped = LIBRARY / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    path = relative_to / name
    if path.suffix in {".yaml", ".yml"}:
        return path
    known = ", ".join(sorted(p.stem for p in LIBRARY.glob("*.yaml")))
    raise ConfigError(
        f"objectives: there is no task {name!r}",
        hint=f"use one of the library ({known}) or the path of a task file ending in .yaml",
    )


def load_task(path: Path) -> Task:
    """Read and check a task file. Raises ConfigError."""
    return load_yaml(path, Task)


def library() -> list[Task]:
    """The shipped tasks, by name."""
    return [load_task(path) for path in sorted(LIBRARY.glob("*.yaml"))]


def item_set(objectives: Mapping[str, Sequence[str]], counts: ItemCounts, folder: Path) -> ItemSet:
    """Load the items of a study: `counts` items for each objective and split.

    Args:
        objectives: objective -> task names or paths.
        counts: items per objective in each split, shared evenly by the objective's tasks; a task
            whose items count only in units gives whole units, so that fewer may come.
        folder: what paths of task files are relative to.

    Raises:
        ConfigError: a task file is faulty or unknown.
        UserError: two task files have one name; a task's data is missing or malformed, lacks a
            column, has a faulty row or image, or too few items.
    """
    paths = {name: task_path(name, folder) for names in objectives.values() for name in names}
    tasks = {name: load_task(path) for name, path in paths.items()}
    _check_names(tasks, paths)
    pools = pools_of(
        {task.name: task for task in tasks.values()},
        {task.name: paths[name].parent for name, task in tasks.items()},
    )
    by_objective: dict[Split, dict[str, tuple[Item, ...]]] = {split: {} for split in SPLITS}
    for objective, names in objectives.items():
        wanted_pools = [pools[tasks[name].name] for name in names]
        for split in SPLITS:
            wanted = _shares(getattr(counts, split), len(names))
            chosen = [
                pool.take(split, n, reuse=counts.reuse_search_items)
                for pool, n in zip(wanted_pools, wanted, strict=True)
            ]
            by_objective[split][objective] = tuple(_interleave(chosen))
    data = {name: pool.card() for name, pool in pools.items()}
    return ItemSet(by_objective, {task.name: task for task in tasks.values()}, data)


def _check_names(tasks: Mapping[str, Task], paths: Mapping[str, Path]) -> None:
    files: dict[str, Path] = {}
    for name, task in tasks.items():
        other = files.setdefault(task.name, paths[name])
        if other.resolve() != paths[name].resolve():
            raise UserError(
                f"two task files have the name {task.name!r}: {other} and {paths[name]}",
                hint="change `name:` in one of them",
            )


def _shares(total: int, n: int) -> list[int]:
    return [total // n + (i < total % n) for i in range(n)]


def _interleave(pools: Sequence[Sequence[Item]]) -> list[Item]:
    """Items of several tasks, evenly mixed; items of a unit stay together."""
    placed = []
    for index, pool in enumerate(pools):
        start = 0.0
        for rank, item in enumerate(pool):
            if not (rank and item.unit and item.unit == pool[rank - 1].unit):
                start = (rank + 0.5) / len(pool)
            placed.append((start, index, rank, item))
    return [entry[3] for entry in sorted(placed, key=lambda entry: entry[:3])]
