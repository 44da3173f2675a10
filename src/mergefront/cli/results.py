"""Verbs about what a search found: front, export, compare, rebuild."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from mergefront.cli.terminal import (
    Json,
    WrittenDtype,
    emit_json,
    gain_points,
    out,
    percent,
    probability,
    rates,
    say,
    table,
    tensor_bar,
)

if TYPE_CHECKING:
    from mergefront.runs.front import Front, Member

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
    front = read_front(opened)
    if as_json:
        emit_json(front.to_dict())
        return
    print_front(front)
    later = status_of(runs, run).candidates - front.candidates
    if later:
        say(f"note: {later} candidates came later; run the search to its end")


def print_front(front: Front) -> None:
    """Print the validated front as tables, after what must be known before any number."""
    for warning in front.warnings:
        out.print(Text(warning, style="bold red"), soft_wrap=True)
    names = front.objectives
    members = sorted(front.members, key=lambda member: -member.validation[names[0]].mean)
    gains = [f"{name} gain" for name in names]
    receiver = front.receiver["validation"]
    rows = [["receiver", *(percent(receiver[n]) for n in names), *("" for _ in names), "", "", ""]]
    for member in members:
        rows.append([
            str(member.number),
            *(percent(member.validation[n]) for n in names),
            *(gain_points(member.gain[n]) for n in names),
            probability(member.gain[names[0]].p_holm) + ("†" if _alone(member) else ""),
            member.verdict,
            ", ".join(member.picks),
        ])  # fmt: skip
    title = "validation items; ± standard error, gains paired with 95 % interval, p after Holm"
    if any(_alone(member) for member in members):
        title += "; † the gain holds for that member alone, not over the whole front"
    columns = ["member", *names, *gains, "p", "verdict", "picks"]
    out.print(table(title, columns, rows, text=["verdict", "picks"]))
    _print_choice(front, members)
    _print_answers(front, members)
    _print_tested(front, [member for member in members if member.test], gains)
    volume = front.hypervolume.validation
    reference = ", ".join(f"{n} {100 * volume.reference[n]:.1f}" for n in names)
    out.print(
        f"hypervolume on validation items {volume.value:.4f} "
        f"[{volume.low:.4f}, {volume.high:.4f}] against ({reference}); "
        f"{front.candidates} candidates, {front.failed} failed"
    )
    for message in front.messages:
        out.print(message, markup=False, soft_wrap=True)


def _alone(member: Member) -> bool:
    """Whether a gain is resolved by itself, but not over the whole front."""
    from mergefront.runs.gains import ALONE

    return member.holds == ALONE


def _print_choice(front: Front, members: Sequence[Member]) -> None:
    """Print what chose the members, by which numbers, and what the race saved."""
    from mergefront.cli.display import race_line

    if front.belief.by_model:
        names = front.objectives
        columns = [column for n in names for column in (f"{n} scored", f"{n} believed")]
        rows = [
            [
                str(member.number),
                *(percent(step[n]) for n in names for step in (member.search, member.believed)),
            ]
            for member in members
        ]
        title = "chosen by what the model of all candidates believes, on search items"
        out.print(table(title, ["member", *columns], rows))
    else:
        out.print(f"chosen by scores on search items: {front.belief.why}", markup=False)
    if race := race_line(front.race):
        out.print(race, markup=False, soft_wrap=True)


def _print_answers(front: Front, members: Sequence[Member]) -> None:
    """Print how validation items were answered, and the scores without images."""
    blind = front.receiver_blind or {}
    names = [name for name in front.objectives if name in front.receiver_answers]
    columns = [f"{n}: no answer, cut off, tokens" for n in names]
    columns += [f"{n} without images" for n in names if n in blind]
    rows = [["receiver", *(rates(front.receiver_answers[n]) for n in names)]]
    rows[0] += [percent(blind[n]) for n in names if n in blind]
    for member in members:
        scores = member.blind.scores if member.blind else {}
        rows.append([str(member.number), *(rates(member.answers[n]) for n in names)])
        rows[-1] += [percent(scores.get(n)) if scores else "" for n in names if n in blind]
    title = "how they answered, on validation items; without images: the blind control, picks only"
    out.print(table(title, ["member", *columns], rows))


def _print_tested(front: Front, tested: Sequence[Member], gains: Sequence[str]) -> None:
    names, receiver = front.objectives, front.receiver["test"]
    rows = [["receiver", *(percent(receiver[n]) for n in names), *("" for _ in names)]]
    for member in tested:
        label = f"{member.number} ({', '.join(member.picks)})"
        scores, test_gain = member.test or {}, member.test_gain or {}
        rows.append([label, *(percent(scores[n]) for n in names),
                     *(gain_points(test_gain[n]) for n in names)])  # fmt: skip
    rounds = front.test_rounds
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
        verified = export_pick(opened, pick, destination, progress=progress, say=say, dtype=dtype)
    if as_json:
        emit_json({"folder": str(destination), **verified.to_dict()})
        return
    typer.echo(destination)
    for line in verified.sentences():
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
