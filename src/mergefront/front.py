"""front.json: everything that is reported about a run, computed from the study and item files.

Format mergefront/front@1. Fields may be added under that version (readers ignore what they do not
know); one that changes its meaning or goes raises it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import optuna

from mergefront import pareto, statistics
from mergefront.belief import Belief
from mergefront.errors import RunError
from mergefront.gains import (
    BEATS,
    OVER_THE_FRONT,
    TRADES,
    adjust,
    answers,
    holds,
    overlap_warnings,
    paired_gains,
    seen_blind,
    shared_items,
    verdict,
)
from mergefront.members import believed, non_dominated, picks, points_of
from mergefront.race import flat
from mergefront.race import told as race_told
from mergefront.recorded import (
    PICKS,
    RESULT,
    SAMPLER,
    estimates_of,
    evaluations,
    in_tokens,
    of_objective,
    reference_point,
    units_of,
)
from mergefront.records import REFINEMENT, SPLITS, Evaluation, Split
from mergefront.rundir import RECEIVER, ItemRecord, RunDirectory, blind_name, write_text


def write_front(run: RunDirectory, study: optuna.Study) -> dict[str, Any]:
    """Compute front.json from the study and the item files alone, and write it."""
    front = summarise(run, study)
    write_text(run.front, json.dumps(front, indent=1))
    return front


def read_front(run: RunDirectory) -> dict[str, Any]:
    """front.json of a finished run. Raises RunError if the run has none yet."""
    if not run.front.is_file():
        raise RunError(
            f"{run.path}: no front yet",
            hint="let the search finish (run the same `mergefront search` command again)",
        )
    return dict(json.loads(run.front.read_text()))


def summarise(run: RunDirectory, study: optuna.Study) -> dict[str, Any]:
    """Everything that is reported about a run, as plain values."""
    config, names = run.config, list(run.config.objectives)
    everything = evaluations(study, run)
    finished = {e.number: e for e in everything if not e.failure}
    members = [finished[n] for n in study.user_attrs["finalists"]]
    receiver = {split: run.read_items(RECEIVER, split) for split in SPLITS}
    reference = {s: reference_point(config, estimates_of(receiver[s])) for s in SPLITS[:2]}
    shared = shared_items({split: run.read_answers(RECEIVER, split) for split in SPLITS})
    openings = study.user_attrs.get("openings", [])
    belief = believed(everything, config, estimates_of(receiver["search"]))
    rows = _members(run, study, members, belief)
    found = points_of(list(finished.values()), names)
    return {
        "format": "mergefront/front@1",
        "run": config.name,
        "sampler": study.user_attrs.get(SAMPLER, [config.search.sampler])[0],
        "warnings": overlap_warnings(shared),
        "objectives": names,
        "reference": reference["search"],
        "guard": config.report.guard,
        "guards": config.guards,
        "costs": {name: cost.model_dump(mode="json") for name, cost in config.costs.items()},
        "receiver": {split: _by_objective(run, records) for split, records in receiver.items()},
        "receiver_answers": answers(run.read_answers(RECEIVER, "validation")),
        "receiver_blind": _by_objective(run, run.read_items(blind_name(RECEIVER))),
        "members": rows,
        "belief": _told(belief),
        "race": race_told(everything, config.costs),
        "hypervolume": {
            "search": pareto.hypervolume(found, [reference["search"][n] for n in names]),
            "validation": {
                **_validated_hypervolume(run, members, reference["validation"]),
                "reference": reference["validation"],
            },
        },
        "candidates": len(everything),
        "failed": len(everything) - len(finished),
        "items": config.items.model_dump(),
        "overlap": shared,
        "seconds": _seconds(everything),
        "openings": openings,
        "test_rounds": len({o["candidates"] for o in openings if o["split"] == "test"}),
        "messages": [
            *_messages(rows, names[0]),
            *_flat(everything, names),
            *_modes(run),
            *_refined(study),
        ],
    }


def _told(belief: Belief) -> dict[str, Any]:
    """Who chose the members, and how well the model foretells candidates from the others."""
    return {
        "by_model": belief.by_model,
        "why": belief.why,
        "front": list(belief.front),
        "calibration": {name: asdict(one) for name, one in belief.calibration.items()},
    }


def _members(
    run: RunDirectory, study: optuna.Study, members: Sequence[Evaluation], belief: Belief
) -> list[dict[str, Any]]:
    """The members' rows; the gains of those that were tested together are adjusted for it."""
    names, costs = list(run.config.objectives), run.config.costs
    receiver = estimates_of(run.read_items(RECEIVER, "search"))
    numbers = [e.number for e in members]
    chosen, best = study.user_attrs.get(PICKS), non_dominated(numbers, belief)
    if chosen is None:  # of an older run: by today's rules, but only who was tested then
        today = picks(numbers, run.config, receiver, belief)
        chosen = {pick: n for pick, n in today.items() if run.read_answers(str(n), "test")}
    rows = [
        {**_member(run, study, e, chosen), "non_dominated": e.number in best}
        | {"believed": in_tokens({k: asdict(v) for k, v in belief.of(e.number).items()}, costs)}
        for e in members
    ]
    adjust([row["gain"] for row in rows], names[0])
    adjust([row["test_gain"] for row in rows if row["test_gain"]], names[0])
    for row in rows:
        row["verdict"] = verdict(row["gain"], run.config)
        row["holds"] = holds(row["gain"], names[0])
    return rows


