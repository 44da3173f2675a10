"""How far a run is, read from its directory while another process may be writing to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergefront.runs.directory import RECEIVER
from mergefront.runs.front import read_front
from mergefront.runs.history import (
    RaceSummary,
    estimates_of,
    evaluations,
    open_study,
    race_summary,
    spent_seconds,
)
from mergefront.runs.members import FrontRow, current_front, run_belief
from mergefront.runs.reference import open_run


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    `state` is finished or unfinished; `budget` and `candidates` count candidates, failed ones
    included. `front` is the current front by search items. `chosen_by` is "model", or why the
    scores choose; it is empty before the receiver has answered.
    """

    run: str
    state: str
    objectives: tuple[str, ...]
    candidates: int
    failed: int
    budget: int
    minutes: float
    race: RaceSummary | None
    front: tuple[FrontRow, ...]
    chosen_by: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for --json."""
        return {
            **vars(self),
            "objectives": list(self.objectives),
            "race": {} if self.race is None else self.race.to_dict(),
            "front": [row.to_dict() for row in self.front],
        }


def status_of(runs: Path, name: str) -> RunStatus:
    """State, counts, minutes and the current front (search estimates) of a run."""
    run = open_run(runs, name)
    study = open_study(run)
    candidates = evaluations(study, run)
    receiver = estimates_of(run.read_with_costs(RECEIVER, "search"))
    belief = run_belief(candidates, run.config, receiver) if receiver else None
    reported = read_front(run).candidates if run.front.is_file() else -1
    return RunStatus(
        run=str(run.path),
        state="finished" if reported == len(candidates) else "unfinished",
        objectives=tuple(run.config.objectives),
        candidates=len(candidates),
        failed=sum(bool(e.failure) for e in candidates),
        budget=run.config.budget.candidates,
        minutes=spent_seconds(study, run) / 60,
        race=race_summary(candidates, run.config.costs),
        front=() if belief is None else tuple(current_front(candidates, belief, run.config)),
        chosen_by="" if belief is None else belief.why_scores_choose or "model",
    )
