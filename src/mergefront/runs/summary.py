"""Everything that is reported about a run, computed from its study and its item files alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import optuna

from mergefront import stats
from mergefront.files import write_text
from mergefront.records import RESULT_ATTRIBUTE, SPLITS, Estimate, Evaluation
from mergefront.runs.belief import Belief
from mergefront.runs.directory import RECEIVER, ItemRecord, RunDirectory, blind_name
from mergefront.runs.front import (
    BeliefSummary,
    BlindScores,
    Front,
    Hypervolumes,
    Member,
    ValidatedHypervolume,
)
from mergefront.runs.gains import (
    BEATS,
    OVER_THE_FRONT,
    TRADES,
    AnswerSummary,
    Gain,
    answer_summaries,
    overlap_of_splits,
    overlap_warnings,
    paired_gains,
    scope_of,
    verdict,
    with_holm,
)
from mergefront.runs.history import (
    constant_objectives,
    estimates_of,
    evaluations,
    race_summary,
    recorded_member_failures,
    recorded_members,
    recorded_model_hash,
    recorded_picks,
    recorded_sampler,
    reference_point,
    with_tokens,
)
from mergefront.runs.members import non_dominated, run_belief, search_scores
from mergefront.runs.study import openings
from mergefront.runs.units import of_objective, units_of
from mergefront.stats import pareto
from mergefront.stats.text import points, points_interval


def write_front(run: RunDirectory, study: optuna.Study) -> Front:
    """Compute front.json and write it."""
    front = summarise(run, study)
    write_text(run.front, json.dumps(front.to_dict(), indent=1))
    return front


def summarise(run: RunDirectory, study: optuna.Study) -> Front:
    """Compute everything that is reported about a run whose members were validated."""
    config, names = run.config, list(run.config.objectives)
    candidates = evaluations(study, run)
    scored = {e.number: e for e in candidates if not e.failure}
    member_evaluations = [scored[number] for number in recorded_members(study) or ()]
    records = [_ReportedRecords.read(run, str(e.number)) for e in member_evaluations]
    receiver = _ReportedRecords.read(run, RECEIVER)
    receiver_search = run.read_with_costs(RECEIVER, "search")
    reference = reference_point(config, estimates_of(receiver_search))
    overlap = overlap_of_splits({split: run.read_stored(RECEIVER, split) for split in SPLITS})
    belief = run_belief(candidates, config, estimates_of(receiver_search))
    members = _members(run, study, member_evaluations, records, receiver, belief)
    scores_NM = search_scores(list(scored.values()), names)
    return Front(
        run=config.name,
        sampler=(recorded_sampler(study) or (config.search.sampler,))[0],
        warnings=tuple(overlap_warnings(overlap)),
        objectives=tuple(names),
        reference=reference,
        guard=config.report.guard,
        guards=config.guards,
        costs=config.costs,
        receiver={
            "search": _estimates_with_tokens(run, receiver_search),
            "validation": _estimates_with_tokens(run, receiver.validation),
            "test": _estimates_with_tokens(run, receiver.test),
        },
        receiver_answers=_answers(run, receiver.validation),
        receiver_blind=_estimates_with_tokens(run, receiver.blind) or None,
        members=tuple(members),
        belief=BeliefSummary(
            belief.by_model, belief.why_scores_choose, belief.front, belief.calibration
        ),
        race=race_summary(candidates, config.costs),
        hypervolume=Hypervolumes(
            search=pareto.hypervolume(scores_NM, [reference[name] for name in names]),
            validation=_validated_hypervolume(run, records, receiver),
        ),
        candidates=len(candidates),
        failed=len(candidates) - len(scored),
        items=config.items,
        overlap=overlap,
        seconds=_mean_seconds(candidates),
        openings=openings(study),
        test_rounds=len({o.candidates for o in openings(study) if o.split == "test"}),
        messages=(
            _outcome(members, names[0]),
            *_blind_messages(members),
            *_constant_messages(candidates, names),
            *_label_messages(run),
            *_failure_messages(study),
        ),
    )


@dataclass(frozen=True)
class _ReportedRecords:
    """A model's validation and test records, costs included, and those of its blind control."""

    validation: Sequence[ItemRecord]
    test: Sequence[ItemRecord]
    blind: Sequence[ItemRecord]

    @classmethod
    def read(cls, run: RunDirectory, name: str) -> _ReportedRecords:
        return cls(
            run.read_with_costs(name, "validation"),
            run.read_with_costs(name, "test"),
            run.read_with_costs(blind_name(name)),
        )


def _members(
    run: RunDirectory,
    study: optuna.Study,
    member_evaluations: Sequence[Evaluation],
    records: Sequence[_ReportedRecords],
    receiver: _ReportedRecords,
    belief: Belief,
) -> list[Member]:
    """The members; their p values are adjusted (Holm) for how many were tested."""
    first, costs = next(iter(run.config.objectives)), run.config.costs
    front = non_dominated([e.number for e in member_evaluations], belief)
    picks = recorded_picks(study)
    trials = study.get_trials(deepcopy=False)
    gains = _adjusted_gains(run, [r.validation for r in records], receiver.validation)
    test_gains = iter(_adjusted_gains(run, [r.test for r in records if r.test], receiver.test))
    return [
        Member(
            number=e.number,
            origin=e.origin,
            knobs=trials[e.number].user_attrs[RESULT_ATTRIBUTE]["knobs"],
            search=with_tokens(e.objectives, costs),
            validation=_estimates_with_tokens(run, member_records.validation),
            gain=gain,
            answers=_answers(run, member_records.validation),
            picks=tuple(pick for pick, number in picks.items() if number == e.number),
            test=_estimates_with_tokens(run, member_records.test) or None,
            test_gain=next(test_gains) if member_records.test else None,
            blind=_blind_scores(run, member_records, receiver),
            parameters_sha256=recorded_model_hash(study, str(e.number)),
            non_dominated=e.number in front,
            believed=with_tokens(belief.estimates(e.number), costs),
            verdict=verdict(gain, run.config),
            holds=scope_of(gain[first]),
        )
        for e, member_records, gain in zip(member_evaluations, records, gains, strict=True)
    ]


