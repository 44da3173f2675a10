"""Write the table of the task library into a page, from the task files themselves.

python -m scripts.docs_tasks docs/tasks.md
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mergefront.tasks.task_file import Task, library

START, END = "<!-- library table: start -->", "<!-- library table: end -->"


def library_table() -> str:
    """Return the library as a Markdown table: name, objective, items, rule, licence, sources."""
    head = ["task", "objective", "items", "pinned", "rule", "licence", "from", "official"]
    rows = [_row(task) for task in library()]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def update_page(page: Path) -> None:
    """Write the table between its marks in a page."""
    text = page.read_text(encoding="utf-8")
    block = re.compile(f"{re.escape(START)}.*{re.escape(END)}", re.DOTALL)
    page.write_text(block.sub(lambda _: table_block(), text), encoding="utf-8")


def table_block() -> str:
    """Return the table with the marks that stand around it in the page."""
    return f"{START}\n{library_table()}\n{END}"


def _row(task: Task) -> list[str]:
    data = task.data
    where = f"`{data.hub}`" if data.hub else "the zoo"
    configs = [config for config in data.all_configs if config] if data.hub else []
    if len(configs) == 1:
        where += f" {configs[0]}"
    elif configs:
        where += f", {len(configs)} configs"
    splits = [split for split in data.all_splits if split] if data.hub else []
    where += f", {splits[0]}" if len(splits) == 1 else f", {len(splits)} splits" if splits else ""
    pinned = "with mergefront" if data.zoo else f"`{data.revision[:7]}`" if data.revision else "no"
    rule = ", ".join(task.rules) + (", as the worst of a cluster" if task.unit == "cluster" else "")
    licence = task.licence or "not stated"
    links = {"set": task.source, "prompt": task.prompt_source, "scorer": task.scoring_source}
    official = ", ".join(
        f"[{name}]({link})" for name, link in links.items() if link and link.startswith("http")
    )
    size = "" if task.rows is None else f"{task.rows:,}"
    objective = task.objective or ""
    return [f"`{task.name}`", objective, size, pinned, rule, licence, where, official]


if __name__ == "__main__":
    update_page(Path(sys.argv[1]))
