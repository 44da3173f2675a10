"""Verbs about models without a search: inspect, activations, merge, methods."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mergefront.cli.options import Base, ConfigName, Json, Receiver, WrittenDtype
from mergefront.cli.terminal import emit_json, err, out, say, table, tensor_bar
from mergefront.config import VocabularyMode


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
        emit_json(asdict(inspection))
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
