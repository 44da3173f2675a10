"""Verbs about models without a search: inspect, merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mergefront.cli.terminal import Json, emit_json, out, say, table, tensor_bar
from mergefront.errors import UserError


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Models")(inspect)
    app.command(rich_help_panel="Models")(merge)


def inspect(
    receiver: Annotated[str, typer.Argument(help="The VLM: a folder, a hub id, or zoo:NAME.")],
    donors: Annotated[list[str], typer.Argument(help="Text LLMs with the same backbone.")],
    base: Annotated[str | None, typer.Option(help="The donors' common ancestor.")] = None,
    as_json: Json = False,
) -> None:
    """Print how a receiver and its donors pair: what merges, what is copied, what differs.

    With --base also the deltas' norms and the donors' cosines, by layer and part.
    """
    from mergefront.inspection import inspect as inspect_models

    found = inspect_models(receiver, donors, base)
    if as_json:
        emit_json(found.to_dict())
        return
    for title, columns, rows in found.tables():
        out.print(table(title, columns, rows))


def merge(
    recipe: Annotated[Path, typer.Argument(help="A recipe.json.")],
    destination: Annotated[Path, typer.Option("--out", help="Folder to make.")],
) -> None:
    """Merge a recipe into a complete checkpoint, without any search."""
    from mergefront.export import merge as merge_recipe
    from mergefront.merging.sources import Sources
    from mergefront.recipe import Recipe, refs

    if not recipe.is_file():
        raise UserError(f"{recipe}: no such recipe file")
    read = Recipe.from_json(recipe.read_text(encoding="utf-8"), recipe)
    sources = Sources.open(refs(read))
    with tensor_bar() as progress:
        merge_recipe(read, sources, destination, progress)
    say(f"merged {len(sources.receiver.headers)} tensors by {read.method}")
    typer.echo(destination)
