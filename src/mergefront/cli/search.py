"""Verbs about a search (init, plan, search, status) and what it found.

The latter are front, export, compare and rebuild.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from mergefront.cli.options import Base, ConfigName, Json, Receiver, RunName, Runs, WrittenDtype
from mergefront.cli.terminal import emit_json, err, log_handler, out, say, table, tensor_bar
from mergefront.errors import UserError

if TYPE_CHECKING:
    from mergefront.config import RunConfig
    from mergefront.jobs.plan import RunForecast
    from mergefront.search.setup import PreparedSearch


def init(
    receiver: Receiver,
    donors: Annotated[
        list[str],
        typer.Argument(
            help="LLMs with the receiver's language backbone; named as the receiver is."
        ),
    ],
    base: Base = None,
    out_file: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("run.yaml"),
) -> None:
    """Write a commented run configuration for a receiver and its donors, ready to edit.

    mergefront init Qwen/Qwen2-VL-7B-Instruct Qwen/Qwen2-Math-7B --base Qwen/Qwen2-7B

    A file that exists is not overwritten.
    """
    from mergefront.files import write_text
    from mergefront.jobs.starter import starter_config

    if out_file.exists():
        raise UserError(f"{out_file} exists already", hint="name another file with --out")
    write_text(out_file, starter_config(receiver, donors, base, name=out_file.stem))
    say(f"wrote {out_file}: read it, then run: mergefront search {out_file}")
    if not receiver.startswith("zoo:"):
        say(f"what it would download and need: mergefront plan {out_file}")


def plan(
    config: ConfigName,
    offline: Annotated[
        bool, typer.Option("--offline", help="Read only what is on this machine; ask no hub.")
    ] = False,
    gpu_gb: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="Memory of one GPU in GiB; default: that of this machine's GPU."
        ),
    ] = None,
    seconds_per_1000_items: Annotated[
        float | None,
        typer.Option(min=0.0, help="Time for 1,000 questions; default: as earlier runs measured."),
    ] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Say what a search would do, download, need and take, without loading any weights.

    mergefront plan qwen2.5-vl-r1 --gpu-gb 80 --seconds-per-1000-items 60

    Checks the configuration, its search space and tasks, whether the donors fit the receiver,
    memory and time. For a model that is not on this machine, it asks the hub for config.json and
    the tensors' names and shapes. Exits with 2 if the search cannot work.
    """
    from mergefront.jobs.plan import Hub, make_plan
    from mergefront.jobs.plan.memory import local_gpu_gib

    with err.status("reading configuration and models"):
        result = make_plan(
            config,
            hub=None if offline else Hub(),
            gpu_gib=local_gpu_gib() if gpu_gb is None else gpu_gb,
            seconds_per_1000=seconds_per_1000_items,
            runs=runs,
        )
    if as_json:
        emit_json(result.to_dict())
    else:
        _print_plan(result)
    if not result.works:
        raise typer.Exit(2)


def _print_plan(result: RunForecast) -> None:
    from mergefront.jobs.plan.tables import tables

    for title, columns, rows in tables(result):
        out.print(title, style="bold", markup=False, soft_wrap=True)
        out.print(table("", columns, rows, text=columns))
        out.print()
    styles = {"error": "red", "warning": "yellow", "note": "cyan"}
    for remark in result.remarks:
        style, hint = styles[remark.level], remark.hint and f"; {remark.hint}"
        out.print(f"[{style}]{remark.level}[/{style}] ", end="")
        line = f"{remark.subject}: {remark.message}{hint}"
        out.print(line, markup=False, soft_wrap=True)
    if result.works:
        out.print("no obstacle to this search was found; what is not known is marked with ?")
    else:
        out.print("this search cannot work as it is")


def search(
    config: ConfigName,
    runs: Runs = Path("runs"),
    candidates: Annotated[
        int | None,
        typer.Option(min=1, help="Candidates to evaluate, instead of budget.candidates."),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0.0, help="Hours to take, instead of budget.hours.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="vllm or transformers, instead of engine.kind.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run, instead of the configuration's `name`.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the search, instead of search.seed.")
    ] = None,
) -> None:
    """Run a search; the same command resumes it after Ctrl-C, a crash or kill -9.

    mergefront search digits

    mergefront search run.yaml --candidates 100 --hours 4

    It ends with validated scores of the front, test scores of the picks, an exported checkpoint if
    the configuration names a pick under `export`, figures, a report page and an MLflow run.
    """
    from mergefront.config import load_run_config

    changes = {
        "budget.candidates": candidates,
        "budget.hours": hours,
        "engine.kind": engine,
        "name": name,
        "search.seed": seed,
    }
    _run(load_run_config(config, changes), runs)


def _run(config: RunConfig, runs: Path) -> None:
    from mergefront.search.setup import prepare_search

    with err.status("checking configuration, items and checkpoints") as status:
        prepared = prepare_search(
            config,
            runs,
            lambda done, total: status.update(f"activations of the receiver: {done} of {total}"),
        )
    say(
        f"run {prepared.run.path}: {prepared.space.dimension} knobs, "
        f"{len(prepared.items.flat('search'))} search items a candidate, "
        f"{config.budget.candidates} candidates"
    )
    logging.getLogger("mergefront").addHandler(log_handler(prepared.run.log))
    with prepared, _interrupts() as stop:
        _search_and_finish(prepared, stop)


