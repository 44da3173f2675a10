"""Tasks: one YAML file a benchmark -> items, in one fixed, nested, stratified order a split.

`spec` is the file's schema, `load` reads data into items (`rows` one row, `pictures` its images),
`splits` orders and divides them.
"""

from __future__ import annotations

from mergefront.tasks.load import ItemSet, item_set, load_task, task_path
from mergefront.tasks.spec import Task

__all__ = ["ItemSet", "Task", "item_set", "load_task", "task_path"]
