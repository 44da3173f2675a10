"""The Optuna face of every sampler: proposals that can be computed again from the study.

A proposal is a function of the run's seed, the trial's number and the finished trials that the
sampler saw. `ReplaySampler` writes down which trials those were, in the order in which they
finished, and hands them to a `Proposer`, which holds no state that it could not rebuild from them.
So a new process that loads the study proposes what the old one would have proposed.

Reading order: `Tell` and `Proposer` (what a sampler is made of), `ReplaySampler` (how Optuna
calls it), `pending` (what a resumed run does first).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from mergefront.errors import RunError
from mergefront.records import RESULT_ATTRIBUTE
from mergefront.sampling.problem import Array
from mergefront.sampling.tell_order import finished_trials

TELLS = "mergefront:tells"
"""Trial system attribute: numbers of the finished trials that the proposal saw, in order."""

UNIT = FloatDistribution(0.0, 1.0)


@dataclass(frozen=True)
class Tell:
    """A finished trial as a sampler sees it.

    `point` lies in [0, 1]^D; `values` holds M objectives to maximise, None if the trial failed;
    `proposed` is False for warm starts and other points that the sampler did not choose; `errors`
    are the values' standard errors, None where nobody recorded them; `partial` is the part of them
    that comes of unanswered items (`records.Estimate.partial`), None where there is none.
    """

    number: int
    point: tuple[float, ...]
    values: tuple[float, ...] | None
    proposed: bool
    errors: tuple[float, ...] | None = None
    partial: tuple[float, ...] | None = None


class Proposer(Protocol):
    """Chooses points. It may cache what it can rebuild, and nothing else: same call, same answer.

    `beside` says that it may work in its own thread while a candidate is evaluated. Its proposals
    then do not see the candidate just before them, whether or not that has been told.
    """

    beside: bool = False

    def propose(self, tells: Sequence[Tell], number: int) -> Array:
        """Return the point in [0, 1]^D of trial `number`, given `tells` in finishing order."""
        ...


class ReplaySampler(optuna.samplers.BaseSampler):
    """Drives a `Proposer` from an Optuna study; nothing in it needs to survive a restart.

    Every trial must suggest the same D parameters in the same order, each as a float in [0, 1].
    Enqueued trials keep their fixed values; parameters without one are proposed.
    """

    def __init__(self, proposer: Proposer, dimension: int) -> None:
        self._proposer = proposer
        self._dimension = dimension
        self._latest: tuple[int, str, Array] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="propose")
        self._ahead: tuple[int, str, Future[Array]] | None = None

    def compute_next_ahead(self, study: optuna.Study) -> None:
        """Begin to work on the next trial's point while the one before is evaluated.

        Changes no proposal, only when it is computed; `ask` waits for it.
        """
        trials = study.get_trials(deepcopy=False)
        if not self._proposer.beside or any(t.state == TrialState.WAITING for t in trials):
            return
        number, visible = len(trials), self._visible(study, len(trials))
        tells = self._tells(study, visible)
        self._ahead = number, visible, self._thread.submit(self._proposer.propose, tells, number)

    def _visible(self, study: optuna.Study, number: int) -> str:
        """Return the numbers of the trials that the proposal of a trial sees, compact."""
        limit = number - 1 if self._proposer.beside else number
        return compact([t.number for t in finished_trials(study) if t.number < limit])

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Write down once what the trial sees; a trial that is resumed keeps its record."""
        if TELLS not in trial.system_attrs:
            visible = self._visible(study, trial.number)
            trial.system_attrs[TELLS] = visible
            study._storage.set_trial_system_attr(trial._trial_id, TELLS, visible)

    def ask(self, study: optuna.Study, names: Sequence[str]) -> optuna.Trial:
        """Return the study's next trial: a queued one if there is any, else a new proposal.

        The same trial as `study.ask()` and D suggestions would make, but a proposal is written to
        the journal whole: one wait for the disk instead of D + 2. `names` are the D
        parameters in order. One process may ask at a time.
        """
        trials = study.get_trials(deepcopy=False)
        if any(trial.state == TrialState.WAITING for trial in trials):
            return study.ask()
        number, visible = len(trials), self._visible(study, len(trials))
        point_D = self._proposed(study, number, visible)
        proposal = create_trial(
            state=TrialState.RUNNING,
            params=dict(zip(names, point_D.tolist(), strict=True)),
            distributions=dict.fromkeys(names, UNIT),
            system_attrs={TELLS: visible},
        )
        study.add_trial(proposal)
        return optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return no relative space: parameters get their share of the point as they come."""
        del study, trial
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing: see `infer_relative_search_space`."""
        del study, trial, search_space
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> float:
        """Return the coordinate of the trial's point that belongs to its next parameter.

        Raises:
            RunError: the parameter is not a float in [0, 1], or is one too many.
        """
        index = len(trial.params)
        if param_distribution != UNIT:
            raise RunError(
                f"parameter {param_name} has {param_distribution}; samplers of mergefront know "
                f"only {UNIT}"
            )
        if index >= self._dimension:
            raise RunError(
                f"trial {trial.number} asks for parameter {param_name}, number {index + 1} of a "
                f"space with {self._dimension} knobs"
            )
        visible = str(trial.system_attrs[TELLS])
        return float(self._proposed(study, trial.number, visible)[index])

    def _proposed(self, study: optuna.Study, number: int, visible: str) -> Array:
        if self._latest is None or self._latest[:2] != (number, visible):
            ahead, self._ahead = self._ahead, None
            if ahead is not None:  # wait even if it is another trial's: one call at a time
                point_D = ahead[2].result()
            if ahead is None or ahead[:2] != (number, visible):
                point_D = self._proposer.propose(self._tells(study, visible), number)
            self._latest = (number, visible, point_D)
        return self._latest[2]

    def _tells(self, study: optuna.Study, visible: str) -> list[Tell]:
        trials = {trial.number: trial for trial in finished_trials(study)}
        tells = [_tell(trials[number], self._dimension) for number in expand(visible)]
        return [tell for tell in tells if tell is not None]


