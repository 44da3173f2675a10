"""front.json: everything that is reported about a run, computed from the study and item files.

Format mergefront/front@1. Fields may be added under that version (readers ignore what they do not
know); one that changes its meaning or goes raises it.

What a member gained over the receiver on the same items, and whether it is more than luck.

Functions of item records alone; `front` puts their results into front.json. A *gain* is a paired
difference as plain values: mean, low, high (95 %), p, test, discordance, and after `adjust` p_holm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import optuna

from mergefront import stats
from mergefront.config import RunConfig
from mergefront.errors import RunError
from mergefront.files import write_text
from mergefront.records import RESULT, SPLITS, Evaluation, Split
from mergefront.runs.belief import Belief
from mergefront.runs.directory import RECEIVER, ItemRecord, RunDirectory, blind_name
from mergefront.runs.history import (
    PICKS,
    SAMPLER,
    estimates_of,
    evaluations,
    flat,
    in_tokens,
    reference_point,
)
from mergefront.runs.history import told as race_told
from mergefront.runs.members import believed, non_dominated, picks, points_of
from mergefront.runs.units import of_objective, paired_units, units_of
from mergefront.stats import pareto


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
    interval = stats.hypervolume_interval(scores, clusters, [reference[n] for n in names])
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


BEATS, TRADES, UNRESOLVED, WORSE = (
    "beats the receiver",
    "gains, but loses beyond the guard",
    "not resolved",
    "worse",
)

OVER_THE_FRONT, ALONE = "gain holds over the whole front", "gain holds for this member alone"
_SIGNIFICANT = 0.05

Gain = dict[str, Any]


def paired_gains(
    mine: Sequence[ItemRecord], receiver: Sequence[ItemRecord], objectives: Sequence[str]
) -> dict[str, Gain]:
    """Objective -> the gain over the receiver on the items that both answered.

    Raises:
        ValueError: an objective on which the two have no item in common.
    """
    gains = {}
    for name in objectives:
        a, b, clusters = paired_units(of_objective(mine, name), of_objective(receiver, name))
        found = stats.compare(a, b, clusters)
        gains[name] = {
            "mean": found.difference.mean,
            "low": found.difference.low,
            "high": found.difference.high,
            "p": found.p,
            "test": found.test,
            "discordance": found.discordance,
        }
    return gains


def adjust(gains: Sequence[Mapping[str, Gain]], objective: str) -> None:
    """Add p_holm to the gains on one objective of all models that were tested together."""
    adjusted = stats.holm([gain[objective]["p"] for gain in gains])
    for gain, p in zip(gains, adjusted, strict=True):
        gain[objective]["p_holm"] = p


def verdict(gain: Mapping[str, Mapping[str, Any]], config: RunConfig) -> str:
    """One of BEATS, TRADES, UNRESOLVED, WORSE, from gains by objective."""
    first = next(iter(config.objectives))
    kept = all(gain[name]["mean"] >= -guard for name, guard in config.guards.items())
    if gain[first]["low"] > 0:
        return BEATS if kept else TRADES
    lost = any(gain[name]["high"] < 0 for name in (first, *config.guards))
    gained = any(gain[name]["low"] > 0 for name in config.guards)
    return WORSE if lost and not gained else UNRESOLVED


def holds(gain: Mapping[str, Mapping[str, Any]], first: str) -> str:
    """How far a gain on the first objective carries; empty where there is none.

    OVER_THE_FRONT: its Holm-adjusted p is at most 0.05, so it stands although several members were
    looked at. ALONE: only its own interval lies above zero.
    """
    if gain[first]["low"] <= 0:
        return ""
    return OVER_THE_FRONT if gain[first]["p_holm"] <= _SIGNIFICANT else ALONE


def answers(records: Sequence[ItemRecord]) -> dict[str, dict[str, float]]:
    """Objective -> how its items were answered: shares without an answer that could be read and
    cut off at their limit, and mean tokens of an answer."""
    found = {}
    for name in dict.fromkeys(record.objective for record in records):
        rows = of_objective(records, name)
        found[name] = {
            "no_answer": float(np.mean([r.status in ("no_answer", "parse_error") for r in rows])),
            "truncated": float(np.mean([r.status == "truncated" for r in rows])),
            "tokens": float(np.mean([r.tokens for r in rows])),
        }
    return found


def overlap(
    read_before: Sequence[ItemRecord], reported: Sequence[ItemRecord]
) -> dict[str, dict[str, int]]:
    """Objective -> how many of n reported items were read before; those without are left out.

    Read under any objective: an item searched on under one leaks into all.
    """
    seen = {(record.task, record.item) for record in read_before}
    found = {}
    for name in dict.fromkeys(record.objective for record in reported):
        rows = of_objective(reported, name)
        shared = sum((r.task, r.item) in seen for r in rows)
        if shared:
            found[name] = {"shared": shared, "n": len(rows)}
    return found


def shared_items(receiver: Mapping[Split, Sequence[ItemRecord]]) -> dict[str, Any]:
    """Reported split -> split that it has items in common with -> objective -> how many."""
    return {
        "validation": {"search": overlap(receiver["search"], receiver["validation"])},
        "test": {
            "search": overlap(receiver["search"], receiver["test"]),
            "validation": overlap(receiver["validation"], receiver["test"]),
        },
    }


def overlap_warnings(
    shared: Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]],
) -> list[str]:
    """What a reader must know before any number."""
    searched = [
        f"NOT INDEPENDENT: {one['shared']} of {one['n']} {split} items of {objective} were also "
        "searched on (items.reuse_search_items); scores on them flatter the candidates, and their "
        "intervals do not say by how much."
        for split, with_others in shared.items()
        for objective, one in with_others["search"].items()
    ]
    twice = [
        f"NOT INDEPENDENT: {one['shared']} of {one['n']} test items of {objective} are validation "
        "items too, so that the two sets say the same twice."
        for objective, one in shared["test"]["validation"].items()
    ]
    return searched + twice


def seen_blind(
    gain: Mapping[str, Gain], blind_gain: Mapping[str, Gain] | None, label: str
) -> list[str]:
    """A sentence for each gain that is there without images too."""
    words = []
    for name, blind in (blind_gain or {}).items():
        if gain[name]["low"] > 0 and blind["low"] > 0:
            words.append(
                f"{label} gains {100 * blind['mean']:+.1f} points "
                f"[{100 * blind['low']:+.1f}, {100 * blind['high']:+.1f}] of {name} without images "
                f"too ({100 * gain[name]['mean']:+.1f} with them): that much does not come from "
                "seeing."
            )
    return words
