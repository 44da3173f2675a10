"""Verbs about what a search found: front, export, compare, rebuild."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mergefront.cli.terminal import Json, emit_json, out, percent, points, say, table, tensor_bar

Runs = Annotated[Path, typer.Option("--runs", help="Directory that holds the runs.")]


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Results")(front)
    app.command(rich_help_panel="Results")(export)
    app.command(rich_help_panel="Results")(compare)
    app.command(rich_help_panel="Results")(rebuild)


def front(
    run: Annotated[str, typer.Argument(help="Name or path of a run.")],
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Print the validated front: scores, paired gains over the receiver with 95 % intervals."""
    from mergefront.select import read_front
    from mergefront.status import open_run, status_of

    opened = open_run(runs, run)
    found = read_front(opened)
    if as_json:
        emit_json(found)
        return
    print_front(found)
    now = status_of(runs, run)["candidates"]
    if now != found["candidates"]:
        say(f"note: {now - found['candidates']} candidates came later; run the search to its end")


def print_front(found: Mapping[str, Any]) -> None:
    """The validated front as a table on stdout."""
    names = found["objectives"]
    columns = ["member", *names, *(f"{name} gain" for name in names), "verdict", "picks"]
    receiver = found["receiver"]["validation"]
    rows = [["receiver", *(percent(receiver[n]) for n in names), *("" for _ in names), "", ""]]
    order = sorted(found["members"], key=lambda m: -m["validation"][names[0]]["mean"])
    for m in order:
        rows.append([
            str(m["number"]),
            *(percent(m["validation"][n]) for n in names),
            *(points(m["gain"][n]) for n in names),
            m["verdict"],
            ", ".join(m["picks"]),
        ])  # fmt: skip
    out.print(
        table("validation items; ± standard error, gains paired with 95 % interval", columns, rows)
    )
    tested = [m for m in order if m["test"]]
    receiver = found["receiver"]["test"]
    rows = [["receiver", *(percent(receiver[n]) for n in names), *("" for _ in names)]]
    for m in tested:
        label = f"{m['number']} ({', '.join(m['picks'])})"
        rows.append([label, *(percent(m["test"][n]) for n in names),
                     *(points(m["test_gain"][n]) for n in names)])  # fmt: skip
    rounds = found["test_rounds"]
    often = "once" if rounds == 1 else f"in {rounds} rounds, since the search was extended"
    title = f"test items, read {often}, picks only"
    out.print(table(title, columns[: 1 + 2 * len(names)], rows))
    volume = found["hypervolume"]["validation"]
    reference = ", ".join(f"{n} {100 * volume['reference'][n]:.1f}" for n in names)
    out.print(
        f"hypervolume on validation items {volume['value']:.4f} "
        f"[{volume['low']:.4f}, {volume['high']:.4f}] against ({reference}); "
        f"{found['candidates']} candidates, {found['failed']} failed"
    )
    for message in found["messages"]:
        out.print(message)


def export(
    run: Annotated[str, typer.Argument(help="Name or path of a run.")],
    destination: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    pick: Annotated[
        str, typer.Option(help="knee, best:OBJECTIVE, or a candidate's number.")
    ] = "knee",
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Write a candidate as a complete Hugging Face checkpoint, verified against what was scored.

    It must load in transformers without missing or unexpected tensors, and in a fresh engine give
    the parameter hashes and the answers that were scored; otherwise no folder appears.
    """
    from mergefront.conclude import export_pick
    from mergefront.status import open_run

    opened = open_run(runs, run)
    with tensor_bar() as progress:
        checks = export_pick(opened, pick, destination, progress=progress, say=say)
    if as_json:
        emit_json({"folder": str(destination), **checks})
        return
    typer.echo(destination)
    for line in checks["words"]:
        say(line)


def compare(
    references: Annotated[
        list[str], typer.Argument(help="RUN, RUN:knee, RUN:best:OBJECTIVE, RUN:17, recipe.json")
    ],
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for profiles.png and profiles.svg.")
    ] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Compare layer-weight profiles: a table and distances, and a figure by source and part."""
    from mergefront import compare as comparing
    from mergefront import plots

    found = comparing.compare([comparing.resolve(reference, runs) for reference in references])
    if folder is not None:
        figure = plots.profile_figure(found.labels, found.profiles)
        for path in plots.save(figure, folder, "profiles"):
            say(f"drew {path}")
    if as_json:
        emit_json(found.to_dict())
        return
    for title, columns, rows in found.tables():
        out.print(table(title, columns, rows))


def rebuild(
    run: Annotated[str, typer.Argument(help="Name or path of a run.")],
    runs: Runs = Path("runs"),
) -> None:
    """Make front.json, plots, report and the MLflow run anew from the study and item files."""
    from mergefront.conclude import rebuild as rebuild_run
    from mergefront.status import open_run

    for line in rebuild_run(open_run(runs, run), say):
        out.print(line)
