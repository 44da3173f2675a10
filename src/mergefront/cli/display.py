"""What a person watches: live on a terminal, one plain line a candidate elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mergefront.cli.terminal import err, percent, table
from mergefront.runs.history import RaceSummary, race_summary, with_tokens
from mergefront.runs.members import FrontRow, current_front
from mergefront.stats import pareto

if TYPE_CHECKING:
    from mergefront.records import Estimate, Evaluation
    from mergefront.search.finish import Step
    from mergefront.search.loop import RunningSearch


def front_table(objectives: Sequence[str], members: Sequence[FrontRow], chosen_by: str) -> Table:
    """Current front: number, objectives with standard errors, origin.

    `chosen_by` is "model", or why the scores choose and not the model.
    """
    rows = [
        [str(member.number), *(percent(member.believed[o]) for o in objectives), member.origin]
        for member in members
    ]
    title = (
        "front on the search items, by the model of all candidates (± one standard error)"
        if chosen_by == "model"
        else f"front on the search items, by scores (optimistic; ± one standard error): {chosen_by}"
    )
    return table(
        title,
        ["candidate", *objectives, "from"],
        rows,
    )


class Display:
    """Progress of one search; a context manager. Everything goes to stderr."""

    def __init__(
        self,
        search: RunningSearch,
        history: Sequence[Evaluation],
    ) -> None:
        self.config = search.setup.config
        self.objectives = list(self.config.objectives)
        self.receiver = search.receiver
        self.reference = [search.reference[o] for o in self.objectives]
        self.found = list(history)
        self.race = search.race
        self.total = self.config.budget.candidates
        self.clock = search.setup.clock
        self.start = time.monotonic()
        self.new = 0
        self.live_mode = err.is_terminal
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=err,
        )
        self.bar = self.progress.add_task("candidates", total=self.total, completed=len(history))
        self.live = Live(self._view(), console=err, refresh_per_second=4)

    def __enter__(self) -> Display:
        if self.live_mode:
            self.live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live_mode:
            self.live.update(self._view(), refresh=True)
            self.live.__exit__(None, None, None)

    def add(self, evaluation: Evaluation) -> None:
        """Show one more finished candidate."""
        self.found.append(evaluation)
        self.new += 1
        if self.live_mode:
            self.progress.update(self.bar, completed=len(self.found))
            self.live.update(self._view())
        else:
            err.print(self._line(evaluation), soft_wrap=True, markup=False)

    def step(self, step: Step) -> None:
        """Show progress of validation and test."""
        if self.live_mode:
            self.progress.update(
                self.bar, description=f"{step.split} items", completed=step.done, total=step.total
            )
            self.live.update(self._view())
        elif step.name:
            err.print(f"{step.split} {step.done + 1}/{step.total}: {step.name}", markup=False)

    def _line(self, e: Evaluation) -> str:
        head = f"candidate {e.number} ({len(self.found)}/{self.total})"
        if e.failure:
            return f"{head} failed: {e.failure}"
        scores = self._scores(e.objectives)
        s, left = e.seconds, ""
        if e.raced.left:
            left = f"  left after rung {e.raced.rungs} of {len(self.race.rungs)}: {e.raced.left}"
        return (
            f"{head}  {scores}  hv {self._hypervolume():.4f}  "
            f"build {s.build + s.reset:.3f}s answer {s.generate:.2f}s  {e.origin}{left}"
        )

    def _scores(self, estimates: Mapping[str, Estimate]) -> str:
        shown = with_tokens(estimates, self.config.costs)
        return "  ".join(f"{name} {percent(shown[name])}" for name in self.objectives)

    def _hypervolume(self) -> float:
        """Of what is believed of the front."""
        belief = self.race.belief
        return float(pareto.hypervolume(belief.front_KM, self.reference)) if belief.front else 0.0

    def _view(self) -> Group:
        lines = [f"receiver: {self._scores(self.receiver)}   hypervolume {self._hypervolume():.4f}"]
        timed = [e.seconds for e in self.found[-20:] if e.seconds.total > 0]
        if timed:
            build = float(np.mean([s.build + s.reset for s in timed]))
            answer = float(np.mean([s.generate for s in timed]))
            lines.append(
                f"a candidate: {1000 * build:.1f} ms to build, {answer:.2f} s to answer; "
                f"{self.clock.elapsed() / 60:.1f} min so far"
            )
        lines += [
            line
            for line in (race_line(race_summary(self.found, self.config.costs)), self._model())
            if line
        ]
        belief = self.race.belief
        rows = current_front(self.found, belief, self.config)[:12]
        return Group(
            self.progress, *lines, front_table(self.objectives, rows, belief.why or "model")
        )

    def _model(self) -> str:
        """How well the model foretells each candidate from the others."""
        checks = self.race.belief.calibration
        return (
            ""
            if not checks
            else "model: "
            + "; ".join(
                f"{name}: {100 * one.within_95:.0f} % of {one.n} candidates in their 95 % interval"
                for name, one in checks.items()
            )
        )


def race_line(race: RaceSummary | None) -> str:
    """What the race has saved, in a line; empty before there is anything to say."""
    if race is None or not any(race.left.values()):
        return ""
    reasons = ", ".join(f"{number} {why}" for why, number in race.left.items() if number)
    return (
        f"race: {100 * race.items:.0f} % of the items asked, in {100 * race.seconds:.0f} % "
        f"of the seconds; left early: {reasons}"
    )
