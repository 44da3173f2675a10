"""Order and division of items: independent of row order, nested, stratified, clusters whole.

A cluster's split is decided by u = sha256(salt, cluster) as a number in [0, 1) and by nothing else,
so adding rows to a dataset moves no other row to another split, and a cluster that two tasks of one
salt share is in the same split of both. Within a split items get u = sha256(salt, task, id) and
stand in its order in their stratum; strata are interleaved in proportion, so that every prefix is
stratified and asking for more items only appends. Items of one unit stay together.

What leaks although clusters are whole (a picture in two tasks, a question twice) is `duplicates`.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from mergefront.errors import UserError
from mergefront.records import SPLITS, Item, Split

SPLIT_VERSION = 1
"""Raised whenever the same rows could be divided otherwise; recorded with every run."""

SHARES = (0.25, 0.35, 0.40)
"""Expected shares of search, validation and test items, where a task has no split column."""


def unit_hash(*parts: str) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def by_hash(
    items: Sequence[Item], salt: str, shares: Sequence[float] = SHARES
) -> dict[Split, list[Item]]:
    """Divide items by the hash of their cluster.

    Args:
        salt: another salt, another division.
        shares: of search, validation and test, each from 0 to 1; they sum to 1 and are met in
            expectation, counted in clusters.

    Raises:
        ValueError: shares that are none.
    """
    searched, validated, tested = shares
    if min(shares) < 0 or not math.isclose(searched + validated + tested, 1.0):
        raise ValueError(f"shares {tuple(shares)}: expected three from 0 to 1 that sum to 1")
    out: dict[Split, list[Item]] = {split: [] for split in SPLITS}
    for item in items:
        u = unit_hash(salt, "split", item.cluster)
        before = u < searched + validated
        out["search" if u < searched else "validation" if before else "test"].append(item)
    return out


def by_column(items: Sequence[Item], declared: Sequence[Split]) -> dict[Split, list[Item]]:
    """Divide items as a column of the data says.

    Raises:
        UserError: items of one cluster are in two splits; names the cluster.
    """
    out: dict[Split, list[Item]] = {split: [] for split in SPLITS}
    homes: dict[str, Split] = {}
    for item, split in zip(items, declared, strict=True):
        home = homes.setdefault(item.cluster, split)
        if home != split:
            raise UserError(
                f"task {item.task}: the cluster {item.cluster!r} is in two splits, {home} and "
                f"{split} (item {item.id})",
                hint="questions that share images must be in one split: set fields.cluster and "
                "mend the split column, or leave fields.split out",
            )
        out[split].append(item)
    return out


def stratified_order(items: Sequence[Item], salt: str) -> list[Item]:
    """Items in an order of which every prefix has the strata's shares, within one item each.

    Items of a unit follow one another, in the order of their ids, in the stratum of the first.
    """
    units: dict[str, list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda one: one.id):
        units[f"unit {item.unit}" if item.unit else item.id].append(item)
    strata: dict[str, list[tuple[float, str, list[Item]]]] = defaultdict(list)
    for key, unit in units.items():
        strata[unit[0].stratum].append((unit_hash(salt, unit[0].task, key), key, unit))
    placed = []
    for name in sorted(strata):
        offset = unit_hash(salt, "stratum", name)
        for rank, (_, key, unit) in enumerate(sorted(strata[name], key=lambda one: one[:2])):
            placed.append(((rank + offset) / len(strata[name]), name, key, unit))
    return [item for entry in sorted(placed, key=lambda one: one[:3]) for item in entry[3]]


def reusing(parts: Mapping[Split, Sequence[Item]]) -> dict[Split, list[Item]]:
    """Splits that lend each other items: each its own first, then the others' from their far ends.

    For sets too small to be divided (`items.reuse_search_items`). Splits of which no more is taken
    than is their own stay disjoint.
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
    """The first items of an order, at most n, without a unit that the cut would break."""
    cut = min(n, len(items))
    if cut < len(items):
        while cut and items[cut].unit and items[cut].unit == items[cut - 1].unit:
            cut -= 1
    return list(items[:cut])
