"""Order and division of items: independent of row order, nested, stratified, clusters whole.

Every item gets u = sha256(salt, task, key) as a number in [0, 1). Within a stratum items stand in
order of u; strata are interleaved in proportion, so that every prefix is stratified and asking for
more items only appends. Adding rows to a dataset moves no other row to another split.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from mergefront.errors import UserError
from mergefront.records import SPLITS, Item, Split

SPLIT_VERSION = 1
"""Raised whenever the same rows could be divided otherwise; recorded with every run."""

_BOUNDS: Mapping[Split, tuple[float, float]] = {
    "search": (0.0, 0.25),
    "validation": (0.25, 0.6),
    "test": (0.6, 1.0),
}


def unit_hash(*parts: str) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def by_hash(items: Sequence[Item], salt: str) -> dict[Split, list[Item]]:
    """Divide items by the hash of their cluster: 25 % search, 35 % validation, 40 % test."""
    out: dict[Split, list[Item]] = {split: [] for split in SPLITS}
    for item in items:
        u = unit_hash(salt, "split", item.cluster)
        split = next(s for s in SPLITS if _BOUNDS[s][0] <= u < _BOUNDS[s][1])
        out[split].append(item)
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
    """Items in an order of which every prefix has the strata's shares, within one item each."""
    strata: dict[str, list[tuple[float, Item]]] = defaultdict(list)
    for item in items:
        strata[item.stratum].append((unit_hash(salt, item.task, item.id), item))
    placed = []
    for name in sorted(strata):
        ranked = sorted(strata[name], key=lambda pair: (pair[0], pair[1].id))
        offset = unit_hash(salt, "stratum", name)
        for rank, (_, item) in enumerate(ranked):
            placed.append(((rank + offset) / len(ranked), name, item.id, item))
    return [entry[3] for entry in sorted(placed, key=lambda entry: entry[:3])]
