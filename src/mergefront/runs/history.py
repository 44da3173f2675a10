"""What a run records in its study, and what is read back from there and from its item files.

A trial has its point, its values and only one attribute (`records.RESULT_ATTRIBUTE`), since each
write to the journal waits for the disk. The study's attributes say what the end of a search
decided.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import optuna

from mergefront import stats
from mergefront.config import RunConfig, TokenCost
from mergefront.records import RESULT_ATTRIBUTE, Estimate, Evaluation, Raced, Seconds
from mergefront.runs import study as study_file
from mergefront.runs.directory import ItemRecord, RunDirectory
from mergefront.runs.units import of_objective, units_of

_COMPLETED: Final = "completed:"
_ELAPSED: Final = "elapsed"
_FINALISTS: Final = "finalists"
_FINALIST_FAILURES: Final = "finalist_failures"
_HASH: Final = "hashes:"
_PICKS: Final = "picks"
_SAMPLER: Final = "sampler"

BEHIND: Final = "behind"
"""Left because its chance to be on the front fell below delta."""
KNOWN: Final = "known"
"""Left because more answers would hardly add to what the model and the answers so far say."""
COLLAPSED: Final = "collapsed"
"""Left because it scores less than half the reference: a broken model."""


@dataclass(frozen=True)
class CandidateRecord:
    """What a trial's attribute says of a finished candidate.

    `elapsed` are the run's wall seconds so far, `knobs` the knobs' values by name. Samplers read
    `se` and `partial` in the order of the trial's values, which is that of the objectives.
    """

    origin: str
    elapsed: float
    knobs: Mapping[str, float | str]
    failure: str
    se: Mapping[str, float]
    partial: Mapping[str, float]
    n: Mapping[str, int]
    raced: Raced
    seconds: Seconds

    @classmethod
    def of(
        cls,
        evaluation: Evaluation,
        objectives: Sequence[str],
        knobs: Mapping[str, float | str],
        elapsed: float,
    ) -> CandidateRecord:
        """Record an evaluation; a failed one has no estimates."""
        names = objectives if evaluation.objectives else ()
        estimates = {name: evaluation.objectives[name] for name in names}
        return cls(
            origin=evaluation.origin,
            elapsed=round(elapsed, 3),
            knobs=knobs,
            failure=evaluation.failure,
            se={name: estimate.se for name, estimate in estimates.items()},
            partial={name: estimate.partial for name, estimate in estimates.items()},
            n={name: estimate.n for name, estimate in estimates.items()},
            raced=evaluation.raced,
            seconds=evaluation.seconds,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the trial's attribute."""
        raced, seconds = dict(vars(self.raced)), dict(vars(self.seconds))
        return {**vars(self), "raced": raced, "seconds": seconds}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CandidateRecord:
        """Read what `to_dict` gives."""
        raced, seconds = Raced(**values["raced"]), Seconds(**values["seconds"])
        return cls(**{**values, "raced": raced, "seconds": seconds})


def open_study(run: RunDirectory, *, create: bool = False) -> optuna.Study:
    """Open the study of a run.

    Raises:
        RunError: it is missing or damaged.
    """
    n = len(run.config.objectives)
    return study_file.open_study(run.journal, name="mergefront", n_objectives=n, create=create)


def record_completion(
    study: optuna.Study, evaluation: Evaluation, objectives: Sequence[str]
) -> None:
    """Record what changed when a candidate that had left answered the rest of the items."""
    record = CandidateRecord.of(evaluation, objectives, {}, 0.0).to_dict()
    changed = {key: record[key] for key in ("se", "partial", "n", "raced", "seconds")}
    values = [evaluation.objectives[name].mean for name in objectives]
    study.set_user_attr(f"{_COMPLETED}{evaluation.number}", {**changed, "values": values})


def evaluations(study: optuna.Study, run: RunDirectory) -> list[Evaluation]:
    """Read every finished candidate of a run, failed ones included, as they finished."""
    candidates, attributes = [], study.user_attrs
    for trial in study_file.finished(study):
        if (
            RESULT_ATTRIBUTE not in trial.user_attrs
        ):  # failed outside our loop: nothing is known but that
            continue
        completion = dict(attributes.get(f"{_COMPLETED}{trial.number}", {}))
        values = completion.pop("values", trial.values) or ()
        record = CandidateRecord.from_dict({**trial.user_attrs[RESULT_ATTRIBUTE], **completion})
        estimates = {
            name: Estimate(value, record.se[name], record.n[name], record.partial[name])
            for name, value in zip(run.config.objectives, values, strict=False)
        }
        point = tuple(trial.params[name] for name in record.knobs)
        candidates.append(
            Evaluation(
                trial.number, point, record.origin, estimates,
                record.seconds, record.failure, record.raced,
            )
        )  # fmt: skip
    return candidates


def record_elapsed(study: optuna.Study, seconds: float) -> None:
    """Record the run's wall seconds so far, after the search itself."""
    study.set_user_attr(_ELAPSED, round(seconds, 3))


def spent_seconds(study: optuna.Study, run: RunDirectory) -> float:
    """Return the wall seconds that a run's sessions have used, as far as anything says so."""
    results = [
        trial.user_attrs.get(RESULT_ATTRIBUTE, {}) for trial in study.get_trials(deepcopy=False)
    ]
    recorded = (float(result.get(_ELAPSED, 0.0)) for result in [*results, study.user_attrs])
    return max(run.elapsed_seconds(), *recorded)


