"""Tasks: one YAML file a benchmark -> items, in one fixed, nested, stratified order a split.

    load_task(path) -> Task            a task file, checked; every problem in one ConfigError
    library() -> list[Task]            the shipped ones, by name
    task_path(name, folder) -> Path    the file of a shipped task, or of a path
    pool_of(task, folder, limit) -> Pool     all items of one task, divided into splits
        pool.size(split) -> int, pool.strata(split) -> {stratum: n}
        pool.take(split, n=None) -> list[Item], complete, in order
        pool.dropped, pool.warnings, pool.card()
    pools_of(tasks, folders) -> {name: Pool}     several, without what would leak between them
    item_set(objectives, counts, folder) -> ItemSet     the items of a run; .flat(split), .card()
    prefetch(task) -> CachedDataset | None    read a hub dataset into the cache, for use offline

A task's paths are relative to `folder`, the folder of its file (any folder for a library task).

Reading order: `task_file` (the schema), `cells` (a cell of a row), `pictures` (a row's images),
`cache` (copies of hub datasets), `source` (opens the data), `rows` (a row becomes an item),
`splits`, `item_set` (all items of a task, divided, and those of a study). `scoring` marks answers.
"""

from __future__ import annotations

from mergefront.tasks.cache import CachedDataset
from mergefront.tasks.item_set import ItemSet, Pool, content_hash, item_set, pool_of, pools_of
from mergefront.tasks.source import prefetch
from mergefront.tasks.task_file import Task, library, load_task, task_path

__all__ = [
    "CachedDataset",
    "ItemSet",
    "Pool",
    "Task",
    "content_hash",
    "item_set",
    "library",
    "load_task",
    "pool_of",
    "pools_of",
    "prefetch",
    "task_path",
]
