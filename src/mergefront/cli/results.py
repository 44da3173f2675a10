"""Verbs about what a search found: front, export, compare, rebuild."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from mergefront.cli.terminal import (
    Json,
    WrittenDtype,
    emit_json,
    out,
    percent,
    points,
    probability,
    rates,
    say,
    table,
    tensor_bar,
)

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
    from mergefront.runs.front import read_front
    from mergefront.runs.status import open_run, status_of

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
    """The validated front as tables on stdout, after what must be known before any number."""
    for warning in found.get("warnings", ()):
        out.print(Text(warning, style="bold red"), soft_wrap=True)
    names = found["objectives"]
    order = sorted(found["members"], key=lambda m: -m["validation"][names[0]]["mean"])
    gains = [f"{name} gain" for name in names]
    receiver = found["receiver"]["validation"]
    rows = [["receiver", *(percent(receiver[n]) for n in names), *("" for _ in names), "", "", ""]]
    for m in order:
        rows.append([
            str(m["number"]),
            *(percent(m["validation"][n]) for n in names),
            *(points(m["gain"][n]) for n in names),
            probability(m["gain"][names[0]].get("p_holm")) + ("†" if _alone(m) else ""),
            m["verdict"],
            ", ".join(m["picks"]),
        ])  # fmt: skip
    title = "validation items; ± standard error, gains paired with 95 % interval, p after Holm"
    if any(_alone(m) for m in order):
        title += "; † the gain holds for that member alone, not over the whole front"
    columns = ["member", *names, *gains, "p", "verdict", "picks"]
    out.print(table(title, columns, rows, text=["verdict", "picks"]))
    _print_choice(found, order)
    _print_answers(found, order)
    _print_tested(found, [m for m in order if m["test"]], gains)
    volume = found["hypervolume"]["validation"]
    reference = ", ".join(f"{n} {100 * volume['reference'][n]:.1f}" for n in names)
    out.print(
        f"hypervolume on validation items {volume['value']:.4f} "
        f"[{volume['low']:.4f}, {volume['high']:.4f}] against ({reference}); "
        f"{found['candidates']} candidates, {found['failed']} failed"
    )
    for message in found["messages"]:
        out.print(message, markup=False, soft_wrap=True)


def _alone(member: Mapping[str, Any]) -> bool:
    """Whether a gain is resolved by itself, but not over the whole front."""
    return "alone" in (member.get("holds") or "")


def _print_choice(found: Mapping[str, Any], order: Sequence[Mapping[str, Any]]) -> None:
    """Who chose the members, by which numbers, and what the race saved; in runs that know."""
    from mergefront.cli.display import race_line

    belief, race = found.get("belief"), race_line(found.get("race") or {})
    if belief is not None and belief["by_model"]:
        names = found["objectives"]
        columns = [column for n in names for column in (f"{n} scored", f"{n} believed")]
        rows = [
            [
                str(m["number"]),
                *(percent(m[step][n]) for n in names for step in ("search", "believed")),
            ]
            for m in order
        ]
        title = "chosen by what the model of all candidates believes, on search items"
        out.print(table(title, ["member", *columns], rows))
    elif belief is not None:
        out.print(f"chosen by scores on search items: {belief['why']}", markup=False)
    if race:
        out.print(race, markup=False, soft_wrap=True)


def _print_answers(found: Mapping[str, Any], order: Sequence[Mapping[str, Any]]) -> None:
    """How validation items were answered, and the scores without images."""
    if not found.get("receiver_answers"):
        return
    blind = found.get("receiver_blind") or {}
    names = [name for name in found["objectives"] if name in found["receiver_answers"]]
    columns = [f"{n}: no answer, cut off, tokens" for n in names]
    columns += [f"{n} without images" for n in names if n in blind]
    rows = [["receiver", *(rates(found["receiver_answers"][n]) for n in names)]]
    rows[0] += [percent(blind[n]) for n in names if n in blind]
    for m in order:
        scores = (m["blind"] or {"scores": {}})["scores"]
        rows.append([str(m["number"]), *(rates(m["answers"][n]) for n in names)])
        rows[-1] += [percent(scores.get(n)) if scores else "" for n in names if n in blind]
    title = "how they answered, on validation items; without images: the blind control, picks only"
    out.print(table(title, ["member", *columns], rows))


def _print_tested(
    found: Mapping[str, Any], tested: Sequence[Mapping[str, Any]], gains: Sequence[str]
) -> None:
    names, receiver = found["objectives"], found["receiver"]["test"]
    rows = [["receiver", *(percent(receiver[n]) for n in names), *("" for _ in names)]]
    for m in tested:
        label = f"{m['number']} ({', '.join(m['picks'])})"
        rows.append([label, *(percent(m["test"][n]) for n in names),
                     *(points(m["test_gain"][n]) for n in names)])  # fmt: skip
    rounds = found["test_rounds"]
    often = "once" if rounds == 1 else f"in {rounds} rounds, since the search was extended"
    title = f"test items, read {often}, picks only"
    out.print(table(title, ["member", *names, *gains], rows))


def export(
    run: Annotated[str, typer.Argument(help="Name or path of a run.")],
    destination: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    pick: Annotated[
        str,
        typer.Option(
            help="knee, guarded, best:OBJECTIVE, weighted:OBJECTIVE=2,OTHER=1, or a number."
        ),
    ] = "knee",
    runs: Runs = Path("runs"),
    dtype: WrittenDtype = "auto",
    as_json: Json = False,
) -> None:
    """Write a candidate as a complete Hugging Face checkpoint, verified against what was scored.

    It must load in transformers without missing or unexpected tensors, and in a fresh engine give
    the parameter hashes and the answers that were scored; otherwise no folder appears.

    With --dtype it is the same merge rounded otherwise (see merge --help), and not the weights that
    were scored unless the engine computed in that type on weights of that type or float32: then
    hashes are compared. Else answers are asked again in an engine of that type, and counted.
    """
    from mergefront.jobs.artifacts import export_pick
    from mergefront.runs.status import open_run

    opened = open_run(runs, run)
    with tensor_bar() as progress:
        checks = export_pick(opened, pick, destination, progress=progress, say=say, dtype=dtype)
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
    from mergefront.runs import compare as comparing
    from mergefront.runs import plots

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
    from mergefront.jobs.artifacts import rebuild_artifacts
    from mergefront.runs.status import open_run

    for line in rebuild_artifacts(open_run(runs, run), say):
        out.print(line)
