"""What a finished search leaves for people: figures, report page, MLflow run, exported checkpoint.

All of it is made from the study and the item files and can be made again (`rebuild_artifacts`);
nothing here changes those. Not here: front.json (`runs.front`), and how a checkpoint is written and
verified (`export`, `verify`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mergefront.errors import MergefrontError, RunError, UserError
from mergefront.jobs.export import Progress, export_candidate, read_verified_export, set_aside
from mergefront.jobs.verify import ScoredCandidate, Verification
from mergefront.records import Dtype, Evaluation
from mergefront.redaction import without_redacted_part, without_secrets
from mergefront.runs import history, plots
from mergefront.runs.directory import RECEIVER, RunDirectory
from mergefront.runs.front import Front, read_front
from mergefront.runs.members import run_belief
from mergefront.runs.reference import GUARDED
from mergefront.runs.reopen import reopen_candidate, run_space
from mergefront.runs.report import ReportPicture, write_report
from mergefront.runs.summary import write_front
from mergefront.runs.tracking import Ending, MlflowCard, Tracker, ending_of
from mergefront.runs.tracking import rebuild as rebuild_tracking
from mergefront.space.profiles import profile
from mergefront.space.space import Space
from mergefront.tasks import item_set

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

Say = Callable[[str], None]
"""Prints one line of progress."""

_CAPTIONS = {
    "front": "All candidates on search items. A line joins each member's believed scores to its "
    "scores on validation items, with 95 % intervals.",
    "calibration": "Each candidate's score against the model's prediction from all others, with "
    "95 % intervals.",
    "race": "How many search items each candidate answered, and why it left.",
    "history": "The hypervolume and the best of each objective after each candidate, on search "
    "items.",
    "profiles": "Coefficients of the picks over depth, by donor and part.",
}


def write_artifacts(
    run: RunDirectory, study: optuna.Study, tracker: Tracker | None, say: Say
) -> Iterator[str]:
    """Draw the figures, write the report, close MLflow, export the configured pick.

    The search's engine must be closed before, since the export is verified in an engine of its own.
    Yields a line for each artifact: what it is and where it lies.
    """
    _write_report(run, history.evaluations(study, run))
    yield f"report    {run.report}"
    yield f"pictures  {run.plots}"
    if tracker is not None:
        complete = tracker.finish(_ending(run))
        yield f"mlflow    {_mlflow_command(run)}" + (
            "" if complete else "  (incomplete: see above)"
        )
    picks = {pick for member in read_front(run).members for pick in member.picks}
    if run.config.export == GUARDED and GUARDED not in picks:
        say("nothing is exported: no member keeps within the guards on its search items")
    elif run.config.export is not None:
        best = run.path / "best"
        _make_room(run, best, say)
        if not best.exists():
            say(f"exporting {run.config.export} to {best}")
            for sentence in export_pick(run, run.config.export, best, say=say).sentences():
                say(sentence)
        yield f"model     {best}"


def rebuild_artifacts(run: RunDirectory, say: Say) -> Iterator[str]:
    """Make front.json, figures, report and the MLflow run anew from the study and the item files.

    Yields a line for each artifact, as `write_artifacts` does; nothing is exported.

    Raises:
        RunError: the run has no validated front yet.
    """
    study = history.open_study(run)
    if history.recorded_members(study) is None:
        raise RunError(
            f"{run.path}: the search has not finished", hint="run the same search command again"
        )
    space = run_space(run)[0] if run.config.tracking.enabled else None
    write_front(run, study)
    candidates = history.evaluations(study, run)
    _write_report(run, candidates)
    yield f"report    {run.report}"
    if space is None:
        return
    try:
        card = _run_card(run, space)
        experiment = run.config.tracking.experiment
        rebuild_tracking(tracking_uri(run), experiment, card, candidates, _ending(run))
    except MergefrontError as error:
        say(f"MLflow left as it was: {error.message}")
    else:
        yield f"mlflow    {_mlflow_command(run)}"


def export_pick(
    run: RunDirectory,
    pick: str,
    out: Path,
    *,
    progress: Progress | None = None,
    say: Say,
    dtype: Dtype = "auto",
) -> Verification:
    """Export a candidate of a finished run; see `export.export_candidate`.

    Raises:
        RunError: the run has no front yet, or no such candidate.
        UserError: `out` exists, the disk is too full, or a value overflows `dtype`.
        EngineError: the written checkpoint is not what was scored.
    """
    candidate = reopen_candidate(run, pick)
    items = item_set(run.config.objective_tasks, run.config.items, Path())
    run.check_manifest({"items": items.card()})
    model_digest = history.recorded_model_hash(history.open_study(run), str(candidate.number))
    return export_candidate(
        candidate.recipe,
        candidate.sources,
        out,
        settings=run.config.engine,
        items=items,
        scored=ScoredCandidate(model_digest, run.read_with_costs(str(candidate.number))),
        front=read_front(run),
        member=candidate.report,
        config=without_secrets((run.path / "config.yaml").read_text()),
        progress=progress,
        say=say,
        dtype=dtype,
    )


def _make_room(run: RunDirectory, best: Path, say: Say) -> None:
    """Leave best/ only if it is the run's export of its present pick, as it was verified.

    An export of an earlier pick is removed, since the search was extended and can make it again.
    Anything else is not ours to delete, and not the run's model: it is renamed.
    """
    if not os.path.lexists(best):
        return
    candidate = reopen_candidate(run, str(run.config.export))
    scored = history.recorded_model_hash(history.open_study(run), str(candidate.number))
    try:
        if best.is_symlink() or not best.is_dir():
            raise UserError("it is no folder")
        export = read_verified_export(best)
        if export.recipe != candidate.recipe.hash():
            shutil.rmtree(best)
        elif scored not in (None, export.parameters_sha256):
            raise UserError("its parameters are not those that the run scored")
    except UserError as flaw:
        say(f"{best} is not what this run exported: {flaw.message}; moved to {set_aside(best)}")


def _write_report(run: RunDirectory, candidates: Sequence[Evaluation]) -> None:
    """Draw the run's figures into plots/ and write the report page around them."""
    front = read_front(run)
    shutil.rmtree(run.plots, ignore_errors=True)
    for stem, figure in _figures(run, front, candidates):
        plots.save(figure, run.plots, stem)
    write_report(
        run.report,
        front,
        pictures=[
            ReportPicture(run.plots / f"{stem}.svg", text) for stem, text in _CAPTIONS.items()
        ],
        config=without_secrets((run.path / "config.yaml").read_text()),
        manifest=run.manifest(),
    )


