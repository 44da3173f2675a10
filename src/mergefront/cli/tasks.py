"""Verbs about the library of tasks: tasks list, show, fetch. In `task_checks`: check, power."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergefront.cli import task_checks
from mergefront.cli.options import Json
from mergefront.cli.terminal import emit_json, err, out, say, table

if TYPE_CHECKING:
    from mergefront.tasks import Task

verbs = typer.Typer(
    help="Questions: the library of benchmarks, and how a task file reads and marks them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Name = Annotated[str, typer.Argument(help="A task of the library, or a task file (.yaml).")]


def register(app: typer.Typer) -> None:
    verbs.command()(task_checks.check)
    verbs.command()(task_checks.power)
    app.add_typer(verbs, name="tasks", rich_help_panel="Evaluate")


@verbs.command("list")
def list_tasks(as_json: Json = False) -> None:
    """List the tasks of the library: objective, size, rule, licence, and where their data is."""
    from mergefront.tasks import library

    tasks = library()
    if as_json:
        emit_json([
            {
                "name": task.name,
                "objective": task.objective,
                "items": _size(task),
                "rules": list(task.rules),
                "data": _data_location(task),
                "licence": task.licence,
            }
            for task in tasks
        ])  # fmt: skip
        return
    rows = [
        [
            task.name,
            task.objective or "-",
            str(_size(task) or "?"),
            ", ".join(task.rules),
            _data_location(task),
            task.licence or "not stated",
        ]
        for task in tasks
    ]
    listing = table("", ["task", "objective", "items", "rules", "data", "licence"], rows)
    for index in (1, 3, 4, 5):
        listing.columns[index].justify = "left"
    out.print(listing)
    say("`mergefront tasks show NAME` tells more; a task of your own is one file: docs/tasks.md")


def _size(task: Task) -> int | None:
    from mergefront import zoo

    return task.rows if task.data.zoo is None else len(zoo.questions(task.data.zoo))


def _data_location(task: Task) -> str:
    """Return where a task's data is: shipped, here (files or the cache), or only on the hub."""
    from mergefront.tasks import cache

    if task.data.zoo is not None:
        return "shipped"
    if task.data.hub is None:
        return "here"
    return "here" if cache.find(task.data) else f"hub: {task.data.hub}"


@verbs.command()
def show(name: Name, as_json: Json = False) -> None:
    """Say what a task is, where it comes from, and where its YAML file lies to copy and change."""
    from mergefront.tasks import load_task, task_path

    path = task_path(name, Path())
    task = load_task(path)
    if as_json:
        emit_json({"file": str(path), **task.model_dump(mode="json")})
        return
    facts = [
        ("file", path),
        ("objective", task.objective),
        ("items", _size(task)),
        ("data", _data_location(task)),
        ("revision", task.data.revision),
        ("rules", ", ".join(task.rules)),
        ("answers", "labels by log-probability" if task.mode == "labels" else "generated"),
        ("longest", f"{task.max_tokens} tokens"),
        ("licence", task.licence),
        ("source", task.source),
        ("prompt from", task.prompt_source),
        ("scoring from", task.scoring_source),
        ("notes", task.notes),
        ("unverified", "; ".join(task.unverified)),
    ]
    listing = table(task.name, ["", ""], [[k, str(v)] for k, v in facts if v not in (None, "")])
    listing.show_header = False
    listing.columns[1].justify = "left"
    out.print(listing)
    out.print(f"\nprompt:\n{task.prompt}", markup=False)


@verbs.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Tasks of the library, or task files.")],
    as_json: Json = False,
) -> None:
    """Read hub datasets into the cache now, so that runs need no network later.

    The cache is ~/.cache/mergefront, or the folder that MERGEFRONT_CACHE names; copy it to a
    machine without a network.
    """
    from mergefront.tasks import load_task, prefetch, task_path

    files = [task_path(name, Path()) for name in names]
    tasks = [(load_task(file), file.parent) for file in files]
    rows = []
    for task, folder in tasks:
        with err.status(f"fetching {task.name}"):
            copy = prefetch(task, folder)
        if as_json:
            row: dict[str, Any] = {"task": task.name, "folder": None, "rows": None, "bytes": None}
            if copy is not None:
                row.update(folder=str(copy.folder), rows=copy.n_rows, bytes=copy.n_bytes)
            rows.append(row)
        elif copy is None:
            out.print(f"{task.name}: its data is on this machine anyway", soft_wrap=True)
        else:
            size = f"({copy.n_rows} rows, {copy.n_bytes / 1e6:.0f} MB)"
            out.print(f"{task.name}: {copy.folder} {size}", soft_wrap=True)
    if as_json:
        emit_json(rows)
