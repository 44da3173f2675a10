"""After the last score: MLflow, plots, report and export. Nothing here can harm the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mergefront import compare, plots, report
from mergefront.errors import RunError, UserError
from mergefront.export import Progress, Scored, export_candidate
from mergefront.rundir import RunDirectory
from mergefront.search import Search, evaluations, open_study
from mergefront.select import read_front, reference_point, resolve_pick, write_front
from mergefront.tasks import item_set
from mergefront.tracking import Tracker

Say = Callable[[str], None]


def default_uri(run: RunDirectory) -> str:
    """MLflow's store: the configured one, or mlflow.db beside the runs."""
    configured = run.config.tracking.uri
    return configured or f"sqlite:///{(run.path.parent / 'mlflow.db').absolute()}"


def open_tracker(run: RunDirectory) -> Tracker:
    """The MLflow projection of a run; does nothing if tracking is switched off."""
    ...


def conclude(run: RunDirectory, tracker: Tracker, say: Say) -> Iterator[str]:
    """Draw plots, write the report, close MLflow, export the configured pick.

    Yields lines that say what there is to look at.
    """
    ...


def export_pick(
    run: RunDirectory, pick: str, out: Path, *, progress: Progress | None = None, say: Say
) -> dict[str, Any]:
    """Export a candidate of a finished run; see `export.export_candidate`."""
    named = compare.candidate(run, pick)
    front = read_front(run)
    items = item_set(run.config.objectives, run.config.items, Path())
    study = open_study(run)
    return export_candidate(
        named.recipe,
        named.sources,
        out,
        settings=run.config.engine,
        items=items,
        scored=Scored(
            study.user_attrs.get(f"hashes:{named.number}"), run.read_items(str(named.number))
        ),
        front=front,
        member=named.member,
        progress=progress,
        say=say,
    )
