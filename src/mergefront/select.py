"""From the search's scores to what is reported: finalists, validation, picks, test, front.json.

Three rules keep the report honest. Members are chosen and picked on search items only; the gains
that are reported come from validation items; test items are read once, for the picks, at the end.
Every opening of validation and test items is recorded in the study.

Definitions (also in docs/concepts.md): the reference point of the hypervolume is (the receiver's
score on the first objective, 0.8 x the receiver's on the others, on the same split) unless
configured. A member *beats the receiver* when the 95 % interval of its paired validation gain on
the first objective lies above zero and its mean validation loss on every other objective is at
most the guard.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from mergefront import ledger, pareto, statistics
from mergefront.config import RunConfig
from mergefront.errors import RunError
from mergefront.members import choose_finalists, picks, points_of
from mergefront.recorded import ELAPSED, RESULT, estimates_of, evaluations, reference_point
from mergefront.records import Evaluation, Split
from mergefront.rundir import RECEIVER, ItemRecord, RunDirectory, write_text
from mergefront.search import Search

BEATS, TRADES, UNRESOLVED, WORSE = (
    "beats the receiver",
    "gains, but loses beyond the guard",
    "not resolved",
    "worse",
)


@dataclass(frozen=True)
class Step:
    """Progress of the final stage: `done` of `total` models scored on `split`."""

    split: Split
    name: str
    done: int
    total: int


def finish(search: Search) -> Iterator[Step]:
    """Score finalists on validation items and picks on test items, then write front.json.

    What an earlier, killed attempt has scored is not asked again.

    Raises:
        RunError: no candidate was evaluated.
    """
    search.receiver("search")
    finished = [e for e in evaluations(search.study, search.run) if not e.failure]
    if not finished:
        raise RunError(f"{search.run.path}: no candidate was evaluated", hint="raise the budget")
    finalists = choose_finalists(finished, search.config)
    by_number = {e.number: e for e in finished}
    yield from _score(search, "validation", [by_number[n] for n in finalists])
    picked = sorted(set(picks([by_number[n] for n in finalists], search.config).values()))
    yield from _score(search, "test", [by_number[n] for n in picked])
    search.study.set_user_attr("finalists", finalists)
    write_front(search.run, search.study)


def _score(search: Search, split: Split, chosen: Sequence[Evaluation]) -> Iterator[Step]:
    asked = len(ledger.finished(search.study))
    models: list[tuple[str, Any]] = [(RECEIVER, search.receiver_recipe())]
    models += [(str(e.number), search.recipe(e.point)) for e in chosen]
    for done, (name, recipe) in enumerate(models):
        yield Step(split, name, done, len(models))
        if not search.run.read_items(name, split):
            _record_opening(search.study, split, name, asked)
            search.ask(name, recipe, split)
        elif split == "validation" and f"hashes:{name}" not in search.study.user_attrs:
            search.open_engine().load(recipe)  # killed between scoring and hashing
        else:
            continue
        if split == "validation":
            hashes = search.open_engine().parameter_hashes()
            search.study.set_user_attr(f"hashes:{name}", digest(hashes))
        search.study.set_user_attr(ELAPSED, round(search.clock.elapsed(), 3))
    yield Step(split, "", len(models), len(models))


def digest(hashes: Mapping[str, str]) -> str:
    """One sha256 for a model's parameters, from the hash of each."""
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


def _record_opening(study: optuna.Study, split: Split, name: str, candidates: int) -> None:
    """Write down who reads which split, and after how many candidates."""
    openings = list(study.user_attrs.get("openings", []))
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    opening = {"split": split, "model": name, "candidates": candidates, "time": stamp}
    study.set_user_attr("openings", [*openings, opening])


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
    """Everything that is reported about a run, as plain values (format mergefront/front@1)."""
    config = run.config
    names = list(config.objectives)
    everything = evaluations(study, run)
    finished = {e.number: e for e in everything if not e.failure}
    members = [finished[n] for n in study.user_attrs["finalists"]]
    receiver = {split: _by_objective(run.read_items(RECEIVER, split)) for split in _SPLITS}
    reference = {
        split: reference_point(config, estimates_of(run.read_items(RECEIVER, split)))
        for split in ("search", "validation")
    }
    openings = study.user_attrs.get("openings", [])
    chosen = picks(members, config)
    best = {members[i].number for i in pareto.non_dominated(points_of(members, names))}
    rows = [_member(run, study, e, chosen, e.number in best) for e in members]
    found = points_of(list(finished.values()), names)
    return {
        "format": "mergefront/front@1",
        "run": config.name,
        "objectives": names,
        "reference": reference["search"],
        "guard": config.report.guard,
        "receiver": receiver,
        "members": rows,
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
        "seconds": _seconds(everything),
        "openings": openings,
        "test_rounds": len({o["candidates"] for o in openings if o["split"] == "test"}),
        "messages": _messages(rows, names[0]),
    }


