"""What would leak from one split into another although every cluster is whole.

Two passes over the tasks of a study, in the order in which the configuration names them:

1. `drop_duplicates`, before tasks are divided: a question that was asked before, over the same
   pictures, is not asked again; its whole cluster goes from the later task.
2. `drop_straddling`, after: a picture that is already in another split, with whatever question,
   takes its whole cluster out of the later task.

Clusters are dropped and never moved or joined, so that a split does not depend on which other tasks
a study has. Tasks that cluster by picture under one salt (the default of both) lose nothing to the
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

from mergefront.records import SPLITS, Item, Split

DRAWN_FROM: Mapping[str, tuple[str, ...]] = {
    "dynamath": ("mathvista", "mathvision", "mmmu"),
    "mathvista": ("chartqa", "ai2d", "textvqa", "docvqa", "scienceqa"),
    "mmmu_pro": ("mmmu",),
    "mmstar": ("mmmu", "mathvista", "ai2d", "scienceqa"),
    "ocrbench": ("textvqa", "chartqa", "docvqa"),
}
"""Benchmark -> benchmarks that some of its questions were taken from, as their authors say."""

_MARKER = re.compile(r"<image(?:[ _]?\d+)?>", re.IGNORECASE)

_REPEATED = "the same question over the same images"

Key = tuple[tuple[str, ...], str]


@dataclass(frozen=True)
class Dropped:
    """An item that is not asked, `because` of what, and the task that keeps what it collides with.

    The task is the item's own where two of its clusters collide.
    """

    item: str
    task: str
    cluster: str
    because: str
    other_task: str


@dataclass(frozen=True)
class Deduplicated:
    """What is left of each task, in the tasks' and the items' order, and what went."""

    items: dict[str, list[Item]]
    dropped: list[Dropped]


@dataclass(frozen=True)
class Divided:
    """What is left of each task's splits, and what went."""

    parts: dict[str, dict[Split, list[Item]]]
    dropped: list[Dropped]


@lru_cache(maxsize=1 << 16)
def normalised(question: str) -> str:
    """A question's words alone: case, spacing, punctuation and image markers do not count."""
    text = unicodedata.normalize("NFKC", _MARKER.sub(" ", question)).casefold()
    kept = "".join(" " if _is_punctuation(c) else c for c in text)
    return " ".join(word.strip(".") for word in kept.split() if word.strip("."))


def drop_duplicates(
    items_by_task: Mapping[str, Sequence[Item]],
    *,
    questions: Mapping[str, str] | None = None,
) -> Deduplicated:
    """Leave out questions that an earlier cluster asks over the same pictures, cluster by cluster.

    Two items are the same if they have the same pictures, byte for byte, and the same words of
    question; without pictures, the same options too ("Which is correct?" alone says little).
    Clusters are visited task by task, within a task by name; repetitions within one cluster stay,
    for they cannot leak. The result does not depend on the order of rows.

    Args:
        items_by_task: task -> items, in the order of the configuration: the earlier task keeps.
            Hashes may stand for the bytes of images.
        questions: item id -> the question as the data has it, since two tasks may wrap one question
            in different prompts; an item without an entry is known by its prompt.
    """
    asked = questions or {}

    def key(item: Item) -> Key:
        words = normalised(asked.get(item.id, item.question))
        options = () if item.images else sorted(normalised(one) for one in item.choices)
        return _digests(item), "\n".join([words, *options])

    homes: dict[Key, tuple[str, str]] = {}
    gone: dict[tuple[str, str], tuple[str, str]] = {}
    for task, name, cluster in _clusters(items_by_task):
        keys = {key(item) for item in cluster}
        found = next((homes[k] for k in sorted(keys) if k in homes), None)
        if found is None:
            homes.update(dict.fromkeys(keys, (task, name)))
        else:
            gone[task, name] = found
    dropped = [
        Dropped(item.id, item.task, item.cluster, _REPEATED, gone[task, item.cluster][0])
        for task, items in items_by_task.items()
        for item in items
        if (task, item.cluster) in gone
    ]
    left = {
        task: [item for item in items if (task, item.cluster) not in gone]
        for task, items in items_by_task.items()
    }
    return Deduplicated(left, dropped)