def standard_errors(
    trial: FrozenTrial, which: Literal["se", "partial"] = "se"
) -> tuple[float, ...] | None:
    """Return the standard error of each value of a finished trial, in the values' order.

    A search records them in the trial's user attribute RESULT_ATTRIBUTE, by objective, before it
    tells the values; with `which` the part of them that is `records.Estimate.partial`. None if
    there is no such record, or not one number for each value. Of a single item no error can be
    computed: that is NaN.
    """
    recorded = list(trial.user_attrs.get(RESULT_ATTRIBUTE, {}).get(which, {}).values())
    return tuple(map(float, recorded)) if len(recorded) == len(trial.values) else None


def pending(study: optuna.Study) -> list[optuna.Trial]:
    """Return the trials in flight when the run was killed, by number, ready to be told.

    Each has kept its number and what it saw, so that suggesting its parameters again gives the
    point it had, whether or not the parameters had been written. Suggest them all before any of
    them is told.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [optuna.Trial(study, t._trial_id) for t in sorted(trials, key=lambda t: t.number)]


def compact(numbers: Sequence[int]) -> str:
    """Write numbers as runs that count up by one, in order: [0, 1, 2, 4, 3] is "0-2,4,3"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] + 1 == number:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def expand(text: str) -> list[int]:
    """Read what `compact` wrote."""
    numbers: list[int] = []
    for run in filter(None, text.split(",")):
        first, _, last = run.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def _tell(trial: FrozenTrial, dimension: int) -> Tell | None:
    """Translate a finished trial; None if it failed before it had a whole point."""
    point = tuple(trial.params.values())
    if len(point) != dimension:
        return None
    proposed = TELLS in trial.system_attrs and "fixed_params" not in trial.system_attrs
    values = None
    if trial.state == TrialState.COMPLETE and np.isfinite(trial.values).all():
        values = tuple(trial.values)
    errors = None if values is None else standard_errors(trial)
    partial = None if values is None else standard_errors(trial, "partial")
    return Tell(trial.number, point, values, proposed, errors, partial)
