"""Tasks: one YAML file a benchmark -> items, in one fixed, nested, stratified order a split.

    load_task(path) -> Task            a task file, checked; every problem in one ConfigError
    library() -> list[Task]            the shipped ones, by name
    task_path(name, folder) -> Path    the file of a shipped task, or of a path
    pool_of(task, folder, limit) -> Pool     all items of one task, divided into splits
        pool.size(split) -> int, pool.strata(split) -> {stratum: n}
        pool.take(split, n=None) -> list[Item], complete, in order
        pool.dropped, pool.warnings, pool.card()
    pools_of(tasks, folders) -> {name: Pool}     several, without what would leak between them
    item_set(objectives, counts, folder) -> ItemSet     what a run is asked; .flat(split), .card()
    prefetch(task) -> Cached | None    read a hub dataset into the cache, for use without a network

`folder` is what a task's paths are relative to: the folder of its file (any for a library task).

Reading order: `spec` is the file's schema; `source` opens the data (`cache` keeps what came from a
hub, `pictures` are its images), `rows` makes one row an item (`cells`, `options`) and `gather` all,
`pool` divides them (`duplicates`, `splits`), `load` makes a study's item set of several tasks.
"""

from __future__ import annotations

from mergefront.tasks.cache import Cached
from mergefront.tasks.load import ItemSet, content_hash, item_set, library, load_task, task_path
from mergefront.tasks.pool import Pool, pool_of, pools_of
from mergefront.tasks.source import prefetch
from mergefront.tasks.spec import Task

__all__ = [
    "Cached",
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
