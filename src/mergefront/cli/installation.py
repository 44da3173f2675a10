"""Verbs about what is installed: doctor, zoo (the built-in models), schema (of the YAML files)."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mergefront.cli.options import Json
from mergefront.cli.terminal import emit_json, out, table
from mergefront.records import plain


class SchemaKind(StrEnum):
    """Files that have a JSON Schema."""

    run = "run"
    space = "space"
    task = "task"


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Installation")(doctor)
    app.command(rich_help_panel="Installation")(zoo)
    app.command(rich_help_panel="Installation")(schema)


def doctor(as_json: Json = False) -> None:
    """Say what is installed, what is missing or broken, and how to mend it.

    mergefront doctor

    Looks at the packages, the engines, the GPU, the disk that holds runs/, and the built-in models.
    Exits with 2 if something that a search needs is broken.
    """
    from mergefront.jobs.doctor import examine

    diagnoses = examine(Path("runs"))
    if as_json:
        emit_json([plain(entry, message="found", hint="mend") for entry in diagnoses])
    else:
        columns = ["what", "state", "found", "what to do"]
        shown = table("", columns, [], text=columns)
        marks = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]"}
        for entry in diagnoses:
            mark = marks.get(entry.state, "[red]broken[/red]")
            shown.add_row(entry.subject, mark, entry.message, entry.hint)
        out.print(shown)
    if any(diagnosis.state == "broken" for diagnosis in diagnoses):
        raise typer.Exit(2)


def zoo(as_json: Json = False) -> None:
    """List the built-in models with their folders, and the built-in questions.

    mergefront zoo

    A configuration names such a model zoo:NAME, such as zoo:vlm.
    """
    from mergefront.jobs.zoo import zoo_listing

    listing = zoo_listing()
    if as_json:
        emit_json(listing.to_dict())
        return
    models = [[m.name, m.architecture, str(m.parameters), m.folder] for m in listing.models]
    out.print(table("models", ["name", "class", "parameters", "folder"], models))
    questions = [[q.task, q.split, str(q.questions)] for q in listing.questions]
    out.print(table("questions", ["task", "split", "questions"], questions))


def schema(
    kind: Annotated[SchemaKind, typer.Argument(help="Which YAML file the schema describes.")],
) -> None:
    """Print the JSON Schema of a YAML file, so that an editor completes and checks it.

    mergefront schema run > run.schema.json
    """
    from mergefront.jobs.starter import json_schema

    emit_json(json_schema(kind.value))
