"""What a member gained over the receiver on the same items, and whether it is more than luck.

Functions of item records alone; `front` puts their results into front.json. A *gain* is a paired
difference as plain values: mean, low, high (95 %), p, test, discordance, and after `adjust` p_holm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mergefront import statistics
from mergefront.config import RunConfig
from mergefront.recorded import of_objective, paired_units
from mergefront.records import Split
from mergefront.rundir import ItemRecord

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
        found = statistics.compare(a, b, clusters)
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
    adjusted = statistics.holm([gain[objective]["p"] for gain in gains])
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
