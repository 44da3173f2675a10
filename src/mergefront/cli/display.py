"""What a person watches of a running search, on stderr.

On a terminal it is a live view with a progress bar and the front; elsewhere, such as in a log, one
plain line for each candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from mergefront.cli.front_tables import front_table, race_line
from mergefront.cli.terminal import err
from mergefront.runs.history import race_summary, with_tokens
from mergefront.runs.members import current_front
from mergefront.stats import pareto
from mergefront.stats.text import mean_with_error, share

if TYPE_CHECKING:
    from mergefront.records import Estimate, Evaluation
    from mergefront.search.finish import Step
    from mergefront.search.loop import RunningSearch

_ROWS = 12
"""Rows of the front in the live view, which must fit on a screen."""

_RECENT = 20
"""Candidates over which the seconds are averaged."""


class Display:
    """Progress of one search, as a context manager."""

    def __init__(self, search: RunningSearch, history: Sequence[Evaluation]) -> None:
        self._config = search.setup.config
        self._objectives = list(self._config.objectives)
        self._receiver = search.receiver
        self._reference = [search.reference[name] for name in self._objectives]
        self._race = search.race
        self._clock = search.setup.clock
        self._evaluations = list(history)
        self._progress = Progress(
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=err,
        )
        self._bar = self._progress.add_task(
            "candidates", total=self._config.budget.candidates, completed=len(history)
        )
        self._is_live = err.is_terminal
        self._live = Live(self._view(), console=err, refresh_per_second=4)

    def __enter__(self) -> Display:
        if self._is_live:
            self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._is_live:
            self._live.update(self._view(), refresh=True)
            self._live.__exit__(None, None, None)

    def add(self, evaluation: Evaluation) -> None:
        """Show one more finished candidate."""
        self._evaluations.append(evaluation)
        if self._is_live:
            self._progress.update(self._bar, completed=len(self._evaluations))
            self._live.update(self._view())
        else:
            err.print(self._line(evaluation), soft_wrap=True, markup=False)

    def step(self, step: Step) -> None:
        """Show progress of validation and test."""
        if self._is_live:
            self._progress.update(
                self._bar, description=f"{step.split} items", completed=step.done, total=step.total
            )
            self._live.update(self._view())
        elif step.name:
            err.print(f"{step.split} {step.done + 1}/{step.total}: {step.name}", markup=False)

    def _line(self, evaluation: Evaluation) -> str:
        """Return the line about a candidate, for where there is no live view."""
        place = f"{len(self._evaluations)}/{self._config.budget.candidates}"
        head = f"candidate {evaluation.number} ({place})"
        if evaluation.failure:
            return f"{head} failed: {evaluation.failure}"
        seconds, raced = evaluation.seconds, evaluation.raced
        line = (
            f"{head}  {self._scores(evaluation.objectives)}  hv {self._hypervolume():.4f}  "
            f"build {seconds.build + seconds.reset:.3f}s answer {seconds.generate:.2f}s  "
            f"{evaluation.origin}"
        )
        if raced.left:
            line += f"  left after rung {raced.rungs} of {len(self._race.rungs)}: {raced.left}"
        return line

    def _view(self) -> Group:
        """Return the live view: the progress bar, lines about the search, the current front."""
        lines = [
            f"receiver: {self._scores(self._receiver)}   hypervolume {self._hypervolume():.4f}",
            self._seconds_line(),
            race_line(race_summary(self._evaluations, self._config.costs)),
            self._calibration_line(),
        ]
        belief = self._race.belief
        rows = current_front(self._evaluations, belief, self._config)[:_ROWS]
        front = front_table(self._objectives, rows, belief.why or "model")
        return Group(self._progress, *filter(None, lines), front)

    def _scores(self, estimates: Mapping[str, Estimate]) -> str:
        shown = with_tokens(estimates, self._config.costs)
        return "  ".join(f"{name} {mean_with_error(shown[name])}" for name in self._objectives)

    def _hypervolume(self) -> float:
        """Return the hypervolume of the front as believed."""
        belief = self._race.belief
        return float(pareto.hypervolume(belief.front_KM, self._reference)) if belief.front else 0.0

    def _seconds_line(self) -> str:
        recent = [e.seconds for e in self._evaluations[-_RECENT:] if e.seconds.total > 0]
        if not recent:
            return ""
        build = float(np.mean([seconds.build + seconds.reset for seconds in recent]))
        answer = float(np.mean([seconds.generate for seconds in recent]))
        return (
            f"a candidate: {1000 * build:.1f} ms to build, {answer:.2f} s to answer; "
            f"{self._clock.elapsed() / 60:.1f} min so far"
        )

    def _calibration_line(self) -> str:
        """Say how well the model predicts each candidate from the others."""
        checks = [
            f"{name}: {share(check.within_95)} of {check.n} candidates in their 95 % interval"
            for name, check in self._race.belief.calibration.items()
        ]
        return f"model: {'; '.join(checks)}" if checks else ""
