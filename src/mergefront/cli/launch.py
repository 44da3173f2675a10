"""Verbs that start and watch a search: init, search, status."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergefront.cli.terminal import Json, emit_json, err, log_handler, out, say
from mergefront.errors import UserError

if TYPE_CHECKING:
    from mergefront.config import RunConfig
    from mergefront.runs.tracking import Tracker
    from mergefront.search.loop import Search

Runs = Annotated[Path, typer.Option("--runs", help="Directory that holds the runs.")]


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Search")(init)
    app.command(rich_help_panel="Search")(search)
    app.command(rich_help_panel="Search")(status)


def init(
    receiver: Annotated[str, typer.Argument(help="The VLM: a folder, a hub id, or zoo:NAME.")],
    donors: Annotated[list[str], typer.Argument(help="Text LLMs with the same backbone.")],
    base: Annotated[str | None, typer.Option(help="The donors' common ancestor.")] = None,
    out_file: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("run.yaml"),
) -> None:
    """Write a commented configuration for a receiver and its donors, ready to edit.

    mergefront init Qwen/Qwen2-VL-7B-Instruct Qwen/Qwen2-Math-7B --base Qwen/Qwen2-7B
    """
    from mergefront.jobs.start import starter_config, starter_notes

    if out_file.exists():
        raise UserError(f"{out_file} exists already", hint="give another name with --out")
    out_file.write_text(starter_config(receiver, donors, base, name=out_file.stem))
    say(f"wrote {out_file}: read it, then run: mergefront search {out_file}")
    if notes := starter_notes(receiver, str(out_file)):
        say(notes)


def search(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped one.")],
    runs: Runs = Path("runs"),
    candidates: Annotated[int | None, typer.Option(min=1, help="Change budget.candidates.")] = None,
    hours: Annotated[float | None, typer.Option(min=0.0, help="Change budget.hours.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="Change engine.kind: vllm or transformers.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Change the run's name.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Change search.seed.")] = None,
) -> None:
    """Run a search, or go on with it: the same command resumes after Ctrl-C or kill -9.

    Ends with validated scores of the front, test scores of the picks, the exported pick if the
    configuration asks for one, plots, a report page and MLflow.
    """
    from mergefront import files
    from mergefront.config import RunConfig, absolute, read_mapping, validate

    path = files.find("configs", config, Path())
    data = read_mapping(path)
    _override(data, "budget", "candidates", candidates)
    _override(data, "budget", "hours", hours)
    _override(data, "engine", "kind", engine)
    _override(data, "search", "seed", seed)
    if name is not None:
        data["name"] = name
    _run(absolute(validate(data, RunConfig, str(path))), runs)


def _override(data: dict[str, Any], section: str, key: str, value: object) -> None:
    if value is not None:
        data[section] = {**(data.get(section) or {}), key: value}


def _run(config: RunConfig, runs: Path) -> None:
    from mergefront.search.setup import assemble

    with err.status("checking configuration, items and checkpoints") as status:
        opened = assemble(
            config,
            runs,
            lambda done, total: status.update(f"activations of the receiver: {done} of {total}"),
        )
    say(
        f"run {opened.run.path}: {opened.space.dimension} knobs, "
        f"{len(opened.items.flat('search'))} search items a candidate, "
        f"{config.budget.candidates} candidates"
    )
    logging.getLogger("mergefront").addHandler(log_handler(opened.run.log))
    try:
        with _interrupts() as stop:
            _search_and_finish(opened, stop)
    finally:
        opened.close()


def _search_and_finish(opened: Search, stop: Callable[[], bool]) -> None:
    from mergefront.cli.display import Display
    from mergefront.cli.results import print_front
    from mergefront.jobs import conclude
    from mergefront.runs.history import SAMPLER, evaluations, reference_point
    from mergefront.search.finish import finish, read_front

    known = evaluations(opened.study, opened.run)
    if known:
        say(f"resuming after {len(known)} finished candidates")
    if opened.config.search.sampler == "auto":
        say(f"sampler: {opened.sampler_name()}, since {opened.study.user_attrs[SAMPLER][1]}")
    with err.status("starting the engine"):
        opened.open_engine()
        receiver = opened.receiver("search")
    tracker = conclude.open_tracker(opened.run, opened.space, known)
    try:
        with Display(opened, receiver, reference_point(opened.config, receiver), known) as display:
            for evaluation in opened.candidates(stop):
                display.add(evaluation)
                if tracker is not None:
                    tracker.candidate(evaluation)
            for step in () if stop() else finish(opened):
                display.step(step)
                if stop():
                    break
    except BaseException:
        _close(tracker)
        raise
    if stop():
        _close(tracker)
        say("stopped; the same command goes on from here")
        return
    opened.close_engine()
    print_front(read_front(opened.run))
    for line in conclude.conclude(opened.run, opened.study, tracker, say):
        out.print(line, soft_wrap=True, markup=False)
    run, first = opened.run.path, next(iter(opened.config.objectives))
    say(f"next: mergefront compare {run}:knee {run}:best:{first}")
    say(f"      mergefront export {run} --pick best:{first} --out DIR")


def _close(tracker: Tracker | None) -> None:
    if tracker is not None:
        tracker.close()


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C (or SIGTERM) asks to stop after this candidate; the second stops at once."""
    asked: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        say("stopping after this candidate; once more to stop at once (nothing is lost)")

    old = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def status(
    run: Annotated[str, typer.Argument(help="Name or path of a run.")],
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Say how far a run is: candidates, time, current front. Safe while the search runs."""
    from mergefront.cli.display import front_table, race_line
    from mergefront.runs.status import status_of

    found = status_of(runs, run)
    if as_json:
        emit_json(found)
        return
    out.print(
        f"{found['run']}: {found['state']}, {found['candidates']} of {found['budget']} candidates"
        f" ({found['failed']} failed), {found['minutes']:.1f} minutes"
    )
    if line := race_line(found["race"]):
        out.print(line)
    out.print(front_table(found["objectives"], found["front"], found["chosen_by"]))
