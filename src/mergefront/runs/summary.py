"""Everything that is reported about a run, computed from its study and its item files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from mergefront import stats
from mergefront.files import write_text
from mergefront.records import RESULT, SPLITS, Estimate, Evaluation, Split
from mergefront.runs.directory import RECEIVER, ItemRecord, RunDirectory, blind_name
from mergefront.runs.front import (
    BeliefSummary,
    BlindScores,
    Front,
    Hypervolumes,
    ItemCounts,
    Member,
    ValidatedHypervolume,
)
from mergefront.runs.gains import (
    BEATS,
    OVER_THE_FRONT,
    TRADES,
    Gain,
    answer_summaries,
    blind_gain_sentences,
    overlap_of_splits,
    overlap_warnings,
    paired_gains,
    scope_of,
    verdict,
    with_holm,
)
from mergefront.runs.history import (
    PICKS,
    SAMPLER,
    constant_objectives,
    estimates_of,
    evaluations,
    race_summary,
    reference_point,
    with_tokens,
)
from mergefront.runs.members import believed, non_dominated, points_of
from mergefront.runs.study import openings
from mergefront.runs.units import of_objective, units_of
from mergefront.stats import pareto

if TYPE_CHECKING:
    import optuna

    from mergefront.runs.belief import Belief


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
    finalists = [scored[number] for number in study.user_attrs["finalists"]]
    receiver = {split: run.read_items(RECEIVER, split) for split in SPLITS}
    reference = {s: reference_point(config, estimates_of(receiver[s])) for s in SPLITS[:2]}
    overlap = overlap_of_splits({split: run.read_answers(RECEIVER, split) for split in SPLITS})
    belief = believed(candidates, config, estimates_of(receiver["search"]))
    members = _members(run, study, finalists, belief)
    test_openings = {o.candidates for o in openings(study) if o.split == "test"}
    return Front(
        run=config.name,
        sampler=study.user_attrs.get(SAMPLER, [config.search.sampler])[0],
        warnings=tuple(overlap_warnings(overlap)),
        objectives=tuple(names),
        reference=reference["search"],
        guard=config.report.guard,
        guards=config.guards,
        costs=config.costs,
        receiver={split: _shown(run, records) for split, records in receiver.items()},
        receiver_answers=answer_summaries(run.read_answers(RECEIVER, "validation")),
        receiver_blind=_shown(run, run.read_items(blind_name(RECEIVER))) or None,
        members=tuple(members),
        belief=BeliefSummary(belief.by_model, belief.why, belief.front, belief.calibration),
        race=race_summary(candidates, config.costs),
        hypervolume=Hypervolumes(
            search=pareto.hypervolume(
                points_of(list(scored.values()), names), [reference["search"][n] for n in names]
            ),
            validation=_validated_hypervolume(run, finalists, reference["validation"]),
        ),
        candidates=len(candidates),
        failed=len(candidates) - len(scored),
        items=ItemCounts(**config.items.model_dump()),
        overlap=overlap,
        seconds=_mean_seconds(candidates),
        openings=openings(study),
        test_rounds=len(test_openings),
        messages=(
            _outcome(members, names[0]),
            *_blind_messages(members),
            *_constant_messages(candidates, names),
            *_label_messages(run),
        ),
    )


def _members(
    run: RunDirectory, study: optuna.Study, finalists: Sequence[Evaluation], belief: Belief
) -> list[Member]:
    """The members; the gains of those that were tested together are adjusted for it."""
    first = next(iter(run.config.objectives))
    numbers = [e.number for e in finalists]
    tested = [number for number in numbers if run.read_answers(str(number), "test")]
    gains = _adjusted_gains(run, numbers, "validation", first)
    test_gains = _adjusted_gains(run, tested, "test", first)
    front = non_dominated(numbers, belief)
    picks: Mapping[str, int] = study.user_attrs[PICKS]
    trials = study.get_trials(deepcopy=False)
    members = []
    for e in finalists:
        name, gain = str(e.number), gains[e.number]
        members.append(
            Member(
                number=e.number,
                origin=e.origin,
                knobs=trials[e.number].user_attrs[RESULT]["knobs"],
                search=with_tokens(e.objectives, run.config.costs),
                validation=_shown(run, run.read_items(name, "validation")),
                gain=gain,
                answers=answer_summaries(run.read_answers(name, "validation")),
                picks=tuple(pick for pick, number in picks.items() if number == e.number),
                test=_shown(run, run.read_items(name, "test")) or None,
                test_gain=test_gains.get(e.number),
                blind=_blind(run, name),
                parameters_sha256=study.user_attrs.get(f"hashes:{name}"),
                non_dominated=e.number in front,
                believed=with_tokens(belief.of(e.number), run.config.costs),
                verdict=verdict(gain, run.config),
                holds=scope_of(gain[first]),
            )
        )
    return members


def _shown(run: RunDirectory, records: Sequence[ItemRecord]) -> dict[str, Estimate]:
    """Estimates by objective, costs in tokens as well; empty without records."""
    return with_tokens(estimates_of(records), run.config.costs)


def _adjusted_gains(
    run: RunDirectory, numbers: Sequence[int], split: Split, first: str
) -> dict[int, dict[str, Gain]]:
    """Gains over the receiver by number, with Holm's p on the first objective."""
    receiver = run.read_items(RECEIVER, split)
    gains = [
        paired_gains(
            run.read_items(str(number), split), receiver, list(run.config.objectives),
            run.config.costs,
        )
        for number in numbers
    ]  # fmt: skip
    return dict(zip(numbers, with_holm(gains, first), strict=True))


def _blind(run: RunDirectory, name: str) -> BlindScores | None:
    records = run.read_items(blind_name(name))
    receiver = run.read_items(blind_name(RECEIVER))
    if not records or not receiver:
        return None
    objectives = list(dict.fromkeys(record.objective for record in records))
    return BlindScores(_shown(run, records), paired_gains(records, receiver, objectives))


def _validated_hypervolume(
    run: RunDirectory, finalists: Sequence[Evaluation], reference: Mapping[str, float]
) -> ValidatedHypervolume:
    scores, clusters = [], []
    for name in run.config.objectives:
        units = [
            units_of(of_objective(run.read_items(str(e.number), "validation"), name))
            for e in finalists
        ]
        scores.append(np.array([member_units.scores for member_units in units]))
        clusters.append(units[0].clusters)
    corner = [reference[name] for name in run.config.objectives]
    volume = stats.hypervolume_interval(scores, clusters, corner)
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
    return "Nothing beats the receiver: no member's gain is resolved from zero."


def _blind_messages(members: Sequence[Member]) -> list[str]:
    return [
        sentence
        for member in members
        if member.blind is not None
        for sentence in blind_gain_sentences(
            member.gain, member.blind.gain, f"Member {member.number}"
        )
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