def _search_and_finish(prepared: PreparedSearch, stop: Callable[[], bool]) -> None:
    from mergefront.cli.display import Display, print_front
    from mergefront.jobs import artifacts
    from mergefront.runs.front import read_front
    from mergefront.runs.history import evaluations, recorded_sampler
    from mergefront.search.finish import finish
    from mergefront.search.loop import start_search
    from mergefront.search.sampler import sampler_name

    config, run, study, space = prepared.config, prepared.run, prepared.study, prepared.space
    finished = evaluations(study, run)
    if finished:
        say(f"resuming after {len(finished)} finished candidates")
    if config.search.sampler == "auto":
        name = sampler_name(config, study, space)
        _, reason = recorded_sampler(study) or (name, "")
        say(f"sampler: {name}, since {reason}")
    with err.status("starting the engine"):
        search = start_search(prepared)
    with search, ExitStack() as unfinished:
        tracker = artifacts.open_tracker(run, space, finished)
        if tracker is not None:
            unfinished.callback(tracker.close)
        with Display(search, finished) as display:
            for evaluation in search.candidates(stop):
                display.add(evaluation)
                if tracker is not None:
                    tracker.candidate(evaluation)
            for step in () if stop() else finish(search):
                display.step(step)
                if stop():
                    break
        stopped = stop()
        if not stopped:
            unfinished.pop_all()
    if stopped:
        say("stopped; the same command goes on from here")
        return
    print_front(read_front(run))
    for line in artifacts.write_artifacts(run, study, tracker, say):
        out.print(line, soft_wrap=True, markup=False)
    first = next(iter(config.objectives))
    say(f"next: mergefront compare {run.path}:knee {run.path}:best:{first}")
    say(f"      mergefront export {run.path} --pick best:{first} --out DIR")


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C (or SIGTERM) stop after this candidate, and the second at once."""
    signals: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(number)
        say("stopping after this candidate; once more to stop at once (nothing is lost)")

    previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(signals)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def status(
    run: RunName,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Say how far a run is: candidates, minutes, current front. Safe while the search runs.

    mergefront status digits
    """
    from mergefront.cli.display import front_table, race_line
    from mergefront.runs.status import status_of

    state = status_of(runs, run)
    if as_json:
        emit_json(state.to_dict())
        return
    out.print(
        f"{state.run}: {state.state}, {state.candidates} of {state.budget} candidates"
        f" ({state.failed} failed), {state.minutes:.1f} minutes"
    )
    if line := race_line(state.race):
        out.print(line)
    out.print(front_table(state.objectives, state.front, state.chosen_by))


def front(
    run: RunName,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Print the validated front: scores, paired gains over the receiver with 95 % intervals.

    mergefront front digits
    """
    from mergefront.cli.display import print_front
    from mergefront.runs.front import read_front
    from mergefront.runs.reference import open_run
    from mergefront.runs.status import status_of
    from mergefront.stats.text import plural

    front = read_front(open_run(runs, run))
    if as_json:
        emit_json(front.to_dict())
        return
    print_front(front)
    later = status_of(runs, run).candidates - front.candidates
    if later:
        say(f"note: {plural(later, 'candidate')} came later; run the search to its end")


def export(
    run: RunName,
    destination: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    pick: Annotated[
        str,
        typer.Option(
            help="Candidate to write: knee, guarded, best:OBJECTIVE, "
            "weighted:OBJECTIVE=2,OTHER=1, or a candidate's number."
        ),
    ] = "knee",
    runs: Runs = Path("runs"),
    dtype: WrittenDtype = "auto",
    as_json: Json = False,
) -> None:
    """Write a candidate as a complete Hugging Face checkpoint, verified against what was scored.

    mergefront export digits --pick best:reasoning --out merged

    The checkpoint must load in transformers without missing or unexpected tensors, and a fresh
    engine must have the parameter hashes that were scored; otherwise no folder appears. The scored
    questions are asked once more, and the answers that differ are counted.

    With --dtype the same merge is written in another floating type (see merge --help). Hashes are
    compared only if the search's engine computed in that type, on weights of that type or float32:
    otherwise these are not the weights that were scored.
    """
    from mergefront.jobs.artifacts import export_pick
    from mergefront.runs.reference import open_run

    directory = open_run(runs, run)
    with tensor_bar() as progress:
        verified = export_pick(
            directory, pick, destination, progress=progress, say=say, dtype=dtype
        )
    if as_json:
        emit_json({"folder": str(destination), **verified.to_dict()})
        return
    typer.echo(destination)
    for line in verified.sentences():
        say(line)


def compare(
    references: Annotated[
        list[str],
        typer.Argument(
            help="Candidates: RUN:knee, RUN:best:OBJECTIVE, RUN:17, RUN or recipe.json."
        ),
    ],
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for profiles.png and profiles.svg.")
    ] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Compare layer-weight profiles: a table and distances, and a figure by source and part.

    mergefront compare digits:knee digits:best:reasoning --out profiles
    """
    from mergefront.runs import plots
    from mergefront.runs.compare import compare_profiles, read_profile

    comparison = compare_profiles([read_profile(reference, runs) for reference in references])
    if folder is not None:
        figure = plots.profile_figure(comparison.labels, comparison.profiles)
        for path in plots.save(figure, folder, "profiles"):
            say(f"drew {path}")
    if as_json:
        emit_json(comparison.to_dict())
        return
    for title, columns, rows in comparison.tables():
        out.print(table(title, columns, rows))


def rebuild(
    run: RunName,
    runs: Runs = Path("runs"),
) -> None:
    """Make front.json, figures, report and the MLflow run anew from the study and item files.

    mergefront rebuild digits
    """
    from mergefront.jobs.artifacts import rebuild_artifacts
    from mergefront.runs.reference import open_run

    for line in rebuild_artifacts(open_run(runs, run), say):
        out.print(line)
