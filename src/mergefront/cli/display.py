"""What a person watches: live on a terminal, one plain line a candidate elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
        return "  ".join(f"{name} {mean_with_error(shown[name])}" for name in self.objectives)

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
                f"{name}: {share(one.within_95)} of {one.n} candidates in their 95 % interval"
                for name, one in checks.items()
            )
        )
