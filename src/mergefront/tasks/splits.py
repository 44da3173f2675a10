"""Order and division of items: independent of row order, nested, stratified, clusters whole.

The hash u = sha256(salt, cluster), as a number in [0, 1), alone decides a cluster's split. So new
rows in a dataset move no other row to another split, and a cluster that two tasks with one salt
share is in the same split of both. Within a split, the items of a stratum stand in the order of
sha256(salt, task, id). Strata are interleaved in proportion, so that every prefix is stratified and
a larger number of items only appends. Items of one unit stay together.

Leaks in spite of whole clusters (a picture in two tasks, a question twice) belong to `duplicates`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from mergefront.errors import UserError
from mergefront.records import SPLITS, Item, Split

SPLIT_VERSION = 1
"""Raised whenever the same rows can be divided in another way; recorded with every run."""

SHARES = (0.25, 0.35, 0.40)
"""Expected shares of search, validation and test items, where a task has no split column."""


def unit_hash(*parts: str) -> float:
    """Return a number in [0, 1) that depends on the parts alone."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def by_hash(items: Sequence[Item], salt: str) -> dict[Split, list[Item]]:
    """Divide items by the hash of their cluster, in SHARES; each salt gives its own division."""
    search_share, validation_share, _ = SHARES
    parts: dict[Split, list[Item]] = {split: [] for split in SPLITS}
    for item in items:
        u = unit_hash(salt, "split", item.cluster)
        in_test = u >= search_share + validation_share
        parts["search" if u < search_share else "test" if in_test else "validation"].append(item)
    return parts


def by_column(items: Sequence[Item], declared: Sequence[Split]) -> dict[Split, list[Item]]:
    """Divide items as a column of the data says.

    Raises:
        UserError: items of one cluster are in two splits; names the cluster.
    """
    parts: dict[Split, list[Item]] = {split: [] for split in SPLITS}
    cluster_splits: dict[str, Split] = {}
    for item, split in zip(items, declared, strict=True):
        first_split = cluster_splits.setdefault(item.cluster, split)
        if first_split != split:
            raise UserError(
                f"task {item.task}: the cluster {item.cluster!r} is in two splits, {first_split} "
                f"and {split} (item {item.id})",
                hint="questions that share images must be in one split: set fields.cluster and "
                "mend the split column, or leave fields.split out",
            )
        parts[split].append(item)
    return parts


def stratified_order(items: Sequence[Item], salt: str) -> list[Item]:
    """Order items so that every prefix has the strata's shares, within one item each.

    Items of a unit follow one another, in the order of their ids, in the stratum of the first.
    """
    units: dict[str, list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: item.id):
        units[f"unit {item.unit}" if item.unit else item.id].append(item)
    strata: dict[str, list[tuple[float, str, list[Item]]]] = defaultdict(list)
    for key, unit in units.items():
        strata[unit[0].stratum].append((unit_hash(salt, unit[0].task, key), key, unit))
    keyed_units = []
    for name in sorted(strata):
        offset = unit_hash(salt, "stratum", name)
        for rank, (_, key, unit) in enumerate(sorted(strata[name], key=lambda entry: entry[:2])):
            keyed_units.append((((rank + offset) / len(strata[name]), name, key), unit))
    keyed_units.sort(key=lambda entry: entry[0])
    return [item for _, unit in keyed_units for item in unit]


def with_borrowed_items(parts: Mapping[Split, Sequence[Item]]) -> dict[Split, list[Item]]:
    """Append to each split the items of the others, from their far ends.

    This is for sets too small to be divided (`items.reuse_search_items`). As long as no split gives
    more items than its own, splits stay disjoint.
    """
    lenders: Mapping[Split, tuple[Split, Split]] = {
        "search": ("validation", "test"),
        "validation": ("test", "search"),
        "test": ("validation", "search"),
    }
    return {
        split: [*parts[split], *(item for name in names for item in reversed(parts[name]))]
        for split, names in lenders.items()
    }


def whole_prefix(items: Sequence[Item], n: int) -> list[Item]:
    """Return at most the first n items, without a unit that the cut would break."""
    cut = min(n, len(items))
    if cut < len(items):
        while cut and items[cut].unit and items[cut].unit == items[cut - 1].unit:
            cut -= 1
    return list(items[:cut])