def drop_straddling(divided: Mapping[str, Mapping[Split, Sequence[Item]]]) -> Divided:
    """Leave out clusters with an image that stands in another split already.

    Clusters are visited as in `drop_duplicates`; what was visited first stays.

    Args:
        divided: task -> split -> items, tasks in the order of the configuration. Hashes may stand
            for the bytes of images.
    """
    homes: dict[str, tuple[Split, str]] = {}
    gone: dict[tuple[str, str], tuple[str, str]] = {}
    flat = {task: [i for s in SPLITS for i in parts.get(s, ())] for task, parts in divided.items()}
    split_of = {i.id: s for parts in divided.values() for s in SPLITS for i in parts.get(s, ())}
    for task, name, cluster in _clusters(flat):
        split = split_of[cluster[0].id]
        marks = sorted({mark for item in cluster for mark in _digests(item)})
        away = next((homes[m] for m in marks if m in homes and homes[m][0] != split), None)
        if away is None:
            for mark in marks:
                homes.setdefault(mark, (split, task))
        else:
            gone[task, name] = (f"a {split} item whose image is a {away[0]} item's", away[1])

    def stays(task: str, item: Item) -> bool:
        return (task, item.cluster) not in gone

    parts = {
        task: {s: [i for i in parts.get(s, ()) if stays(task, i)] for s in SPLITS}
        for task, parts in divided.items()
    }
    dropped = [
        Dropped(i.id, i.task, i.cluster, *gone[task, i.cluster])
        for task, items in flat.items()
        for i in items
        if not stays(task, i)
    ]
    return Divided(parts, dropped)


def counts(dropped: Iterable[Dropped]) -> list[dict[str, str | int]]:
    """What was dropped, for the item set's card and the log: items by task, reason and origin."""
    found = Counter((one.task, one.because, one.other_task) for one in dropped)
    return [
        {"task": task, "items": n, "because": because, "other_task": other}
        for (task, because, other), n in sorted(found.items())
    ]


def relatives(tasks: Sequence[str]) -> list[str]:
    """A warning for each two tasks of which one draws on the other's benchmark, naming both.

    Bytes may differ (other encodings, sizes or crops), and then nothing above notices. A task
    belongs to the benchmark that its name begins with.
    """
    warnings = []
    for task in tasks:
        for other in tasks:
            if any(_belongs(other, origin) for origin in DRAWN_FROM.get(_benchmark(task), ())):
                warnings.append(
                    f"{task} draws on {other}: some of its questions are the same in other bytes, "
                    "so gains on one are no independent evidence for the other"
                )
    return warnings


def _is_punctuation(character: str) -> bool:
    """Quotes, brackets, commas, TeX's dollars: not what makes 3.5 another number than 3/5."""
    if character in "-*/.%":
        return False
    return character in "$`" or unicodedata.category(character)[0] in "PZC"


def _benchmark(task: str) -> str:
    """The longest name of DRAWN_FROM that a task's name is or begins with."""
    fitting = [name for name in DRAWN_FROM if _belongs(task, name)]
    return max(fitting, key=len, default="")


def _belongs(task: str, benchmark: str) -> bool:
    if benchmark == "mmmu" and task.startswith("mmmu_pro"):
        return False
    return task == benchmark or task.startswith((f"{benchmark}_", f"{benchmark}-"))


def _clusters(
    items_by_task: Mapping[str, Sequence[Item]],
) -> Iterable[tuple[str, str, list[Item]]]:
    """Every task's clusters: (task, cluster, its items), by task and then by name."""
    for task, items in items_by_task.items():
        grouped: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            grouped[item.cluster].append(item)
        for name in sorted(grouped):
            yield task, name, grouped[name]


def _digests(item: Item) -> tuple[str, ...]:
    return tuple(hashlib.sha256(image).hexdigest() for image in item.images)
