"""Verbs about models without a search, and about the installation.

Models: inspect, activations, merge, methods. Installation: doctor, zoo (the built-in models) and
schema (of the YAML files).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mergefront.cli.options import Base, ConfigName, Json, Receiver, WrittenDtype
from mergefront.cli.terminal import emit_json, err, out, say, table, tensor_bar
from mergefront.config import VocabularyMode
from mergefront.records import plain


def inspect(
    receiver: Receiver,
    donors: Annotated[
        list[str],
        typer.Argument(
            help="LLMs with the receiver's language backbone; MODEL+ADAPTER for a LoRA adapter."
        ),
    ],
    base: Base = None,
    vocabulary: Annotated[
        VocabularyMode,
        typer.Option(
            help="How embedding and head would merge: row by row, or rows matched by their token."
        ),
    ] = "receiver",
    as_json: Json = False,
) -> None:
    """Print how a receiver and its donors pair: what merges, what is copied, what differs.

    mergefront inspect zoo:vlm zoo:arithmetic --base zoo:base

    Norms and cosines of the donors' deltas follow, by layer and part. With --base, deltas are taken
    from that model, and a donor that does not look like its descendant is warned of; without it,
    deltas are taken from the receiver.
    """
    from mergefront.jobs.inspect import inspect as inspect_models
    from mergefront.jobs.inspect import tables

    inspection = inspect_models(receiver, donors, base, vocabulary)
    if as_json:
        emit_json(plain(inspection))
        return
    for title, columns, rows in tables(inspection):
        out.print(table(title, columns, rows))
    for finding in inspection.findings:
        say(f"warning: {finding.message}; {finding.hint}")


def activations(
    config: ConfigName,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for activations.png and activations.svg.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print where the donors help and where they disturb: layers on reasoning against perception.

    mergefront activations digits

    Runs the receiver in transformers on 64 search questions of each objective, and says how much
    each donor changes the layers' outputs there. A search can start from these shares (the warm
    start `activations`).
    """
    from mergefront.config import load_run_config
    from mergefront.engine.activations import shares, tables
    from mergefront.runs import plots
    from mergefront.search.setup import measure_activations
    from mergefront.space.profiles import profile

    run = load_run_config(config)
    with err.status("loading models and questions") as status:
        changes, sources = measure_activations(
            run, lambda n, of: status.update(f"activations: {n} of {of}")
        )
    table_KG = shares(changes, sources.groups)
    if folder is not None:
        figure = plots.profile_figure(["share"], [profile(table_KG, sources.groups)])
        for picture in plots.save(figure, folder, "activations"):
            say(f"drew {picture}")
    if as_json:
        emit_json({"changes": changes, "shares": table_KG})
        return
    for title, columns, rows in tables(changes, sources.groups):
        out.print(table(title, columns, rows))


def merge(
    recipe: Annotated[Path, typer.Argument(help="A recipe.json, as an export holds it.")],
    destination: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    shard_gb: Annotated[
        float, typer.Option(min=0.01, help="Largest weight file, in GB (10^9 bytes).")
    ] = 5.0,
    dtype: WrittenDtype = "auto",
) -> None:
    """Merge a recipe into a complete checkpoint, without any search.

    mergefront merge recipe.json --out merged

    With --dtype every floating-point tensor is written in that type, and config.json names it. A
    merged tensor is rounded once, from fp32 arithmetic; a copied one (vision tower, connector,
    embeddings) once, from the receiver's values. A value too large for float16 is an error that
    names the tensor; below 6e-5 values lose digits in float16, below 3e-8 they become 0.
    """
    from mergefront.jobs.export import merge_file

    merge_file(recipe, destination, tensor_bar, int(shard_gb * 1e9), dtype, say)
    typer.echo(destination)


def methods(as_json: Json = False) -> None:
    """List the merge methods: what each is, its parameters, and which of them can be searched.

    mergefront methods
    """
    from mergefront.merging.methods import listing

    methods = listing()
    if as_json:
        emit_json({"methods": methods})
        return
    rows = []
    for method in methods:
        parameters = [
            f"{name}{'*' if name in method['searchable'] else ''} {_legal(values)}"
            for name, values in method["parameters"].items()
        ]
        needs_base = "yes" if method["needs_base"] else ""
        rows.append([method["name"], method["what"], "\n".join(parameters), needs_base])
    columns = ["method", "what", "parameters", "needs a base"]
    title = f"{len(methods)} merge methods; * can be searched"
    out.print(table(title, columns, rows, text=columns))


def _legal(values: tuple[Any, ...]) -> str:
    """`0..1` for the ends of a range, which are numbers; `own|base` for words, true and false."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return "..".join(f"{value:,.15g}" for value in values)
    return "|".join(str(value) for value in values)


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
