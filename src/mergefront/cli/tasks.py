"""Verbs about tasks: list, show and fetch; check (what a task file makes) and power (how many)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergefront.cli.options import Json, Runs
from mergefront.cli.terminal import emit_json, err, out, say, table
from mergefront.errors import UserError

if TYPE_CHECKING:
    from mergefront.jobs.check_task import Example, MarkedFile, TaskCheck
    from mergefront.jobs.power import ComparisonSize, Disagreement
    from mergefront.tasks import Task

verbs = typer.Typer(
    help="Questions: the library of benchmarks, and how a task file reads and marks them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

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


@verbs.command("list")
def list_tasks(as_json: Json = False) -> None:
    """List the tasks of the library: objective, size, rule, licence, and where their data is."""
    from mergefront.tasks import library

    tasks = [
        {
            "name": task.name,
            "objective": task.objective,
            "items": _size(task),
            "rules": list(task.rules),
            "data": _data_location(task),
            "licence": task.licence,
        }
        for task in library()
    ]
    if as_json:
        emit_json(tasks)
        return
    unknown = {"objective": "-", "items": "?", "licence": "not stated"}
    rows = [
        [
            ", ".join(value) if isinstance(value, list) else str(value or unknown[key])
            for key, value in task.items()
        ]
        for task in tasks
    ]
    columns = ["task", "objective", "items", "rules", "data", "licence"]
    out.print(table("", columns, rows, text=["objective", "rules", "data", "licence"]))
    say("`mergefront tasks show NAME` tells more; a task of your own is one file: docs/tasks.md")


def _size(task: Task) -> int | None:
    from mergefront import zoo

    return task.rows if task.data.zoo is None else len(zoo.questions(task.data.zoo))


def _data_location(task: Task) -> str:
    """Return where a task's data is: shipped, here (files or the cache), or only on the hub."""
    from mergefront.tasks import cache

    if task.data.zoo is not None:
        return "shipped"
    if task.data.hub is None:
        return "here"
    return "here" if cache.find(task.data) else f"hub: {task.data.hub}"


@verbs.command()
def show(name: Name, as_json: Json = False) -> None:
    """Say what a task is, where it comes from, and where its YAML file lies to copy and change."""
    from mergefront.tasks import load_task, task_path

    path = task_path(name, Path())
    task = load_task(path)
    if as_json:
        emit_json({"file": str(path), **task.model_dump(mode="json")})
        return
    facts = [
        ("file", path),
        ("objective", task.objective),
        ("items", _size(task)),
        ("data", _data_location(task)),
        ("revision", task.data.revision),
        ("rules", ", ".join(task.rules)),
        ("answers", "labels by log-probability" if task.mode == "labels" else "generated"),
        ("longest", f"{task.max_tokens} tokens"),
        ("licence", task.licence),
        ("source", task.source),
        ("prompt from", task.prompt_source),
        ("scoring from", task.scoring_source),
        ("notes", task.notes),
        ("unverified", "; ".join(task.unverified)),
    ]
    rows = [[name, str(fact)] for name, fact in facts if fact not in (None, "")]
    listing = table(task.name, ["", ""], rows, text=[""])
    listing.show_header = False
    out.print(listing)
    out.print(f"\nprompt:\n{task.prompt}", markup=False)


@verbs.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Tasks of the library, or task files.")],
    as_json: Json = False,
) -> None:
    """Read hub datasets into the cache now, so that runs need no network later.

    The cache is ~/.cache/mergefront, or the folder that MERGEFRONT_CACHE names; copy it to a
    machine without a network.
    """
    from mergefront.tasks import load_task, prefetch, task_path

    files = [task_path(name, Path()) for name in names]
    tasks = [(load_task(file), file.parent) for file in files]
    rows = []
    for task, folder in tasks:
        with err.status(f"fetching {task.name}"):
            copy = prefetch(task, folder)
        row: dict[str, Any] = {"task": task.name, "folder": None, "rows": None, "bytes": None}
        line = f"{task.name}: its data is on this machine anyway"
        if copy is not None:
            row.update(folder=str(copy.folder), rows=copy.n_rows, bytes=copy.n_bytes)
            size = f"({copy.n_rows} rows, {copy.n_bytes / 1e6:.0f} MB)"
            line = f"{task.name}: {copy.folder} {size}"
        rows.append(row)
        if not as_json:
            out.print(line, soft_wrap=True)
    if as_json:
        emit_json(rows)


@verbs.command()
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
    from mergefront.jobs.check_task import check_task, write_page

    if folder is not None and folder.exists():
        raise UserError(f"output folder {folder} exists already", hint="give another with --out")
    log = logging.getLogger("mergefront.tasks.item_set")
    level = log.level
    log.setLevel(logging.ERROR)  # its warnings are printed below
    try:
        with err.status("reading the data"):
            result = check_task(name, n=n, answers=answer or (), file=answers, limit=limit)
    finally:
        log.setLevel(level)
    if folder is not None:
        write_page(result, folder)
        say(f"open {folder / 'index.html'} to look at the pictures")
    if as_json:
        emit_json(result.to_dict())
        return
    _print_check(result)


