"""What a run has recorded, read back from its study and its item files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import optuna

from mergefront import ledger, statistics
from mergefront.config import RunConfig
from mergefront.records import Estimate, Evaluation, Seconds
from mergefront.rundir import ItemRecord, RunDirectory

RESULT = "result"
"""Trial attribute with everything about a finished candidate but its point and values."""

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
    """Objective -> mean score with clustered standard error, in the records' objective order."""
    names = dict.fromkeys(record.objective for record in records)
    return {
        name: statistics.estimate(
            [r.score for r in records if r.objective == name],
            [r.cluster for r in records if r.objective == name],
        )
        for name in names
    }


def reference_point(config: RunConfig, receiver: Mapping[str, Estimate]) -> dict[str, float]:
    """The hypervolume's reference point, by objective."""
    if config.report.reference is not None:
        return {name: config.report.reference[name] for name in config.objectives}
    first = next(iter(config.objectives))
    return {
        name: receiver[name].mean * (1.0 if name == first else 0.8) for name in config.objectives
    }


def evaluations(study: optuna.Study, run: RunDirectory) -> list[Evaluation]:
    """Every finished candidate of a run as recorded, failed ones included, by number."""
    found = []
    for trial in ledger.finished(study):
        result = trial.user_attrs.get(RESULT)
        if result is None:  # failed outside our loop: nothing is known but that
            continue
        estimates = {
            name: Estimate(value, result["se"][name], result["n"][name])
            for name, value in zip(run.config.objectives, trial.values or (), strict=False)
        }
        point = tuple(trial.params[name] for name in result["knobs"])
        seconds = Seconds(**result["seconds"])
        found.append(
            Evaluation(trial.number, point, result["origin"], estimates, seconds, result["failure"])
        )
    return found
