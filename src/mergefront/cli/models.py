"""Verbs about models without a search: inspect, activations, merge, methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mergefront.cli.terminal import Json, WrittenDtype, emit_json, err, out, say, table, tensor_bar
from mergefront.config import VocabularyMode
from mergefront.errors import ConfigError, UserError


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Models")(inspect)
    app.command(rich_help_panel="Models")(activations)
    app.command(rich_help_panel="Models")(merge)
    app.command(rich_help_panel="Models")(methods)


def inspect(
    receiver: Annotated[str, typer.Argument(help="The VLM: a folder, a hub id, or zoo:NAME.")],
    donors: Annotated[
        list[str], typer.Argument(help="Text LLMs with the same backbone; MODEL+ADAPTER for LoRA.")
    ],
    base: Annotated[str | None, typer.Option(help="The donors' common ancestor.")] = None,
    vocabulary: Annotated[
        VocabularyMode, typer.Option(help="How embedding and head would merge.")
    ] = "receiver",
    as_json: Json = False,
) -> None:
    """Print how a receiver and its donors pair: what merges, what is copied, what differs.

    With --base also the deltas' norms and the donors' cosines, by layer and part, and a warning
    where a donor does not look like a descendant of that base.
    """
    from mergefront.jobs.inspect import inspect as inspect_models
    from mergefront.jobs.inspect import tables

    found = inspect_models(receiver, donors, base, vocabulary)
    if as_json:
        emit_json(found.to_dict())
        return
    for title, columns, rows in tables(found):
        out.print(table(title, columns, rows))
    for finding in found.findings:
        say(f"warning: {finding.message}; {finding.hint}")


def activations(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped one.")],
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for activations.png and activations.svg.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print where the donors help and where they disturb: layers on reasoning against perception.

    Runs the receiver in transformers on 64 search questions of each objective, and says how much
    each donor changes what its layers put out there. The share is the warm start `activations`.
    """
    from mergefront import files
    from mergefront.config import RunConfig, absolute, read_mapping, validate
    from mergefront.engine.activations import shares, tables
    from mergefront.runs import plots
    from mergefront.search.setup import measured
    from mergefront.space.profiles import profile

    path = files.find("configs", config, Path())
    run = absolute(validate(read_mapping(path), RunConfig, str(path)))
    with err.status("loading models and questions") as status:
        changes, sources = measured(run, lambda n, of: status.update(f"activations: {n} of {of}"))
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
    recipe: Annotated[Path, typer.Argument(help="A recipe.json.")],
    destination: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    shard_gb: Annotated[
        float, typer.Option(min=0.01, help="Largest weight file, in GB (10^9 bytes).")
    ] = 5.0,
    dtype: WrittenDtype = "auto",
) -> None:
    """Merge a recipe into a complete checkpoint, without any search.

    With --dtype every floating tensor is written in that type, and config.json says so: merged ones
    are rounded once, from fp32 arithmetic, and copied ones (tower, connector, embeddings) once,
    from the receiver's own. A value too large for float16 is an error that names the tensor; below
    6e-5 values lose digits there, below 3e-8 they become 0.
    """
    from mergefront.jobs.export import merge as merge_recipe
    from mergefront.merging.recipe import Recipe, refs
    from mergefront.models import lineage
    from mergefront.models.sources import Sources

    if not recipe.is_file():
        raise UserError(f"{recipe}: no such recipe file")
    read = Recipe.read(recipe)
    sources = Sources.open(refs(read))
    for finding in lineage.check(sources):
        say(f"warning: {finding.message}; {finding.hint}")
    if sources.vocabulary is not None:
        for line in sources.vocabulary.lines():
            say(line)
    try:
        with tensor_bar() as progress:
            merge_recipe(read, sources, destination, progress, int(shard_gb * 1e9), dtype)
    except ConfigError as problem:  # all that is a recipe's fault
        raise ConfigError(f"{recipe}: {problem.message}", hint=problem.hint) from problem
    how = f", written in {dtype}" if sources.receiver.recast(dtype) else ""
    say(f"merged {len(sources.receiver.headers)} tensors by {read.method}{how}")
    typer.echo(destination)


def methods(as_json: Json = False) -> None:
    """List the merge methods: what each is, its parameters, and which of them can be searched."""
    from mergefront.merging.methods import listing

    found = listing()
    if as_json:
        emit_json({"methods": found})
        return
    rows = []
    for one in found:
        parameters = [
            f"{name}{'*' if name in one['searchable'] else ''} {_legal(values)}"
            for name, values in one["parameters"].items()
        ]
        rows.append(
            [one["name"], one["what"], "\n".join(parameters), "yes" if one["needs_base"] else ""]
        )
    columns = ["method", "what", "parameters", "needs a base"]
    title = f"{len(found)} merge methods; * can be searched"
    out.print(table(title, columns, rows, text=columns))


def _legal(values: tuple[Any, ...]) -> str:
    """`0..1` for the ends of a range, which are numbers; `own|base` for words, true and false."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return "..".join(f"{value:,.15g}" for value in values)
    return "|".join(str(value) for value in values)
