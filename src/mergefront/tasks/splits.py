"""Order and division of items: independent of row order, nested, stratified, clusters whole.

The hash u = sha256(salt, cluster), as a number in [0, 1), alone decides a cluster's split. So new
rows in a dataset move no other row to another split, and a cluster that two tasks with one salt
share is in the same split of both. Within a split, the items of a stratum stand in the order of
sha256(salt, task, id). Strata are interleaved in proportion, so that every prefix is stratified and
a larger number of items only appends. Items of one unit stay together.

Items that would leak from one split into another although every cluster is whole are dropped in two
passes over the tasks of a study, in the order of the configuration:

1. `drop_duplicates`, before tasks are divided: if an earlier cluster has the same question over the
   same pictures, the later task loses the whole cluster.
2. `drop_straddling`, after: if a picture is already in another split, with whatever question, the
   later task loses the whole cluster.

Clusters are dropped and never moved or joined, so that a split does not depend on the other tasks
of a study. Tasks that cluster by picture under one salt (the default of both) lose nothing in the
second pass: the picture decides the split in each of them.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

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


BENCHMARK_ORIGINS: Mapping[str, tuple[str, ...]] = {
    "dynamath": ("mathvista", "mathvision", "mmmu"),
    "mathvista": ("chartqa", "ai2d", "textvqa", "docvqa", "scienceqa"),
    "mmmu_pro": ("mmmu",),
    "mmstar": ("mmmu", "mathvista", "ai2d", "scienceqa"),
    "ocrbench": ("textvqa", "chartqa", "docvqa"),
}
"""Benchmark -> the benchmarks from which its authors took some of its questions."""

_MARKER = re.compile(r"<image(?:[ _]?\d+)?>", re.IGNORECASE)

_REPEATED = "the same question over the same images"

QuestionKey = tuple[tuple[str, ...], str]


@dataclass(frozen=True)
class DroppedItem:
    """An item that was dropped, `because` of a collision with an item of `other_task`.

    `other_task` is the item's own task where two of its clusters collide.
    """

    item: str
    task: str
    cluster: str
    because: str
    other_task: str


Reasons = dict[tuple[str, str], tuple[str, str]]
"""(task, cluster) -> why the cluster is dropped, and the task that it collides with."""


@lru_cache(maxsize=1 << 16)
def question_words(question: str) -> str:
    """Return a question's words, without case, spacing, punctuation and image markers."""
    text = unicodedata.normalize("NFKC", _MARKER.sub(" ", question)).casefold()
    words = "".join(" " if _is_punctuation(c) else c for c in text).split()
    return " ".join(word.strip(".") for word in words if word.strip("."))


def drop_duplicates(
    items_by_task: Mapping[str, Sequence[Item]],
    *,
    questions: Mapping[str, str] | None = None,
) -> tuple[dict[str, list[Item]], list[DroppedItem]]:
    """Drop the clusters with a question that an earlier cluster has over the same pictures.

    Return the remaining items of each task, in their order, and the dropped ones. Two items are the
    same if they have the same pictures, byte for byte, and the same words of question; without
    pictures, the same options too ("Which is correct?" alone says little). Clusters are visited
    task by task, within a task by name; repetitions within one cluster stay, for they cannot leak.
    The result does not depend on the order of rows.

    Args:
        items_by_task: task -> items, in the order of the configuration: the earlier task keeps its
            clusters. Hashes may stand for the bytes of images.
        questions: item id -> the question in the data, since two tasks may wrap one question in
            different prompts; for an item without an entry, its prompt stands for it.
    """
    texts = questions or {}

    def key(item: Item) -> QuestionKey:
        words = question_words(texts.get(item.id, item.question))
        options = () if item.images else sorted(map(question_words, item.choices))
        return _digests(item), "\n".join([words, *options])

    first_tasks: dict[QuestionKey, str] = {}
    reasons: Reasons = {}
    for task, name, cluster in _clusters(items_by_task):
        keys = {key(item) for item in cluster}
        first = next((first_tasks[k] for k in sorted(keys) if k in first_tasks), None)
        if first is None:
            first_tasks.update(dict.fromkeys(keys, task))
        else:
            reasons[task, name] = (_REPEATED, first)
    remaining = {
        task: [item for item in items if (task, item.cluster) not in reasons]
        for task, items in items_by_task.items()
    }
    return remaining, _dropped_items(items_by_task, reasons)


