"""What a run has recorded, read back from its study and its item files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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


def in_tokens(plain: Mapping[str, Any], costs: Mapping[str, TokenCost]) -> dict[str, Any]:
    """Estimates or gains by objective, as plain values; those of costs with `tokens` as well.

    Of an estimate they are the mean tokens of an answer, of a gain how many more it has.
    """

    def tokens(one: Mapping[str, Any], cost: TokenCost) -> float:
        return 0.0 - cost.limit * one["mean"] if "low" in one else cost.tokens(one["mean"])

    return {
        name: {**one, "tokens": tokens(one, costs[name])} if name in costs else one
        for name, one in plain.items()
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


def flat(found: Sequence[Evaluation], objectives: Sequence[str]) -> list[str]:
    """The objectives on which all candidates, two or more, score exactly the same."""
    done = [e.objectives for e in found if not e.failure]
    same = [name for name in objectives if len({one[name].mean for one in done}) == 1]
    return same if len(done) > 1 else []


def told(found: Sequence[Evaluation], costs: Collection[str] = ()) -> dict[str, Any]:
    """What the race saved, as plain values; empty before any candidate has answered everything.

    `items` and `seconds` are shares of what all candidates would have cost in full, the seconds
    by the mean of those that answered all. `spared` are the candidates that answered all items
    only to keep the rule honest, with why each would have left. `costs` asked nothing.
    """
    done = [e for e in found if not e.failure and e.seconds.generate > 0]
    full = [e.seconds.generate for e in done if not e.raced.left]
    if not done or not full:
        return {}
    asked = [e.answered(costs) for e in done]
    spent = sum(e.seconds.generate for e in done)
    reasons = [e.raced.left for e in done]
    return {
        "items": sum(asked) / (len(done) * max(asked)),
        "seconds": spent / (len(done) * float(np.mean(full))),
        "left": {why: reasons.count(why) for why in (BEHIND, KNOWN, COLLAPSED)},
        "spared": {str(e.number): e.raced.spared for e in done if e.raced.spared},
    }
