"""The verb that evaluates anything: score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergefront.cli.terminal import Json, emit_json, err, out, say, table
from mergefront.errors import UserError

if TYPE_CHECKING:
    from mergefront.jobs.score import Questions, Subject, Which

Model = Annotated[
    str,
    typer.Argument(
        help="A model folder, hub id or zoo:NAME; recipe.json; RUN:knee, RUN:best:OBJECTIVE, "
        "RUN:17 or RUN:receiver."
    ),
]
Tasks = Annotated[
    str | None,
    typer.Option(
        help="Tasks, separated by commas: names of the library or YAML files. A candidate's "
        "default: those of its run."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many items a task.")]
Against = Annotated[
    str | None,
    typer.Option(help="A second model, compared item by item; `receiver` for the model's own."),
]
Blind = Annotated[bool, typer.Option("--blind", help="Ask once more without images.")]
Labels = Annotated[
    bool,
    typer.Option("--labels", help="Compare the labels' log-probabilities instead of generating."),
]
Engine = Annotated[
    str | None,
    typer.Option(help="vllm, transformers, or a YAML file with a run's `engine:` fields."),
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder to make: items.parquet and scores.json.")
]
Runs = Annotated[Path, typer.Option("--runs", help="Directory that holds the runs.")]

MODES = {
    "generate": "answers generated",
    "labels": "labels compared by log-probability",
    "mixed": "some tasks generated, some by the log-probability of labels",
}


class WhichSplit(StrEnum):
    """Items that can be asked."""

    search = "search"
    validation = "validation"
    test = "test"
    all = "all"


Split = Annotated[
    WhichSplit | None,
    typer.Option(help="Items asked. Default: validation for a run's candidate, else all."),
]


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Evaluate")(score)


def score(
    model: Model,
    tasks: Tasks = None,
    split: Split = None,
    limit: Limit = None,
    against: Against = None,
    blind: Blind = False,
    labels: Labels = False,
    engine: Engine = None,
    folder: Out = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Score any model on any tasks: by category, with 95 % intervals, paired against another.

    mergefront score zoo:vlm --tasks digits_reasoning,digits_perception --limit 200 --blind

    mergefront score digits:knee --against receiver --split test

    Intervals respect clusters, n counts items that stand together (pairs, variants) once. `no
    answer` and `cut off` are the shares of replies in which nothing could be marked, or that hit
    the token limit; both count as wrong. Held-out items of a run's own tasks are opened for its
    candidates with a note in its study.
    """
    from mergefront.jobs import score as evaluate

    if folder is not None and folder.exists():
        raise UserError(f"output folder {folder} exists already", hint="give another with --out")
    subjects = _subjects(model, against, runs, engine)
    default = WhichSplit.validation if subjects[0].run else WhichSplit.all
    which: Which = (split or default).value
    with err.status("reading items"):
        questions = _questions(subjects, tasks, which, limit)
        if labels:
            questions = questions.by_labels()
    notes = evaluate.openings(subjects, questions)
    for note in notes:
        say(f"note: {note}")
    n, kind = len(questions.flat()), subjects[0].settings.kind
    say(f"{n} {'' if which == 'all' else which + ' '}items, {MODES[questions.mode()]}, {kind}")
    with _bar() as progress:
        found = evaluate.evaluate(subjects, questions, blind=blind, progress=progress)
    told = evaluate.report(found, questions, which, notes)
    for note in told["notes"][len(notes) :]:
        say(f"note: {note}")
    if folder is not None:
        evaluate.write(folder, found, questions, told)
        say(f"wrote {folder}")
    show = emit_json if as_json else _print
    show(told)


def _subjects(model: str, against: str | None, runs: Path, engine: str | None) -> list[Subject]:
    from mergefront.jobs import score as evaluate

    first = evaluate.resolve(model, runs, engine)
    if against is None:
        return [first]
    if against == "receiver":
        return [first, evaluate.receiver_of(first)]
    return [first, evaluate.resolve(against, runs, engine)]