def record_sampler(study: optuna.Study, name: str, reason: str) -> None:
    """Record what the sampler `auto` was decided to be, and why."""
    study.set_user_attr(_SAMPLER, [name, reason])


def recorded_sampler(study: optuna.Study) -> tuple[str, str] | None:
    """Return what the sampler `auto` was decided to be, and why; None without a decision."""
    name, reason = study.user_attrs.get(_SAMPLER, (None, ""))
    return None if name is None else (name, reason)


def record_picks(study: optuna.Study, picks: Mapping[str, int]) -> None:
    """Record pick -> number, as decided before any test item is read."""
    study.set_user_attr(_PICKS, dict(picks))


def recorded_picks(study: optuna.Study) -> Mapping[str, int]:
    """Return pick -> number of a finished run."""
    picks: Mapping[str, int] = study.user_attrs[_PICKS]
    return picks


def record_members(study: optuna.Study, numbers: Sequence[int]) -> None:
    """Record that these candidates were validated, and their picks tested: the run is finished."""
    study.set_user_attr(_FINALISTS, list(numbers))


def recorded_members(study: optuna.Study) -> list[int] | None:
    """Return the numbers of the validated members; None of a run that was never finished."""
    numbers: list[int] | None = study.user_attrs.get(_FINALISTS)
    return numbers


def record_member_failure(study: optuna.Study, number: int, reason: str) -> None:
    """Record that a candidate broke the engine after the search: it can be no member."""
    failures = {**study.user_attrs.get(_FINALIST_FAILURES, {}), str(number): reason}
    study.set_user_attr(_FINALIST_FAILURES, failures)


def recorded_member_failures(study: optuna.Study) -> dict[int, str]:
    """Return number -> reason of the candidates that broke the engine after the search."""
    failures: dict[str, str] = study.user_attrs.get(_FINALIST_FAILURES, {})
    return {int(number): reason for number, reason in failures.items()}


def record_model_hash(study: optuna.Study, name: str, digest: str) -> None:
    """Record the hash of the parameters that a validated model was scored with."""
    study.set_user_attr(_HASH + name, digest)


def recorded_model_hash(study: optuna.Study, name: str) -> str | None:
    """Return the hash of the parameters that a model was scored with; None if not validated."""
    digest: str | None = study.user_attrs.get(_HASH + name)
    return digest


def estimates_of(records: Sequence[ItemRecord]) -> dict[str, Estimate]:
    """Objective -> mean over its units with clustered standard error, in the records' order."""
    estimates = {}
    for name in dict.fromkeys(record.objective for record in records):
        units = units_of(of_objective(records, name))
        estimates[name] = stats.estimate(units.scores, units.clusters)
    return estimates


def reference_point(config: RunConfig, receiver: Mapping[str, Estimate]) -> dict[str, float]:
    """The hypervolume's reference point, by objective.

    A cost's is 0, which is its limit: long answers are dear, but not a sign of a broken model as
    scores far below the receiver's are.
    """
    first, configured = next(iter(config.objectives)), config.report.reference

    def value(name: str) -> float:
        if name in config.costs:
            return 0.0
        if configured is not None:
            return configured[name]
        return receiver[name].mean * (1.0 if name == first else 0.8)

    return {name: value(name) for name in config.objectives}


def with_tokens(
    estimates: Mapping[str, Estimate], costs: Mapping[str, TokenCost]
) -> dict[str, Estimate]:
    """Estimates by objective; those of costs also say the mean tokens of an answer."""
    return {
        name: replace(estimate, tokens=costs[name].tokens(estimate.mean))
        if name in costs
        else estimate
        for name, estimate in estimates.items()
    }


def constant_objectives(evaluations: Sequence[Evaluation], objectives: Sequence[str]) -> list[str]:
    """The objectives on which all candidates, two or more, score exactly the same."""
    scored = [e.objectives for e in evaluations if not e.failure]
    if len(scored) < 2:
        return []
    return [name for name in objectives if len({score[name].mean for score in scored}) == 1]


@dataclass(frozen=True)
class RaceSummary:
    """What the race saved.

    `items` and `seconds` are shares of what all candidates would have cost in full, the seconds
    by the mean of those that answered all. `left` counts the candidates that left, by reason.
    `spared` has, by number, the candidates that answered all items only to keep the rule honest,
    and why each would have left.
    """

    items: float
    seconds: float
    left: Mapping[str, int]
    spared: Mapping[int, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "spared": {str(number): why for number, why in self.spared.items()}}


def race_summary(
    evaluations: Sequence[Evaluation], costs: Collection[str] = ()
) -> RaceSummary | None:
    """What the race saved; None before any candidate has answered everything.

    `costs` are the objectives that ask nothing.
    """
    scored = [e for e in evaluations if not e.failure and e.seconds.generate > 0]
    full_seconds = [e.seconds.generate for e in scored if not e.raced.left]
    if not scored or not full_seconds:
        return None
    answered = [e.answered(costs) for e in scored]
    seconds = sum(e.seconds.generate for e in scored)
    reasons = [e.raced.left for e in scored]
    return RaceSummary(
        items=sum(answered) / (len(scored) * max(answered)),
        seconds=seconds / (len(scored) * float(np.mean(full_seconds))),
        left={reason: reasons.count(reason) for reason in (BEHIND, KNOWN, COLLAPSED)},
        spared={e.number: e.raced.spared for e in scored if e.raced.spared},
    )
