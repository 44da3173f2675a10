"""Verbs about this machine and the files: doctor, zoo, schema."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mergefront.cli.terminal import Json, emit_json, out, table


class SchemaKind(StrEnum):
    """Files that have a JSON Schema."""

    run = "run"
    space = "space"
    task = "task"


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Machine and files")(doctor)
    app.command(rich_help_panel="Machine and files")(zoo)
    app.command(rich_help_panel="Machine and files")(schema)


def doctor(as_json: Json = False) -> None:
    """Say what is installed, what is missing, what would break, and how to mend it.

    Exits with 2 if something that a search needs is broken.
    """
    from mergefront.jobs.doctor import examine

    findings = examine(Path("runs"))
    if as_json:
        emit_json([vars(finding) for finding in findings])
    else:
        marks = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]"}
        shown = table("", ["what", "state", "found", "what to do"], [])
        for column in shown.columns:
            column.justify = "left"
        for f in findings:
            shown.add_row(f.subject, marks.get(f.state, "[red]broken[/red]"), f.found, f.mend)
        out.print(shown)
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(2)


def zoo(as_json: Json = False) -> None:
    """List the built-in models and questions, with their folders."""
    from mergefront import zoo as models
    from mergefront.models.checkpoint import Checkpoint

    rows = []
    for name in models.MODELS:
        checkpoint = Checkpoint.open(models.model_folder(name))
        rows.append({
            "name": f"zoo:{name}",
            "class": (checkpoint.config.get("architectures") or ["?"])[0],
            "parameters": sum(math.prod(h.shape) for h in checkpoint.headers.values()),
            "folder": str(checkpoint.folder),
        })  # fmt: skip
    questions = []
    for task in ("digits_reasoning", "digits_perception"):
        for split in ("search", "validation", "test"):
            n = sum(row["split"] == split for row in models.questions(task))
            questions.append({"task": task, "split": split, "questions": n})
    if as_json:
        emit_json({"models": rows, "questions": questions})
        return
    out.print(table("models", ["name", "class", "parameters", "folder"],
                    [[str(v) for v in row.values()] for row in rows]))  # fmt: skip
    out.print(table("questions", ["task", "split", "questions"],
                    [[str(v) for v in row.values()] for row in questions]))  # fmt: skip


def schema(kind: Annotated[SchemaKind, typer.Argument(help="Which file.")]) -> None:
    """Print the JSON Schema of a YAML file, so that editors complete and check it."""
    from mergefront.jobs.start import json_schema

    emit_json(json_schema(kind.value))
