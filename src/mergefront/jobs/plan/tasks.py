"""Are there as many questions as the configuration needs? Answered without loading them."""

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

SLACK: Final = 2.0
"""Standard deviations by which a split by hash may fall short of its expected size."""

Location = Literal["here", "cached", "to fetch"]
"""Where a task's questions are: in mergefront, in the cache of fetched ones, or on the hub."""


@dataclass(frozen=True)
class TaskSize:
    """Items of one task of one objective, by split: how many are needed, how many are available.

    `rows` is the size of the whole set. `available` is None if unknown; it is `exact` if the items
    were counted, else it is expected from `rows` and the splits' shares.
    """

    objective: str
    task: str
    rows: int | None
    needed: Mapping[Split, int]
    available: Mapping[Split, int] | None
    exact: bool
    max_tokens: int
    location: Location

    @property
    def short_splits(self) -> list[Split]:
        """Splits that have fewer items than needed, or are expected to."""
        sizes = self.available
        return [] if sizes is None else [s for s in SPLITS if sizes[s] < self.needed[s]]

    @property
    def uncertain_splits(self) -> list[Split]:
        """Splits whose expected size is enough, but that may fall short by chance."""
        sizes, rows = self.available, self.rows
        if sizes is None or self.exact or not rows:
            return []
        # A split by hash draws each row with the split's share: its size is binomial.
        slack = {s: SLACK * math.sqrt(sizes[s] * max(0.0, 1 - sizes[s] / rows)) for s in SPLITS}
        return [s for s in SPLITS if 0 <= sizes[s] - self.needed[s] < slack[s]]


def task_sizes(config: RunConfig) -> list[TaskSize]:
    """Return the sizes of all tasks; the items of an objective are shared evenly by its tasks.

    Raises:
        ConfigError: there is no such task, or its file is faulty.
    """
    sizes = []
    for objective, names in config.objective_tasks.items():
        for number, name in enumerate(names):
            task = load_task(task_path(name, Path()))
            needed = {
                split: _task_share(int(getattr(config.items, split)), len(names), number)
                for split in SPLITS
            }
            size = _task_size(objective, task, needed)
            if config.items.reuse_search_items and size.rows is not None:
                size = replace(size, available=dict.fromkeys(SPLITS, size.rows))
            sizes.append(size)
    return sizes


def _task_size(objective: str, task: Task, needed: Mapping[Split, int]) -> TaskSize:
    rows, exact = task.rows, False
    available: dict[Split, int] | None = None
    if task.data.zoo is not None:
        splits = [row["split"] for row in zoo.questions(task.data.zoo)]
        rows, exact = len(splits), True
        available = {split: splits.count(split) for split in SPLITS}
    elif rows is not None and task.fields.split is None:
        available = {split: int(rows * share) for split, share in zip(SPLITS, SHARES, strict=True)}
    location: Location = "here"
    if task.data.hub is not None:
        location = "to fetch" if cache.find(task.data) is None else "cached"
    return TaskSize(objective, task.name, rows, needed, available, exact, task.max_tokens, location)


def _task_share(total: int, n: int, number: int) -> int:
    """Return how many of an objective's `total` items the number-th of its n tasks has."""
    return total // n + (number < total % n)