def _by_objective(run: RunDirectory, records: Sequence[ItemRecord]) -> dict[str, Any] | None:
    plain = {k: asdict(v) for k, v in estimates_of(records).items()}
    return in_tokens(plain, run.config.costs) if records else None


def _gains(run: RunDirectory, name: str, split: Split) -> dict[str, Any]:
    """Gains over the receiver on a split."""
    mine, base = run.read_items(name, split), run.read_items(RECEIVER, split)
    return in_tokens(paired_gains(mine, base, list(run.config.objectives)), run.config.costs)


def _member(
    run: RunDirectory, study: optuna.Study, e: Evaluation, chosen: Mapping[str, int]
) -> dict[str, Any]:
    name, costs = str(e.number), run.config.costs
    validated, tested = run.read_items(name, "validation"), run.read_items(name, "test")
    knobs = study.get_trials(deepcopy=False)[e.number].user_attrs[RESULT]["knobs"]
    return {
        "number": e.number,
        "origin": e.origin,
        "knobs": knobs,
        "search": in_tokens({k: asdict(v) for k, v in e.objectives.items()}, costs),
        "validation": _by_objective(run, validated),
        "gain": _gains(run, name, "validation"),
        "answers": answers(run.read_answers(name, "validation")),
        "picks": [pick for pick, number in chosen.items() if number == e.number],
        "test": _by_objective(run, tested),
        "test_gain": _gains(run, name, "test") if tested else None,
        "blind": _blind(run, name),
        "parameters_sha256": study.user_attrs.get(f"hashes:{name}"),
    }


def _blind(run: RunDirectory, name: str) -> dict[str, Any] | None:
    """Scores without images, and the gain over the receiver without images."""
    mine = run.read_items(blind_name(name))
    base = run.read_items(blind_name(RECEIVER))
    if not mine or not base:
        return None
    names = list(dict.fromkeys(record.objective for record in mine))
    return {"scores": _by_objective(run, mine), "gain": paired_gains(mine, base, names)}


def _validated_hypervolume(
    run: RunDirectory, members: Sequence[Evaluation], reference: Mapping[str, float]
) -> dict[str, float]:
    names = list(run.config.objectives)
    scores, clusters = [], []
    for name in names:
        units = [
            units_of(of_objective(run.read_items(str(e.number), "validation"), name))
            for e in members
        ]
        scores.append(np.array([one.scores for one in units]))
        clusters.append(units[0].clusters)
    interval = statistics.hypervolume_interval(scores, clusters, [reference[n] for n in names])
    return {"value": interval.mean, "low": interval.low, "high": interval.high}


def _seconds(found: Sequence[Evaluation]) -> dict[str, float]:
    """Mean wall seconds of a candidate by phase."""
    timed = [asdict(e.seconds) for e in found if e.seconds.total > 0]
    if not timed:
        return {}
    return {key: float(np.mean([t[key] for t in timed])) for key in timed[0]}


def _messages(rows: Sequence[Mapping[str, Any]], first: str) -> list[str]:
    blind = [
        sentence
        for row in rows
        if row["blind"]
        for sentence in seen_blind(row["gain"], row["blind"]["gain"], f"Member {row['number']}")
    ]
    return [_outcome(rows, first), *blind]


def _flat(found: Sequence[Evaluation], names: Sequence[str]) -> list[str]:
    """Which objectives never changed."""
    return [
        f"{name} scored the same for every candidate: its items tell nothing apart, and the search "
        "could only move along the others."
        for name in flat(found, names)
    ]


def _modes(run: RunDirectory) -> list[str]:
    """Which tasks were not answered in words."""
    tasks = run.manifest()["items"]["tasks"]
    labels = [name for name, task in tasks.items() if task.get("mode") == "labels"]
    if not labels:
        return []
    return [f"Answers by label log-probability, not generated: {', '.join(labels)}."]


def _refined(study: optuna.Study) -> list[str]:
    """That the space was refined on the way, and how to tell its candidates."""
    found = study.user_attrs.get(REFINEMENT)
    if found is None:
        return []
    return [
        f"The space was refined after {found['after']} candidates: those that came later have "
        "more knobs, whose names begin with v1."
    ]


def _outcome(rows: Sequence[Mapping[str, Any]], first: str) -> str:
    winners = [row for row in rows if row["verdict"] == BEATS]
    if winners:
        firm = sum(row["holds"] == OVER_THE_FRONT for row in winners)
        return (
            f"{len(winners)} of {len(rows)} members beat the receiver on validation items: "
            f"their {first} gain is above zero and their losses stay within the guard. {firm} of "
            f"them hold over the whole front (p at most 0.05 after Holm's adjustment for "
            f"{len(rows)} members), {len(winners) - firm} for the member alone."
        )
    trades = sum(row["verdict"] == TRADES for row in rows)
    if trades:
        return (
            f"No member beats the receiver: {trades} gain {first}, but lose more than the "
            "guard on another objective."
        )
    return "Nothing beats the receiver: no member's gain is resolved from zero."