_SPLITS: tuple[Split, ...] = ("search", "validation", "test")


def _by_objective(records: Sequence[ItemRecord]) -> dict[str, Any] | None:
    return {k: asdict(v) for k, v in estimates_of(records).items()} if records else None


def _member(
    run: RunDirectory, study: optuna.Study, e: Evaluation, chosen: Mapping[str, int], best: bool
) -> dict[str, Any]:
    name = str(e.number)
    gain = paired_gain(run, name, "validation")
    test = _by_objective(run.read_items(name, "test"))
    knobs = study.get_trials(deepcopy=False)[e.number].user_attrs[RESULT]["knobs"]
    return {
        "number": e.number,
        "origin": e.origin,
        "non_dominated": best,
        "knobs": knobs,
        "search": {k: asdict(v) for k, v in e.objectives.items()},
        "validation": _by_objective(run.read_items(name, "validation")),
        "gain": gain,
        "verdict": verdict(gain, run.config),
        "picks": [pick for pick, number in chosen.items() if number == e.number],
        "test": test,
        "test_gain": paired_gain(run, name, "test") if test else None,
        "parameters_sha256": study.user_attrs.get(f"hashes:{name}"),
    }


def paired_gain(run: RunDirectory, name: str, split: Split) -> dict[str, Any]:
    """Objective -> paired difference to the receiver on a split: mean, low, high (95 %)."""
    mine, base = run.read_items(name, split), run.read_items(RECEIVER, split)
    gains = {}
    for objective in run.config.objectives:
        a = [r for r in mine if r.objective == objective]
        b = [r for r in base if r.objective == objective]
        difference = statistics.paired_difference(
            [r.score for r in a], [r.score for r in b], [r.cluster for r in a]
        )
        gains[objective] = {
            "mean": difference.mean, "low": difference.low, "high": difference.high,
        }  # fmt: skip
    return gains


def verdict(gain: Mapping[str, Mapping[str, float]], config: RunConfig) -> str:
    """One of BEATS, TRADES, UNRESOLVED, WORSE, from paired gains by objective."""
    first, *others = config.objectives
    kept = all(gain[name]["mean"] >= -config.report.guard for name in others)
    if gain[first]["low"] > 0:
        return BEATS if kept else TRADES
    lost = any(gain[name]["high"] < 0 for name in config.objectives)
    gained = any(gain[name]["low"] > 0 for name in others)
    return WORSE if lost and not gained else UNRESOLVED


def _validated_hypervolume(
    run: RunDirectory, members: Sequence[Evaluation], reference: Mapping[str, float]
) -> dict[str, float]:
    names = list(run.config.objectives)
    scores, clusters = [], []
    for name in names:
        per_member = [
            [r for r in run.read_items(str(e.number), "validation") if r.objective == name]
            for e in members
        ]
        scores.append(np.array([[r.score for r in rows] for rows in per_member]))
        clusters.append([r.cluster for r in per_member[0]])
    interval = statistics.hypervolume_interval(scores, clusters, [reference[n] for n in names])
    return {"value": interval.mean, "low": interval.low, "high": interval.high}


def _seconds(found: Sequence[Evaluation]) -> dict[str, float]:
    """Mean wall seconds of a candidate by phase."""
    timed = [asdict(e.seconds) for e in found if e.seconds.total > 0]
    if not timed:
        return {}
    return {key: float(np.mean([t[key] for t in timed])) for key in timed[0]}


def _messages(rows: Sequence[Mapping[str, Any]], first: str) -> list[str]:
    winners = [row["number"] for row in rows if row["verdict"] == BEATS]
    if winners:
        return [
            f"{len(winners)} of {len(rows)} members beat the receiver on validation items: "
            f"their {first} gain is above zero and their losses stay within the guard. (Each "
            "interval holds by itself; they are not adjusted for there being several.)"
        ]
    trades = [row["number"] for row in rows if row["verdict"] == TRADES]
    if trades:
        return [
            f"No member beats the receiver: {len(trades)} gain {first}, but lose more than the "
            "guard on another objective."
        ]
    return ["Nothing beats the receiver: no member's gain is resolved from zero."]


def resolve_pick(front: Mapping[str, Any], pick: str, where: Path) -> int:
    """A pick (knee, best:OBJECTIVE, or a number) -> candidate number. Raises RunError."""
    for member in front["members"]:
        if pick in member["picks"]:
            return int(member["number"])
    if pick.isdigit() and int(pick) < front["candidates"]:
        return int(pick)
    legal = ["knee", *(f"best:{name}" for name in front["objectives"])]
    raise RunError(
        f"{where}: there is no pick {pick!r}",
        hint=f"use {', '.join(legal)} or a candidate's number below {front['candidates']}",
    )
