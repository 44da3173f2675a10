"""A made-up finished run for plots, report and tracking: candidates and their front.json.

Scores are made up; the race, the model and the choice of members are the real ones.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np

from mergefront.config import RacingConfig
from mergefront.records import Estimate, Evaluation, Item, Raced, Seconds
from mergefront.runs.belief import Belief, fit_belief
from mergefront.runs.directory import ItemRecord
from mergefront.runs.gains import Gain
from mergefront.runs.history import race_summary
from mergefront.sampling import Problem
from mergefront.sampling.cma import ComoCmaProposer
from mergefront.sampling.replay import Tell
from mergefront.search.race import Race
from mergefront.stats import estimate, mcnemar, paired_difference
from mergefront.stats.pareto import hypervolume, knee

OBJECTIVES = ("reasoning", "perception")
KNOBS = [f"{d}.{p}.k{i}" for d in ("arithmetic", "comparison") for p in "am" for i in range(3)]
REFERENCE = {"reasoning": 0.26, "perception": 0.744}
N_SEARCH, N_VALIDATION = 300, 1000
ANSWERED = {"no_answer": 0.013, "truncated": 0.04, "tokens": 2.5}


def abilities(point: tuple[float, ...]) -> dict[str, float]:
    """True accuracies: reasoning gains along the donors, perception suffers far from zero."""
    x = np.array(point)
    gain = 1 - np.mean((x - np.linspace(0.8, 0.4, len(x))) ** 2) / 0.4
    return {
        "reasoning": float(np.clip(0.26 + 0.5 * gain, 0.2, 0.95)),
        "perception": float(np.clip(0.94 - 0.35 * np.mean(x**2) ** 1.5, 0.3, 0.98)),
    }


def scores(point: tuple[float, ...], split: int, n: int) -> dict[str, Any]:
    """Item scores 0 or 1, the same latent items for every candidate."""
    drawn = {}
    for column, (name, ability) in enumerate(abilities(point).items()):
        items = np.random.default_rng([split, column]).random(n)
        own = np.random.default_rng([split, column, int(1e6 * sum(point))]).random(n)
        drawn[name] = (0.7 * items + 0.3 * own < ability).astype(float)
    return drawn


def estimates(point: tuple[float, ...], split: int, n: int) -> dict[str, Estimate]:
    return {k: estimate(v, range(n)) for k, v in scores(point, split, n).items()}


@cache
def candidates(count: int = 60) -> list[Evaluation]:
    """A search of `count` candidates by como-cma; number 7 failed."""
    return _searched(count, RacingConfig(enabled=False))


@cache
def raced_candidates(count: int = 64) -> list[Evaluation]:
    """The like with a race that is lost early and often."""
    return _searched(count, RacingConfig(full_first=10, full_every=4))


def _searched(count: int, settings: RacingConfig) -> list[Evaluation]:
    proposer = ComoCmaProposer(
        Problem(
            dimension=len(KNOBS), seed=0, start=[0.5] * len(KNOBS), n_objectives=2,
            reference=tuple(REFERENCE.values()),
        )
    )  # fmt: skip
    items = {
        name: [Item(str(i), name, "", (), ("",), str(i)) for i in range(N_SEARCH)]
        for name in OBJECTIVES
    }
    race = Race(settings, items, REFERENCE, seed=0)
    tells: list[Tell] = []
    found = []
    for number in range(count):
        warm = number < 4
        point = (0.25 * number,) * len(KNOBS) if warm else tuple(proposer.propose(tells, number))
        origin = ("receiver", "uniform 0.25", "uniform 0.5", "uniform 0.75")[number] if warm else ""
        if number == 7:
            failed = Evaluation(number, point, "como-cma", {}, failure="engine said no")
            race.learn(failed, [])
            found.append(failed)
            tells.append(Tell(number, point, None, True))
            continue
        e, records = _raced(race, number, point, origin)
        race.learn(e, records)
        found.append(e)
        tells.append(Tell(number, point, tuple(v.mean for v in e.objectives.values()), not warm))
    return found


def _raced(
    race: Race, number: int, point: tuple[float, ...], origin: str
) -> tuple[Evaluation, list[ItemRecord]]:
    """Answer rung by rung, as the search does."""
    drawn = scores(point, 0, N_SEARCH)
    records: list[ItemRecord] = []
    verdict, to_the_end = "", bool(origin) or race.answers_all(number)
    for rung, asked in enumerate(race.rungs):
        for name, mine in asked.items():
            records += [
                ItemRecord(
                    "search", name, name, one.id, one.cluster, rung, drawn[name][int(one.id)],
                    "", "ok", 1, "",
                )
                for one in mine
            ]  # fmt: skip
        found = race.estimate(records)
        if rung < len(race.rungs) - 1 and not verdict:
            verdict = race.verdict(point, found)
        if verdict and not to_the_end:
            break
    raced = Raced(rung + 1, *(("", verdict) if to_the_end else (verdict, "")))
    share = len(records) / (len(OBJECTIVES) * N_SEARCH)
    seconds = Seconds(0.05, 0.01, 0.0, 1.9 * share, 0.02, 0.03)
    return Evaluation(number, point, origin or "como-cma", found, seconds, raced=raced), records


def belief_of(found: list[Evaluation]) -> Belief:
    return fit_belief(found, OBJECTIVES, REFERENCE)


def believed_of(found: list[Evaluation]) -> dict[int, dict[str, Estimate]]:
    """What the model believes of every candidate; empty where it does not choose."""
    belief = belief_of(found)
    return (
        {number: belief.estimates(number) for number in belief.numbers} if belief.by_model else {}
    )


def front_json(found: list[Evaluation]) -> dict[str, Any]:
    """front.json of the made-up run, in the shape that front.py writes."""
    done = {e.number: e for e in found if not e.failure}
    values = np.array([[e.objectives[name].mean for name in OBJECTIVES] for e in done.values()])
    belief = belief_of(found)
    members = [done[number] for number in belief.front][:8]
    points = belief.front_KM[:8]
    picks = {members[knee(points)].number: ["knee"]}
    for column, name in enumerate(OBJECTIVES):
        number = members[int(points[:, column].argmax())].number
        picks.setdefault(number, []).append(f"best:{name}")
    receiver = (0.0,) * len(KNOBS)
    return {
        "format": "mergefront/front@1",
        "run": "digits",
        "sampler": "como-cma",
        "objectives": list(OBJECTIVES),
        "reference": REFERENCE,
        "guard": 0.02,
        "guards": {"perception": 0.02},
        "costs": {},
        "openings": [],
        "test_rounds": 1,
        "warnings": [],
        "receiver_answers": {name: dict(ANSWERED) for name in OBJECTIVES},
        "receiver_blind": {"perception": Estimate(0.21, 0.02, 400).to_dict()},
        "receiver": {
            "search": _plain(estimates(receiver, 0, N_SEARCH)),
            "validation": _plain(estimates(receiver, 1, N_VALIDATION)),
            "test": _plain(estimates(receiver, 2, N_VALIDATION)),
        },
        "members": [_member(e, picks.get(e.number, []), belief) for e in members],
        "belief": {
            "by_model": belief.by_model,
            "why": belief.why_scores_choose,
            "front": list(belief.front),
            "calibration": {name: asdict(one) for name, one in belief.calibration.items()},
        },
        "race": race.to_dict() if (race := race_summary(found)) else {},
        "hypervolume": {
            "search": hypervolume(values, list(REFERENCE.values())),
            "validation": {"value": 0.071, "low": 0.06, "high": 0.08, "reference": REFERENCE},
        },
        "candidates": len(found),
        "failed": len(found) - len(done),
        "items": {
            "search": N_SEARCH,
            "validation": N_VALIDATION,
            "test": N_VALIDATION,
            "reuse_search_items": False,
        },
        "overlap": {},
        "seconds": {"build": 0.05, "reset": 0.01, "generate": 1.9, "score": 0.02, "record": 0.03},
        "messages": [f"{len(members)} of {len(members)} members beat the receiver."],
    }


def _plain(found: dict[str, Estimate]) -> dict[str, Any]:
    return {name: one.to_dict() for name, one in found.items()}


def _gain(point: tuple[float, ...], split: int) -> dict[str, Any]:
    mine = scores(point, split, N_VALIDATION)
    base = scores((0.0,) * len(KNOBS), split, N_VALIDATION)
    gains = {}
    for name in OBJECTIVES:
        d = paired_difference(mine[name], base[name], range(N_VALIDATION))
        p = mcnemar(mine[name], base[name])
        gain = Gain(d.mean, d.low, d.high, p, "mcnemar", 0.1, p_holm=p)
        gains[name] = gain.to_dict()
    return gains


def _blind() -> dict[str, Any]:
    return {
        "scores": {"perception": Estimate(0.25, 0.02, 400).to_dict()},
        "gain": {"perception": Gain(0.04, -0.01, 0.09, 0.12, "mcnemar", 0.1).to_dict()},
    }


def _member(e: Evaluation, picks: list[str], belief: Belief) -> dict[str, Any]:
    gain = _gain(e.point, 1)
    kept = gain["perception"]["mean"] >= -0.02
    better = gain["reasoning"]["low"] > 0
    return {
        "number": e.number,
        "parameters_sha256": None,
        "non_dominated": True,
        "origin": e.origin,
        "knobs": dict(zip(KNOBS, e.point, strict=True)),
        "search": _plain(dict(e.objectives)),
        "believed": _plain(belief.estimates(e.number)),
        "validation": _plain(estimates(e.point, 1, N_VALIDATION)),
        "gain": gain,
        "verdict": "beats the receiver" if better and kept else "not resolved",
        "holds": "gain holds over the whole front" if better else "",
        "answers": {name: dict(ANSWERED) for name in OBJECTIVES},
        "blind": _blind() if picks else None,
        "picks": picks,
        "test": _plain(estimates(e.point, 2, N_VALIDATION)) if picks else None,
        "test_gain": _gain(e.point, 2) if picks else None,
    }