def drop_straddling(
    divided: Mapping[str, Mapping[Split, Sequence[Item]]],
) -> tuple[dict[str, dict[Split, list[Item]]], list[DroppedItem]]:
    """Drop the clusters with an image that is already in another split.

    Return the remaining items of each task's splits, and the dropped ones. Clusters are visited as
    in `drop_duplicates`; the first one stays.

    Args:
        divided: task -> split -> items, tasks in the order of the configuration. Hashes may stand
            for the bytes of images.
    """
    image_places: dict[str, tuple[Split, str]] = {}
    reasons: Reasons = {}
    flat = {task: [i for s in SPLITS for i in parts.get(s, ())] for task, parts in divided.items()}
    split_of = {i.id: s for parts in divided.values() for s in SPLITS for i in parts.get(s, ())}
    for task, name, cluster in _clusters(flat):
        split = split_of[cluster[0].id]
        images = sorted({digest for item in cluster for digest in _digests(item)})
        places = (image_places[image] for image in images if image in image_places)
        collision = next((place for place in places if place[0] != split), None)
        if collision is None:
            for image in images:
                image_places.setdefault(image, (split, task))
        else:
            because = f"a {split} item whose image is a {collision[0]} item's"
            reasons[task, name] = (because, collision[1])

    remaining = {
        task: {
            split: [item for item in parts.get(split, ()) if (task, item.cluster) not in reasons]
            for split in SPLITS
        }
        for task, parts in divided.items()
    }
    return remaining, _dropped_items(flat, reasons)


def drop_counts(dropped: Iterable[DroppedItem]) -> list[dict[str, str | int]]:
    """Count dropped items by task, reason and other task, for the item set's card and the log."""
    counter = Counter((item.task, item.because, item.other_task) for item in dropped)
    return [
        {"task": task, "items": n, "because": because, "other_task": other_task}
        for (task, because, other_task), n in sorted(counter.items())
    ]


def overlap_warnings(tasks: Sequence[str]) -> list[str]:
    """Return a warning for each task whose benchmark took questions from another task's.

    Nothing else notices such questions if their images have other bytes (another encoding, size or
    crop). A task belongs to the benchmark that its name begins with.
    """
    return [
        f"{task} draws on {source}: some of its questions are the same in other bytes, "
        "so gains on one are no independent evidence for the other"
        for task in tasks
        for source in tasks
        if any(
            _is_of_benchmark(source, origin)
            for origin in BENCHMARK_ORIGINS.get(_benchmark(task), ())
        )
    ]


def _is_punctuation(character: str) -> bool:
    """Return whether a character is no part of a word or number: 3.5 and 3/5 must differ."""
    if character in "-*/.%":
        return False
    return character in "$`" or unicodedata.category(character)[0] in "PZC"


def _benchmark(task: str) -> str:
    """Return the longest name of BENCHMARK_ORIGINS that a task's name is or begins with."""
    names = [name for name in BENCHMARK_ORIGINS if _is_of_benchmark(task, name)]
    return max(names, key=len, default="")


def _is_of_benchmark(task: str, benchmark: str) -> bool:
    if benchmark == "mmmu" and task.startswith("mmmu_pro"):
        return False
    return task == benchmark or task.startswith((f"{benchmark}_", f"{benchmark}-"))


def _clusters(
    items_by_task: Mapping[str, Sequence[Item]],
) -> Iterable[tuple[str, str, list[Item]]]:
    """Yield each cluster as (task, cluster, its items), by task and then by name."""
    for task, items in items_by_task.items():
        grouped: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            grouped[item.cluster].append(item)
        for name in sorted(grouped):
            yield task, name, grouped[name]


def _dropped_items(
    items_by_task: Mapping[str, Sequence[Item]], reasons: Reasons
) -> list[DroppedItem]:
    return [
        DroppedItem(item.id, item.task, item.cluster, *reasons[task, item.cluster])
        for task, items in items_by_task.items()
        for item in items
        if (task, item.cluster) in reasons
    ]


def _digests(item: Item) -> tuple[str, ...]:
    return tuple(hashlib.sha256(image).hexdigest() for image in item.images)