def _estimates_with_tokens(run: RunDirectory, records: Sequence[ItemRecord]) -> dict[str, Estimate]:
    """Estimates by objective, costs in tokens as well; empty without records."""
    return with_tokens(estimates_of(records), run.config.costs)


def _answers(run: RunDirectory, records: Sequence[ItemRecord]) -> dict[str, AnswerSummary]:
    """How the items of each objective were answered; costs ask none."""
    return answer_summaries([r for r in records if r.objective not in run.config.costs])


def _adjusted_gains(
    run: RunDirectory, records: Sequence[Sequence[ItemRecord]], receiver: Sequence[ItemRecord]
) -> list[dict[str, Gain]]:
    """Gains of models over the receiver, with Holm's p on the first objective."""
    names, costs = list(run.config.objectives), run.config.costs
    gains = [paired_gains(model_records, receiver, names, costs) for model_records in records]
    return with_holm(gains, names[0])


def _blind_scores(
    run: RunDirectory, records: _ReportedRecords, receiver: _ReportedRecords
) -> BlindScores | None:
    if not records.blind or not receiver.blind:
        return None
    objectives = list(dict.fromkeys(record.objective for record in records.blind))
    gains = paired_gains(records.blind, receiver.blind, objectives)
    return BlindScores(_estimates_with_tokens(run, records.blind), gains)


def _validated_hypervolume(
    run: RunDirectory, records: Sequence[_ReportedRecords], receiver: _ReportedRecords
) -> ValidatedHypervolume:
    reference = reference_point(run.config, estimates_of(receiver.validation))
    scores, clusters = [], []
    for name in run.config.objectives:
        units = [units_of(of_objective(member.validation, name)) for member in records]
        scores.append(np.array([member_units.scores for member_units in units]))
        clusters.append(units[0].clusters)
    reference_M = [reference[name] for name in run.config.objectives]
    volume = stats.hypervolume_interval(scores, clusters, reference_M)
    return ValidatedHypervolume(volume.mean, volume.low, volume.high, reference)


def _mean_seconds(candidates: Sequence[Evaluation]) -> dict[str, float]:
    """Mean wall seconds of a candidate by phase; empty if no candidate was timed."""
    timed = [asdict(e.seconds) for e in candidates if e.seconds.total > 0]
    if not timed:
        return {}
    return {phase: float(np.mean([seconds[phase] for seconds in timed])) for phase in timed[0]}


def _outcome(members: Sequence[Member], first: str) -> str:
    """Whether anything beats the receiver, in a sentence."""
    winners = [member for member in members if member.verdict == BEATS]
    if winners:
        firm = sum(member.holds == OVER_THE_FRONT for member in winners)
        return (
            f"{len(winners)} of {len(members)} members beat the receiver on validation items: "
            f"their {first} gain is above zero and their losses stay within the guard. {firm} of "
            f"them hold over the whole front (p at most 0.05 after Holm's adjustment for "
            f"{len(members)} members), {len(winners) - firm} for the member alone."
        )
    trades = sum(member.verdict == TRADES for member in members)
    if trades:
        return (
            f"No member beats the receiver: {trades} gain {first}, but lose more than the "
            "guard on another objective."
        )
    return "Nothing beats the receiver: no gain is clearly above zero."


def _blind_messages(members: Sequence[Member]) -> list[str]:
    """A sentence for each gain that is there without images too."""
    return [
        f"Member {member.number} gains {points(blind.mean)} points "
        f"{points_interval(blind.low, blind.high)} of {name} without images too "
        f"({points(member.gain[name].mean)} with them): that much does not come from seeing."
        for member in members
        if member.blind is not None
        for name, blind in member.blind.gain.items()
        if member.gain[name].low > 0 and blind.low > 0
    ]


def _constant_messages(candidates: Sequence[Evaluation], names: Sequence[str]) -> list[str]:
    return [
        f"{name} scored the same for every candidate: its items tell nothing apart, and the search "
        "could only move along the others."
        for name in constant_objectives(candidates, names)
    ]


def _label_messages(run: RunDirectory) -> list[str]:
    """Which tasks were answered by labels and not in words."""
    tasks = run.manifest()["items"]["tasks"]
    labels = [name for name, task in tasks.items() if task.get("mode") == "labels"]
    if not labels:
        return []
    return [f"Answers by label log-probability, not generated: {', '.join(labels)}."]


def _failure_messages(study: optuna.Study) -> list[str]:
    """Which candidates are no members only because engines failed on them."""
    return [
        f"Candidate {number} is left out of the members: two engines failed on its {reason}"
        for number, reason in recorded_member_failures(study).items()
    ]
