"""How far a run is, read from its directory while another process may be writing to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mergefront.runs.directory import RECEIVER, RunDirectory
from mergefront.runs.front import read_front
from mergefront.runs.history import estimates_of, evaluations, open_study, spent_seconds, told
from mergefront.runs.members import believed, current_front


def open_run(runs: Path, name: str) -> RunDirectory:
    """A run by name under `runs`, or by the path of its directory. Raises RunError."""
    path = Path(name)
    return RunDirectory.open(path if (path / "config.yaml").is_file() else runs / name)


def _reported(run: RunDirectory) -> int:
    """Candidates that the front on disk knows of; -1 if there is none."""
    return int(read_front(run)["candidates"]) if run.front.is_file() else -1


def status_of(runs: Path, name: str) -> dict[str, Any]:
    """State, counts, minutes and the current front (search estimates) of a run."""
    run = open_run(runs, name)
    names = list(run.config.objectives)
    study = open_study(run)
    found = evaluations(study, run)
    receiver = estimates_of(run.read_items(RECEIVER, "search"))
    belief = believed(found, run.config, receiver) if receiver else None
    return {
        "run": str(run.path),
        "state": "finished" if _reported(run) == len(found) else "unfinished",
        "objectives": names,
        "candidates": len(found),
        "failed": sum(1 for e in found if e.failure),
        "budget": run.config.budget.candidates,
        "minutes": spent_seconds(study) / 60,
        "race": told(found, run.config.costs),
        "front": [] if belief is None else current_front(found, belief, run.config),
        "chosen_by": "" if belief is None else belief.why or "model",
    }
