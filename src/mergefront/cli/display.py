"""A search on the terminal: while it runs, and when its front is validated.

`Display` is what a person watches, on stderr: on a terminal a live view with a progress bar and the
front; elsewhere, such as in a log, one plain line for each candidate. `front_table` and `race_line`
are about a search at any time, `print_front` about a finished run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mergefront.cli.terminal import err, out, table
from mergefront.records import Estimate, Evaluation
from mergefront.runs.front import Front, Member
from mergefront.runs.gains import ALONE, AnswerSummary, Gain
from mergefront.runs.history import RaceSummary, race_summary, with_tokens
from mergefront.runs.members import FrontRow, current_front
from mergefront.stats import pareto, text
from mergefront.stats.text import mean_with_error, share

if TYPE_CHECKING:
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
        self._receiver = search.receiver_estimates
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
        front = front_table(self._objectives, rows, belief.why_scores_choose or "model")
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
        build = fmean(seconds.build + seconds.reset for seconds in recent)
        answer = fmean(seconds.generate for seconds in recent)
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


def front_table(objectives: Sequence[str], rows: Iterable[FrontRow], chosen_by: str) -> Table:
    """Return the front of a running search: number, objectives with standard errors, origin.

    `chosen_by` is "model", or the reason why the scores choose and not the model.
    """
    title = (
        "front on the search items, by the model of all candidates (± one standard error)"
        if chosen_by == "model"
        else f"front on the search items, by scores (optimistic; ± one standard error): {chosen_by}"
    )
    cells = [[str(row.number), *_scores(row.believed, objectives), row.origin] for row in rows]
    return table(title, ["candidate", *objectives, "from"], cells)


def race_line(race: RaceSummary | None) -> str:
    """Say in one line what the race has saved; empty before there is anything to say."""
    if race is None or not any(race.left.values()):
        return ""
    reasons = ", ".join(f"{number} {reason}" for reason, number in race.left.items() if number)
    return (
        f"race: {share(race.items)} of the items asked, in {share(race.seconds)} of the seconds; "
        f"left early: {reasons}"
    )


def print_front(front: Front) -> None:
    """Print the validated front as tables, after the warnings."""
    for warning in front.warnings:
        out.print(Text(warning, style="bold red"), soft_wrap=True)
    first = front.objectives[0]
    members = sorted(front.members, key=lambda member: -member.validation[first].mean)
    _print_members(front, members)
    _print_choice(front, members)
    _print_answers(front, members)
    _print_picks(front, [member for member in members if member.test])
    volume = front.hypervolume.validation
    reference = ", ".join(
        f"{name} {text.percent(volume.reference[name])}" for name in front.objectives
    )
    out.print(
        f"hypervolume on validation items {volume.value:.4f} "
        f"[{volume.low:.4f}, {volume.high:.4f}] against ({reference}); "
        f"{text.plural(front.candidates, 'candidate')}, {front.failed} failed"
    )
    for message in front.messages:
        out.print(message, markup=False, soft_wrap=True)


def _print_members(front: Front, members: Sequence[Member]) -> None:
    """Print the members' scores and gains on validation items."""
    names = front.objectives
    receiver = _scores(front.receiver["validation"], names)
    rows = [["receiver", *receiver, *("" for _ in names), "", "", ""]]
    for member in members:
        rows.append([
            str(member.number),
            *_scores(member.validation, names),
            *(_gain(member.gain[name]) for name in names),
            text.p_value(member.gain[names[0]].p_holm) + ("†" if member.holds == ALONE else ""),
            member.verdict,
            ", ".join(member.picks),
        ])  # fmt: skip
    title = "validation items; ± standard error, gains paired with 95 % interval, p after Holm"
    if any(member.holds == ALONE for member in members):
        title += "; † the gain holds for that member alone, not over the whole front"
    columns = ["member", *names, *_gain_columns(names), "p", "verdict", "picks"]
    out.print(table(title, columns, rows, text=["verdict", "picks"]))


def _print_choice(front: Front, members: Sequence[Member]) -> None:
    """Print what chose the members, by which numbers, and what the race saved."""
    if front.belief.by_model:
        names = front.objectives
        columns = [column for name in names for column in (f"{name} scored", f"{name} believed")]
        rows = []
        for member in members:
            steps = (member.search, member.believed)
            cells = [mean_with_error(step[name]) for name in names for step in steps]
            rows.append([str(member.number), *cells])
        title = "chosen by what the model of all candidates believes, on search items"
        out.print(table(title, ["member", *columns], rows))
    else:
        out.print(f"chosen by scores on search items: {front.belief.why}", markup=False)
    if line := race_line(front.race):
        out.print(line, markup=False, soft_wrap=True)


def _print_answers(front: Front, members: Sequence[Member]) -> None:
    """Print how validation items were answered, and the scores without images."""
    blind = front.receiver_blind or {}
    names = [name for name in front.objectives if name in front.receiver_answers]
    blind_names = [name for name in names if name in blind]
    columns = [f"{name}: no answer, cut off, tokens" for name in names]
    columns += [f"{name} without images" for name in blind_names]
    answers = [_rates(front.receiver_answers[name]) for name in names]
    rows = [["receiver", *answers, *_scores(blind, blind_names)]]
    for member in members:
        answers = [_rates(member.answers[name]) for name in names]
        blind_scores = (
            _scores(member.blind.scores, blind_names) if member.blind else ["" for _ in blind_names]
        )
        rows.append([str(member.number), *answers, *blind_scores])
    title = "how they answered, on validation items; without images: the blind control, picks only"
    out.print(table(title, ["member", *columns], rows))


def _print_picks(front: Front, picks: Sequence[Member]) -> None:
    """Print the picks' scores and gains on test items."""
    names = front.objectives
    rows = [["receiver", *_scores(front.receiver["test"], names), *("" for _ in names)]]
    for member in picks:
        gains = member.test_gain or {}
        label = f"{member.number} ({', '.join(member.picks)})"
        rows.append([label, *_scores(member.test or {}, names), *(_gain(gains[n]) for n in names)])
    rounds = front.test_rounds
    often = "once" if rounds == 1 else f"in {rounds} rounds, since the search was extended"
    title = f"test items, read {often}, picks only"
    out.print(table(title, ["member", *names, *_gain_columns(names)], rows))


def _gain_columns(names: Sequence[str]) -> list[str]:
    return [f"{name} gain" for name in names]


def _scores(estimates: Mapping[str, Estimate], names: Sequence[str]) -> list[str]:
    """Return a cell for each name; `-` where there is no score."""
    return [mean_with_error(estimates[n]) if n in estimates else "-" for n in names]


def _gain(gain: Gain) -> str:
    return text.gain_with_interval(gain.mean, gain.low, gain.high, gain.tokens)


def _rates(answers: AnswerSummary) -> str:
    """`0.5 %, 1.2 %, 6.3`: shares without a readable answer and cut off, tokens of an answer."""
    shares = f"{share(answers.no_answer, 1)}, {share(answers.truncated, 1)}"
    return f"{shares}, {answers.tokens:.1f}"
