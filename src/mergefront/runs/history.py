"""What a run has recorded, read back from its study and its item files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import optuna

from mergefront import stats
from mergefront.config import RunConfig, TokenCost
from mergefront.records import RESULT, Estimate, Evaluation, Raced, Seconds
from mergefront.runs import study as ledger
from mergefront.runs.directory import ItemRecord, RunDirectory
from mergefront.runs.units import of_objective, units_of

SAMPLER = "sampler"
"""Attribute of the study: what the sampler `auto` was decided to be, and why."""
PICKS = "picks"
"""Attribute of the study: pick -> number, as decided before any test item was read."""
COMPLETED = "completed:"
"""Attribute of the study, by candidate: what changed when it answered the rest of the items."""
ELAPSED = "elapsed"
"""Wall seconds used when something was recorded: in RESULT, and of the study after the search."""


def open_study(run: RunDirectory, *, create: bool = False) -> optuna.Study:
    """The study of a run. Raises RunError if it is missing or damaged."""
    n = len(run.config.objectives)
    return ledger.open_study(run.journal, name="mergefront", n_objectives=n, create=create)


def spent_seconds(study: optuna.Study) -> float:
    """Wall seconds that a run's sessions have used up to what was recorded last."""
    results = [t.user_attrs.get(RESULT, {}) for t in study.get_trials(deepcopy=False)]
    return max(float(r.get(ELAPSED, 0.0)) for r in [*results, study.user_attrs])


def estimates_of(records: Sequence[ItemRecord]) -> dict[str, Estimate]:
    """Objective -> mean over its units with clustered standard error, in the records' order."""
    found = {}
    for name in dict.fromkeys(record.objective for record in records):
        units = units_of(of_objective(records, name))
        found[name] = stats.estimate(units.scores, units.clusters)
    return found


def reference_point(config: RunConfig, receiver: Mapping[str, Estimate]) -> dict[str, float]:
    """The hypervolume's reference point, by objective.

    A cost's is 0, its limit: long answers are dear, and not broken as scores far below the
    receiver's are.
    """
    first, given = next(iter(config.objectives)), config.report.reference

    def value(name: str) -> float:
        if name in config.costs:
            return 0.0
        if given is not None:
            return given[name]
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


def evaluations(study: optuna.Study, run: RunDirectory) -> list[Evaluation]:
    """Every finished candidate of a run as recorded, failed ones included, by number."""
    found, attributes = [], study.user_attrs
    for trial in ledger.finished(study):
        result = trial.user_attrs.get(RESULT)
        if result is None:  # failed outside our loop: nothing is known but that
            continue
        later = attributes.get(f"{COMPLETED}{trial.number}", {})
        result = {**result, **later}
        values = later.get("values", trial.values) or ()
        partial = result.get("partial", {})  # runs of versions that did not race have none
        estimates = {
            name: Estimate(value, result["se"][name], result["n"][name], partial.get(name, 0.0))
            for name, value in zip(run.config.objectives, values, strict=False)
        }
        point = tuple(trial.params[name] for name in result["knobs"])
        seconds, raced = Seconds(**result["seconds"]), Raced(**result.get("raced", {}))
        failure = str(result["failure"])
        one = Evaluation(trial.number, point, result["origin"], estimates, seconds, failure, raced)
        found.append(one)
    return found


def numbers_of(evaluation: Evaluation, objectives: Sequence[str]) -> dict[str, Any]:
    """What is recorded of an evaluation, beside its values, and may change when it is completed.

    Samplers read the errors in the order of the values, which is that of `objectives`.
    """
    found = {name: evaluation.objectives[name] for name in objectives if evaluation.objectives}
    return {
        "se": {name: one.se for name, one in found.items()},
        "partial": {name: one.partial for name, one in found.items()},
        "n": {name: one.n for name, one in found.items()},
        "raced": dict(vars(evaluation.raced)),
        "seconds": dict(vars(evaluation.seconds)),
    }


BEHIND: Final = "behind"
"""Left because its chance to be on the front fell below delta."""


KNOWN: Final = "known"
"""Left because more answers would hardly add to what the model and the answers so far say."""


COLLAPSED: Final = "collapsed"
"""Left because it scores less than half the reference: a broken model."""


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