def _figures(
    run: RunDirectory, front: Front, candidates: Sequence[Evaluation]
) -> Iterator[tuple[str, Figure]]:
    """Yield (stem, figure), only where there is something to draw."""
    belief = run_belief(
        candidates, run.config, history.estimates_of(run.read_with_costs(RECEIVER, "search"))
    )
    believed_by_number = {n: belief.estimates(n) for n in belief.numbers} if belief.by_model else {}
    names = front.objectives
    yield "front", plots.front_figure(front, candidates, believed_by_number)
    yield "history", plots.history_figure(candidates, names, front.reference, believed_by_number)
    if belief.model.surfaces:
        yield "calibration", plots.calibration_figure(names, candidates, belief.model)
    if any(e.raced.left or e.raced.spared for e in candidates):
        yield "race", plots.race_figure(front, candidates)
    space, sources = run_space(run)
    by_number = {e.number: e for e in candidates}
    picks = [member for member in front.members if member.picks]
    labels = [f"{', '.join(member.picks)} (#{member.number})" for member in picks]
    tables = [space.table(by_number[member.number].point) for member in picks]
    profiles = [profile(table, sources.groups) for table in tables]
    yield "profiles", plots.profile_figure(labels, profiles)


def tracking_uri(run: RunDirectory) -> str:
    """Return the URI of MLflow's store: the configured one, or mlflow.db beside the runs."""
    configured = run.config.tracking.uri
    if configured is not None:
        return without_redacted_part(configured)
    return f"sqlite:///{(run.path.parent / 'mlflow.db').absolute()}"


def open_tracker(run: RunDirectory, space: Space, finished: Sequence[Evaluation]) -> Tracker | None:
    """Start to copy a search into MLflow; None if tracking is switched off.

    `finished` are the candidates that an earlier process evaluated.
    """
    settings = run.config.tracking
    if not settings.enabled:
        return None
    card = _run_card(run, space)
    return Tracker(tracking_uri(run), settings.experiment, card, finished)


def _run_card(run: RunDirectory, space: Space) -> MlflowCard:
    manifest = run.manifest()
    hashes = {
        split: {objective: entry["sha256"][:12] for objective, entry in entries.items()}
        for split, entries in manifest["items"]["splits"].items()
    }
    receiver = history.estimates_of(run.read_with_costs(RECEIVER, "search"))
    return MlflowCard(
        run_id=manifest["run_id"],
        name=run.config.name,
        objectives=list(run.config.objectives),
        reference=list(history.reference_point(run.config, receiver).values()),
        knobs=lambda evaluation: space.knob_values(evaluation.point),
        params={"config": run.config.model_dump(mode="json"), "versions": manifest["versions"]},
        tags={"mergefront.items": json.dumps(hashes)},
        costs=run.config.costs,
    )


def _ending(run: RunDirectory) -> Ending:
    files = [run.path / "config.yaml", run.path / "manifest.json", run.front, run.report, run.plots]
    return ending_of(read_front(run), files)


def _mlflow_command(run: RunDirectory) -> str:
    return f"mlflow ui --backend-store-uri {without_secrets(tracking_uri(run))}"
