"""What a model gained over the receiver on the same items, and whether it is more than luck.

Functions of item records alone. Not here: which models and splits are compared (`summary`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Final

import numpy as np
from pydantic import PlainSerializer

from mergefront import stats
from mergefront.config import RunConfig, TokenCost
from mergefront.records import Split
from mergefront.runs.directory import ItemRecord
from mergefront.runs.units import of_objective, paired_units

BEATS, TRADES, UNRESOLVED, WORSE = (
    "beats the receiver",
    "gains, but loses beyond the guard",
    "not resolved",
    "worse",
)

OVER_THE_FRONT, ALONE = "gain holds over the whole front", "gain holds for this member alone"

_SIGNIFICANT: Final = 0.05


@dataclass(frozen=True)
class Gain:
    """A paired difference to the receiver: its mean, its 95 % interval, and a two-sided p.

    `test` names the test of `p`; `discordance` is the mean square of the items' differences.
    `tokens` is how many more tokens an answer has, where the objective is a cost. `p_holm` is `p`
    adjusted for all models that were tested together, on the first objective only.
    """

    mean: float
    low: float
    high: float
    p: float
    test: str
    discordance: float
    tokens: float | None = None
    p_holm: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without what the gain does not have."""
        return {name: value for name, value in asdict(self).items() if value is not None}


Gains = Mapping[str, Annotated[Gain, PlainSerializer(Gain.to_dict)]]
"""Objective -> gain."""


@dataclass(frozen=True)
class AnswerSummary:
    """How items were answered: the shares of answers that could not be read and that were cut off
    at their limit, and the mean tokens of an answer."""

    no_answer: float
    truncated: float
    tokens: float


@dataclass(frozen=True)
class SharedItems:
    """How many of `n` reported items were also used before."""

    shared: int
    n: int


Overlap = Mapping[Split, Mapping[Split, Mapping[str, SharedItems]]]
"""Reported split -> split that it has items in common with -> objective -> how many."""


def paired_gains(
    records: Sequence[ItemRecord],
    receiver: Sequence[ItemRecord],
    objectives: Sequence[str],
    costs: Mapping[str, TokenCost] | None = None,
) -> dict[str, Gain]:
    """Return the gain over the receiver by objective, on the items that both models answered.

    Raises:
        ValueError: the two models have no item of an objective in common.
    """
    gains = {}
    for name in objectives:
        scores, receiver_scores, clusters = paired_units(
            of_objective(records, name), of_objective(receiver, name)
        )
        comparison = stats.compare(scores, receiver_scores, clusters)
        difference, cost = comparison.difference, (costs or {}).get(name)
        gains[name] = Gain(
            difference.mean, difference.low, difference.high,
            comparison.p, comparison.test, comparison.discordance,
            None if cost is None else 0.0 - cost.limit * difference.mean,
        )  # fmt: skip
    return gains


def with_holm(gains: Sequence[Mapping[str, Gain]], objective: str) -> list[dict[str, Gain]]:
    """Return the gains of models that were tested together, with `p_holm` on one objective."""
    adjusted = stats.holm([model_gains[objective].p for model_gains in gains])
    return [
        {**model_gains, objective: replace(model_gains[objective], p_holm=p)}
        for model_gains, p in zip(gains, adjusted, strict=True)
    ]


def verdict(gains: Mapping[str, Gain], config: RunConfig) -> str:
    """Return one of BEATS, TRADES, UNRESOLVED and WORSE, from gains by objective."""
    first = next(iter(config.objectives))
    within_guards = all(gains[name].mean >= -guard for name, guard in config.guards.items())
    if gains[first].low > 0:
        return BEATS if within_guards else TRADES
    loss = any(gains[name].high < 0 for name in (first, *config.guards))
    other_gain = any(gains[name].low > 0 for name in config.guards)
    return WORSE if loss and not other_gain else UNRESOLVED


def scope_of(gain: Gain) -> str:
    """Return how far a gain on the first objective carries; empty where there is none.

    OVER_THE_FRONT: its Holm-adjusted p is at most 0.05, so it stands although several members were
    looked at. ALONE: only its own interval lies above zero.
    """
    if gain.low <= 0:
        return ""
    adjusted = gain.p if gain.p_holm is None else gain.p_holm
    return OVER_THE_FRONT if adjusted <= _SIGNIFICANT else ALONE


def answer_summaries(records: Sequence[ItemRecord]) -> dict[str, AnswerSummary]:
    """Return how the items of each objective were answered."""
    summaries = {}
    for name in dict.fromkeys(record.objective for record in records):
        rows = of_objective(records, name)
        summaries[name] = AnswerSummary(
            no_answer=float(np.mean([row.status in ("no_answer", "parse_error") for row in rows])),
            truncated=float(np.mean([row.status == "truncated" for row in rows])),
            tokens=float(np.mean([row.tokens for row in rows])),
        )
    return summaries


def overlap(
    earlier_records: Sequence[ItemRecord], reported_records: Sequence[ItemRecord]
) -> dict[str, SharedItems]:
    """Return how many reported items were read before, of the objectives that have such items.

    Items count whatever objective they were read under: an item that was searched on under one
    objective leaks into all.
    """
    earlier_items = {(record.task, record.item) for record in earlier_records}
    counts = {}
    for name in dict.fromkeys(record.objective for record in reported_records):
        rows = of_objective(reported_records, name)
        shared = sum((row.task, row.item) in earlier_items for row in rows)
        if shared:
            counts[name] = SharedItems(shared, len(rows))
    return counts


def overlap_of_splits(receiver: Mapping[Split, Sequence[ItemRecord]]) -> Overlap:
    """Return which items the splits share, from the receiver's records, who answers all items."""
    return {
        "validation": {"search": overlap(receiver["search"], receiver["validation"])},
        "test": {
            "search": overlap(receiver["search"], receiver["test"]),
            "validation": overlap(receiver["validation"], receiver["test"]),
        },
    }


def overlap_warnings(shared: Overlap) -> list[str]:
    """Return what a reader must know before any number."""
    searched = [
        f"NOT INDEPENDENT: {count.shared} of {count.n} {split} items of {objective} were also "
        "searched on (items.reuse_search_items); scores on them flatter the candidates, and their "
        "intervals do not say by how much."
        for split, earlier_splits in shared.items()
        for objective, count in earlier_splits["search"].items()
    ]
    validated = [
        f"NOT INDEPENDENT: {count.shared} of {count.n} test items of {objective} are validation "
        "items too, so that the two sets say the same twice."
        for objective, count in shared["test"]["validation"].items()
    ]
    return searched + validated
