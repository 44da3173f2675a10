"""The verb that evaluates anything: score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mergefront.cli.options import Json, Runs
from mergefront.cli.terminal import emit_json, err, out, say, table
from mergefront.errors import UserError

if TYPE_CHECKING:
    from mergefront.jobs.score import Questions, ScoredModel, ScoreReport, SplitChoice
    from mergefront.jobs.score.report import Summary, TaskScores
    from mergefront.stats import Interval

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

MODES = {
    "generate": "answers generated",
    "labels": "labels compared by log-probability",
    "mixed": "some tasks generated, some by the log-probability of labels",
}


Split = Annotated[
    Literal["search", "validation", "test", "all"] | None,
    typer.Option(help="Items asked. Default: validation for a run's candidate, else all."),
]


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
    from mergefront.jobs import score as scoring

    if folder is not None and folder.exists():
        raise UserError(f"output folder {folder} exists already", hint="give another with --out")
    models = [scoring.find_model(model, runs, engine)]
    if against == "receiver":
        models.append(scoring.receiver_of(models[0]))
    elif against is not None:
        models.append(scoring.find_model(against, runs, engine))
    split_choice: SplitChoice = split or ("validation" if models[0].run else "all")
    with err.status("reading items"):
        questions = _questions(models[0], tasks, split_choice, limit)
        if labels:
            questions = questions.by_labels()
    notes = scoring.record_openings(models, questions)
    for note in notes:
        say(f"note: {note}")
    items = "items" if split_choice == "all" else f"{split_choice} items"
    say(f"{len(questions.flat())} {items}, {MODES[questions.mode()]}, {models[0].settings.kind}")
    with _progress_bar() as progress:
        answers = scoring.ask_models(models, questions, blind=blind, progress=progress)
    report = scoring.make_report(answers, questions, split_choice, notes)
    for note in report.notes[len(notes) :]:
        say(f"note: {note}")
    if folder is not None:
        scoring.write_report(folder, report, answers, questions)
        say(f"wrote {folder}")
    if as_json:
        emit_json(report.to_dict())
    else:
        _print(report)


def _questions(
    model: ScoredModel, tasks: str | None, split_choice: SplitChoice, limit: int | None
) -> Questions:
    from mergefront.jobs.score import questions_of_run, questions_of_tasks

    if tasks is not None:
        names = [name.strip() for name in tasks.split(",") if name.strip()]
        if names:
            return questions_of_tasks(names, split_choice, limit)
    if model.run is None or tasks is not None:
        raise UserError(
            f"no task to score {model.name} on" if tasks is None else "--tasks is empty",
            hint="add --tasks digits_perception; `mergefront tasks list` names the library",
        )
    return questions_of_run(model.run, split_choice, limit)


@contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; elsewhere a line at every tenth."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    if not err.is_terminal:
        tenths = 0

        def say_tenths(count: int, total: int) -> None:
            nonlocal tenths
            if 10 * count // total > tenths:
                tenths = 10 * count // total
                say(f"asked {count} of {total}")

        yield say_tenths
        return
    columns = ("asking", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("asking", total=None)
        yield lambda count, total: progress.update(bar, completed=count, total=total)


def _print(report: ScoreReport) -> None:
    items = f"{report.split} items" if report.split != "all" else "all items"
    for model in report.models:
        title = f"{model.name}: {items}, {model.engine}, {MODES[report.mode]}"
        out.print(title, soft_wrap=True, markup=False)
        out.print(table("", *_table(model.tasks)))
        if model is not report.models[-1] or report.comparison:
            out.print()
    if report.comparison:
        a, b = (model.name for model in report.models)
        title = f"{a} minus {b}, paired on the same items, in points with 95 % intervals"
        out.print(title, soft_wrap=True, markup=False)
        columns = ["task", "n", "difference", "differ on", "p", "p (Holm)", "test"]
        rows = [
            [
                task,
                str(pair.units),
                _points(pair.comparison.difference),
                f"{100 * pair.comparison.discordance:.1f} %",
                f"{pair.comparison.p:.2g}",
                f"{pair.p_holm:.2g}",
                pair.comparison.test,
            ]
            for task, pair in report.comparison.items()
        ]
        out.print(table("", columns, rows))


def _table(tasks: Mapping[str, TaskScores]) -> tuple[list[str], list[list[str]]]:
    labelled = any(scores.whole.probability is not None for scores in tasks.values())
    blind = any(scores.blind for scores in tasks.values())
    columns = ["task", "n", "score % [95 %]", "no answer %", "cut off %", "tokens"]
    columns += ["p(right) %", "on labels %"] if labelled else []
    columns += ["without images %", "images add"] if blind else []
    rows = []
    for task, scores in tasks.items():
        row = [task, *_cells(scores.whole, labelled)]
        if scores.blind:
            row += [_interval(scores.blind.summary), _points(scores.blind.gain)]
        rows.append(row)
        if len(scores.strata) > 1:
            for name, summary in scores.strata.items():
                rows.append([f"  {name or '(none)'}", *_cells(summary, labelled)])
            rows.append(["  mean over categories", "", f"{100 * scores.macro:.1f}"])
    return columns, [row + [""] * (len(columns) - len(row)) for row in rows]


def _cells(summary: Summary, labelled: bool) -> list[str]:
    from mergefront.stats.text import percent

    cells = [
        str(summary.units),
        _interval(summary),
        percent(summary.no_answer),
        percent(summary.truncated),
        f"{summary.tokens:.1f}",
    ]
    if labelled:
        shares = (summary.probability, summary.mass)
        cells += ["" if share is None else percent(share) for share in shares]
    return cells


def _interval(summary: Summary) -> str:
    from mergefront.stats.text import interval, percent

    return f"{percent(summary.score)} {interval(summary.low, summary.high)}"


def _points(difference: Interval) -> str:
    from mergefront.stats.text import gain_with_interval

    return gain_with_interval(difference.mean, difference.low, difference.high)
