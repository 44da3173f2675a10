"""Verbs about what is installed: doctor, zoo (the built-in models), schema (of the YAML files)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mergefront.cli.options import Json
from mergefront.cli.terminal import emit_json, out, table
from mergefront.records import plain


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
        emit_json(listing)
        return
    for title, rows in listing.items():
        out.print(table(title, list(rows[0]), [[str(cell) for cell in r.values()] for r in rows]))


def schema(
    kind: Annotated[
        Literal["run", "space", "task"],
        typer.Argument(help="Which YAML file the schema describes."),
    ],
) -> None:
    """Print the JSON Schema of a YAML file, so that an editor completes and checks it.

    mergefront schema run > run.schema.json
    """
    from mergefront.jobs.starter import json_schema

    emit_json(json_schema(kind))
