"""Are there as many questions as the configuration asks for? As far as that is known unloaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from mergefront import zoo
from mergefront.config import RunConfig
from mergefront.records import SPLITS, Split
from mergefront.tasks import Task, cache, load_task, task_path
from mergefront.tasks.splits import SHARES

DOUBT: Final = 2.0
"""Standard deviations by which a split by hash may fall short of its expected size."""


@dataclass(frozen=True)
class TaskSize:
    """One task of one objective. `wanted` and `there`: items by split; `there` None if unknown.

    `exact`: counted; else expected from the whole set's size and the splits' shares. `where` its
    questions lie: on this machine, in the cache of fetched ones, or still on the hub.
    """

    objective: str
    task: str
    rows: int | None
    wanted: Mapping[Split, int]
    there: Mapping[Split, int] | None
    exact: bool
    max_tokens: int
    where: Literal["here", "cached", "to fetch"]

    @property
    def short(self) -> list[Split]:
        """Splits with fewer items than wanted, or expected to have."""
        there = self.there
        return [] if there is None else [s for s in SPLITS if there[s] < self.wanted[s]]

    @property
    def doubtful(self) -> list[Split]:
        """Splits whose expected size is enough, but may fall short by chance."""
        there, rows = self.there, self.rows
        if there is None or self.exact or not rows:
            return []
        slack = {s: DOUBT * math.sqrt(there[s] * max(0.0, 1 - there[s] / rows)) for s in SPLITS}
        return [s for s in SPLITS if 0 <= there[s] - self.wanted[s] < slack[s]]


def task_sizes(config: RunConfig) -> list[TaskSize]:
    """Every task of a run, each with its even part of its objective's items.

    Raises:
        ConfigError: there is no such task, or its file is faulty.
    """
    found = []
    for objective, names in config.objective_tasks.items():
        for number, name in enumerate(names):
            task = load_task(task_path(name, Path()))
            wanted = {
                split: _part(int(getattr(config.items, split)), len(names), number)
                for split in SPLITS
            }
            size = _size(objective, task, wanted)
            if config.items.reuse_search_items and size.rows is not None:
                size = replace(size, there=dict.fromkeys(SPLITS, size.rows))
            found.append(size)
    return found


def _size(objective: str, task: Task, wanted: Mapping[Split, int]) -> TaskSize:
    rows, exact = task.rows, False
    there: dict[Split, int] | None = None
    if task.data.zoo is not None:
        splits = [row["split"] for row in zoo.questions(task.data.zoo)]
        rows, exact = len(splits), True
        there = {split: splits.count(split) for split in SPLITS}
    elif rows is not None and task.fields.split is None:
        there = {split: int(rows * share) for split, share in zip(SPLITS, SHARES, strict=True)}
    where: Literal["here", "cached", "to fetch"] = "here"
    if task.data.hub is not None:
        where = "to fetch" if cache.find(task.data) is None else "cached"
    return TaskSize(objective, task.name, rows, wanted, there, exact, task.max_tokens, where)


def _part(total: int, n: int, number: int) -> int:
    """What the number-th of n tasks gets of an objective's items."""
    return total // n + (number < total % n)