def _print_check(result: TaskCheck) -> None:
    splits = result.splits
    rows = [
        ["items", *(str(size.items) for size in splits.values())],
        ["units", *(str(size.units) for size in splits.values())],
        ["clusters", *(str(size.clusters) for size in splits.values())],
    ]
    strata = sorted({name for size in splits.values() for name in size.strata})
    if len(strata) > 1:
        for name in strata:
            rows.append([f"  {name}", *(str(size.strata.get(name, 0)) for size in splits.values())])
    out.print(f"{result.task.name}: {result.file}", soft_wrap=True, markup=False)
    out.print(table("", ["", *splits], rows))
    share = f"{100 * result.top_share:.1f} %"
    out.print(f"always answering {result.top_gold!r} would be right {share} of the time")
    for place, example in enumerate(result.examples, start=1):
        _print_example(place, example)
    if result.answers:
        _print_marked_file(result.answers)
    for warning in result.warnings:
        say(f"note: {warning}")


def _print_example(place: int, example: Example) -> None:
    from mergefront.jobs.check_task import picture_facts

    item = example.item
    images = [picture_facts(data) for data in item.images]
    sizes = ", ".join(f"{i['width']}x{i['height']} {i['format']}" for i in images)
    facts = [f"{example.split} item", item.stratum, f"images: {sizes or 'none'}"]
    out.print(f"\n{place}. {item.id} ({'; '.join(f for f in facts if f)})", markup=False)
    for line in item.question.splitlines():
        out.print(f"   | {line}", markup=False, soft_wrap=True)
    labels = f", by the log-probability of {', '.join(item.labels)}" if item.labels else ""
    golds = " or ".join(item.answers)
    out.print(f"   gold: {golds} (rule {item.rule.name}{labels})", markup=False)
    for text, mark in example.marks:
        out.print(
            f"   {text!r} -> read as {mark.extracted!r}, {mark.status}, score {mark.value:g}",
            markup=False,
            soft_wrap=True,
        )


def _print_marked_file(answers: MarkedFile) -> None:
    if answers.mean_score is None:
        out.print(f"\n{answers.file}: none of its items are of this task")
        return
    statuses = ", ".join(f"{name} {n}" for name, n in sorted(answers.statuses.items()))
    out.print(
        f"\n{answers.file}: {len(answers.marked)} answers, mean score "
        f"{100 * answers.mean_score:.1f} % ({statuses}); "
        f"{len(answers.unknown)} rows are of other items",
        soft_wrap=True,
    )


@verbs.command()
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
    from mergefront.jobs.power import comparison_size, disagreement_of_run
    from mergefront.runs.reference import open_run

    if (run is None) == (discordance is None):
        raise UserError(
            "tasks power takes either --discordance or --run",
            hint="the share of items on which two models differ is often 0.1 to 0.2",
        )
    gap = difference / 100
    disagreements: list[Disagreement] = []
    if run is not None:
        disagreements = disagreement_of_run(open_run(runs, run))
    sizes = [
        comparison_size(
            gap,
            entry.discordance,
            units=items or entry.units,
            power=power,
            design_effect=entry.design_effect,
        )
        for entry in disagreements
    ]
    if discordance is not None:
        sizes = [comparison_size(gap, discordance, units=items, power=power)]
    if as_json:
        origins = [asdict(disagreement) for disagreement in disagreements] or [{}]
        emit_json([origin | asdict(size) for origin, size in zip(origins, sizes, strict=True)])
        return
    _print_power(sizes, disagreements)


def _print_power(sizes: Sequence[ComparisonSize], disagreements: Sequence[Disagreement]) -> None:
    points = f"items for {100 * sizes[0].difference:g} points"
    columns = ["", "differ on", "clusters cost", points, "items at hand", "detect"]
    rows = []
    for place, size in enumerate(sizes):
        label, differ = "given", f"{100 * size.discordance:.1f} %"
        if disagreements:
            origin = disagreements[place]
            label = f"{origin.objective} ({origin.split}, {origin.models} candidates)"
            differ += f" ({100 * origin.lowest:.1f} to {100 * origin.highest:.1f})"
        detectable = "nothing" if size.detectable is None else f"{100 * size.detectable:.1f} points"
        rows.append([
            label,
            differ,
            f"x {size.design_effect:.2f}",
            "none suffice" if size.needed is None else str(size.needed),
            "-" if size.units is None else str(size.units),
            "-" if size.units is None else detectable,
        ])  # fmt: skip
    out.print(table(f"paired, two-sided 5 %, power {100 * sizes[0].power:g} %", columns, rows))
    if any(size.needed is None for size in sizes):
        out.print("two models cannot differ by more than the share of items they disagree on")
