"""Items as independent units: scores paired by item and grouped by cluster, for statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mergefront.runs.directory import ItemRecord


class Units(NamedTuple):
    """What is counted: scores of N units with the cluster and the stratum of each."""

    scores: list[float]
    clusters: list[str]
    strata: list[str]


def units_of(records: Sequence[ItemRecord]) -> Units:
    """The units of one objective's records, in the order in which they first occur.

    Items that share a unit count once, with the lowest of their scores; an item without a unit
    counts by itself. Every statistic is over units, so this is the only way from records to one.
    """
    grouped: dict[tuple[str, str, bool], list[ItemRecord]] = {}
    for record in records:
        key = (record.task, record.unit or record.item, bool(record.unit))
        grouped.setdefault(key, []).append(record)
    groups = list(grouped.values())
    return Units(
        [min(record.score for record in group) for group in groups],
        [group[0].cluster for group in groups],
        [group[0].stratum for group in groups],
    )


def paired_units(
    records: Sequence[ItemRecord], other_records: Sequence[ItemRecord]
) -> tuple[list[float], list[float], list[str]]:
    """Scores of two models on the units of the items that both answered, and the clusters.

    The records are of one objective and split; either model may have more items.

    Raises:
        ValueError: the two have no item in common.
    """
    other_record = {(record.task, record.item): record for record in other_records}
    common = [record for record in records if (record.task, record.item) in other_record]
    if not common:
        raise ValueError("two models that answered no item in common cannot be compared")
    a, b = units_of(common), units_of([other_record[r.task, r.item] for r in common])
    return a.scores, b.scores, a.clusters


def of_objective(records: Sequence[ItemRecord], objective: str) -> list[ItemRecord]:
    """The records of one objective, in order."""
    return [record for record in records if record.objective == objective]