def _questions(
    subjects: list[Subject], tasks: str | None, which: Which, limit: int | None
) -> Questions:
    from mergefront.jobs import score as evaluate

    if tasks is not None:
        names = [name.strip() for name in tasks.split(",") if name.strip()]
        if names:
            return evaluate.chosen(names, which, limit)
    run = subjects[0].run
    if run is None or tasks is not None:
        raise UserError(
            f"no task to score {subjects[0].name} on" if tasks is None else "--tasks is empty",
            hint="add --tasks digits_perception; `mergefront tasks list` names the library",
        )
    return evaluate.of_run(run, which, limit)


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; elsewhere a line at every tenth."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    if not err.is_terminal:
        told = [0]

        def tell(done: int, total: int) -> None:
            if 10 * done // total > told[0]:
                told[0] = 10 * done // total
                say(f"asked {done} of {total}")

        yield tell
        return
    columns = ("asking", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("asking", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def _print(told: Mapping[str, Any]) -> None:
    how = f"{told['split']} items" if told["split"] != "all" else "all items"
    for one in told["models"]:
        title = f"{one['name']}: {how}, {one['engine']}, {MODES[told['mode']]}"
        out.print(title, soft_wrap=True, markup=False)
        out.print(table("", *_table(one["tasks"])))
        if one is not told["models"][-1] or told["comparison"]:
            out.print()
    if told["comparison"]:
        a, b = (one["name"] for one in told["models"])
        title = f"{a} minus {b}, paired on the same items, in points with 95 % intervals"
        out.print(title, soft_wrap=True, markup=False)
        columns = ["task", "n", "difference", "differ on", "p", "p (Holm)", "test"]
        rows = [_compared(task, one) for task, one in told["comparison"].items()]
        out.print(table("", columns, rows))


def _table(tasks: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    labelled = any(one["whole"]["probability"] is not None for one in tasks.values())
    blind = any(one["blind"] for one in tasks.values())
    columns = ["task", "n", "score % [95 %]", "no answer %", "cut off %", "tokens"]
    columns += ["p(right) %", "on labels %"] if labelled else []
    columns += ["without images %", "images add"] if blind else []
    rows = []
    for task, one in tasks.items():
        without = [_interval(one["blind"]["summary"]), _points(one["blind"]["gain"])] if (
            one["blind"]) else []  # fmt: skip
        rows.append([task, *_cells(one["whole"], labelled), *without])
        if len(one["strata"]) > 1:
            for name, summary in one["strata"].items():
                rows.append([f"  {name or '(none)'}", *_cells(summary, labelled)])
            rows.append(["  mean over categories", "", f"{100 * one['macro']:.1f}"])
    return columns, [row + [""] * (len(columns) - len(row)) for row in rows]


def _cells(summary: Mapping[str, Any], labelled: bool) -> list[str]:
    from mergefront.stats.text import percent

    cells = [
        str(summary["units"]),
        _interval(summary),
        percent(summary["no_answer"]),
        percent(summary["truncated"]),
        f"{summary['tokens']:.1f}",
    ]
    if labelled:
        shares = (summary["probability"], summary["mass"])
        cells += ["" if share is None else percent(share) for share in shares]
    return cells


def _interval(summary: Mapping[str, float]) -> str:
    from mergefront.stats.text import interval, percent

    return f"{percent(summary['score'])} {interval(summary['low'], summary['high'])}"


def _points(difference: Mapping[str, float]) -> str:
    from mergefront.stats.text import gain_with_interval

    return gain_with_interval(difference["mean"], difference["low"], difference["high"])


def _compared(task: str, one: Mapping[str, Any]) -> list[str]:
    found = one["comparison"]
    return [
        task,
        str(one["units"]),
        _points(found["difference"]),
        f"{100 * found['discordance']:.1f} %",
        f"{found['p']:.2g}",
        f"{one['p_holm']:.2g}",
        found["test"],
    ]
