"""Verbs that look before a search: tasks check (what a file reads and marks), tasks power."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergefront.cli.terminal import Json, emit_json, err, out, say, table
from mergefront.errors import UserError

if TYPE_CHECKING:
    from mergefront.jobs.check_task import Checked


Name = Annotated[str, typer.Argument(help="A task of the library, or a task file (.yaml).")]
Shown = Annotated[int, typer.Option("--n", min=1, help="Questions shown.")]
GivenAnswer = Annotated[
    list[str] | None,
    typer.Option(help="A reply to mark for each question shown; may be given several times."),
]
AnswerFile = Annotated[
    Path | None,
    typer.Option(
        help="Replies to mark: .jsonl, .csv or .parquet with columns item and text, such as a "
        "run's items/00017.parquet."
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to make, with a page of pictures.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Read only so many rows, for a quick look.")]
Difference = Annotated[float, typer.Option(help="The difference to find, in points of 100.")]
Discordance = Annotated[
    float | None,
    typer.Option(help="Share of the items on which the two models differ: 0.15 is usual."),
]
Run = Annotated[
    str | None, typer.Option(help="A run whose candidates show how much they disagree.")
]
Items = Annotated[int | None, typer.Option(min=1, help="Items at hand.")]
Power = Annotated[
    float, typer.Option("--power", help="Probability of finding a difference that is there.")
]
Runs = Annotated[Path, typer.Option("--runs", help="Directory that holds the runs.")]


def check(
    name: Name,
    n: Shown = 3,
    answer: GivenAnswer = None,
    answers: AnswerFile = None,
    folder: Out = None,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Show what a task file makes of its data: prompts, golds, sizes, and how answers are marked.

    mergefront tasks check cats.yaml --answer "There are 3." --answer three --out look

    Look at the pictures and read the prompts before you trust any number.
    """
    from mergefront.jobs.check_task import check as check_task
    from mergefront.jobs.check_task import write_page

    if folder is not None and folder.exists():
        raise UserError(f"output folder {folder} exists already", hint="give another with --out")
    log = logging.getLogger("mergefront.tasks.pool")
    before = log.level
    log.setLevel(logging.ERROR)  # its warnings are told below
    try:
        with err.status("reading the data"):
            found = check_task(name, n=n, answers=answer or (), file=answers, limit=limit)
    finally:
        log.setLevel(before)
    if folder is not None:
        write_page(found, folder)
        say(f"open {folder / 'index.html'} to look at the pictures")
    if as_json:
        emit_json(found.to_dict())
        return
    _print_check(found)


def _print_check(found: Checked) -> None:
    told = found.to_dict()
    names = sorted({name for split in told["splits"].values() for name in split["strata"]})
    rows = [
        ["items", *(str(one["items"]) for one in told["splits"].values())],
        ["that count once", *(str(one["units"]) for one in told["splits"].values())],
        ["clusters", *(str(one["clusters"]) for one in told["splits"].values())],
    ]
    if len(names) > 1:
        for name in names:
            cells = [str(one["strata"].get(name, 0)) for one in told["splits"].values()]
            rows.append([f"  {name}", *cells])
    out.print(f"{told['task']}: {told['file']}", soft_wrap=True, markup=False)
    out.print(table("", ["", *told["splits"]], rows))
    gold, share = told["commonest"].values()
    out.print(f"always answering {gold!r} would be right {100 * share:.1f} % of the time")
    for place, one in enumerate(told["examples"], start=1):
        _print_example(place, one)
    if told["rescored"]:
        _print_rescored(told["rescored"])
    for words in told["warnings"]:
        say(f"note: {words}")


def _print_example(place: int, one: Mapping[str, Any]) -> None:
    pictures = ", ".join(f"{i['width']}x{i['height']} {i['format']}" for i in one["images"])
    facts = [f"{one['split']} item", one["stratum"], f"images: {pictures or 'none'}"]
    out.print(f"\n{place}. {one['id']} ({'; '.join(f for f in facts if f)})", markup=False)
    for line in one["prompt"].splitlines():
        out.print(f"   | {line}", markup=False, soft_wrap=True)
    labels = f", by the log-probability of {', '.join(one['labels'])}" if one["labels"] else ""
    golds = " or ".join(one["answers"])
    out.print(f"   gold: {golds} (rule {one['rule']['name']}{labels})", markup=False)
    for mark in one["marks"]:
        out.print(
            f"   {mark['answer']!r} -> read as {mark['extracted']!r}, {mark['status']}, "
            f"score {mark['value']:g}",
            markup=False,
            soft_wrap=True,
        )


def _print_rescored(told: Mapping[str, Any]) -> None:
    if not told["answers"]:
        out.print(f"\n{told['file']}: none of its items are of this task")
        return
    status = ", ".join(f"{name} {n}" for name, n in sorted(told["status"].items()))
    out.print(
        f"\n{told['file']}: {told['answers']} answers, mean score {100 * told['score']:.1f} % "
        f"({status}); {len(told['unknown'])} rows are of other items",
        soft_wrap=True,
    )


def power(
    difference: Difference = 2.0,
    discordance: Discordance = None,
    run: Run = None,
    items: Items = None,
    power: Power = 0.8,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Say how many items a difference needs, and what the items at hand can detect.

    mergefront tasks power --difference 2 --discordance 0.15 --items 1000

    mergefront tasks power --difference 2 --run digits

    Both models answer the same items (paired), at a two-sided level of 5 %. What counts is on how
    many items the two disagree; a run knows that of its own candidates, and what its clusters cost.
    """
    from mergefront.jobs.power import seen, size
    from mergefront.runs.status import open_run

    if (run is None) == (discordance is None):
        raise UserError(
            "tasks power takes either --discordance or --run",
            hint="the share of items on which two models differ is often 0.1 to 0.2",
        )
    gap = difference / 100
    if run is None:
        assert discordance is not None
        told: list[dict[str, Any]] = [asdict(size(gap, discordance, units=items, power=power))]
    else:
        told = []
        for one in seen(open_run(runs, run)):
            found = size(
                gap,
                one.discordance,
                units=items or one.units,
                power=power,
                design_effect=one.design_effect,
            )
            told.append({**asdict(one), **asdict(found)})
    if as_json:
        emit_json(told)
        return
    _print_power(told, gap)


def _print_power(told: Sequence[Mapping[str, Any]], gap: float) -> None:
    columns = ["", "differ on", "clusters cost", f"items for {100 * gap:g} points", "items at hand",
               "detect"]  # fmt: skip
    rows = []
    for one in told:
        label, differ = "given", f"{100 * one['discordance']:.1f} %"
        if "objective" in one:
            label = f"{one['objective']} ({one['split']}, {one['models']} candidates)"
            differ += f" ({100 * one['lowest']:.1f} to {100 * one['highest']:.1f})"
        found = one["detectable"]
        rows.append([
            label,
            differ,
            f"x {one['design_effect']:.2f}",
            "none suffice" if one["needed"] is None else str(one["needed"]),
            "-" if one["units"] is None else str(one["units"]),
            "-" if one["units"] is None else "nothing" if found is None
            else f"{100 * found:.1f} points",
        ])  # fmt: skip
    title = f"paired, two-sided 5 %, power {100 * told[0]['power']:g} %"
    out.print(table(title, columns, rows))
    if any(one["needed"] is None for one in told):
        out.print("two models cannot differ by more than the share of items they disagree on")
