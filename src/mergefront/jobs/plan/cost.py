"""What a search costs before it begins: groups and their sizes, items, questions, time.

Every figure is computed from the configuration, the models' headers and what earlier runs measured;
what is assumed is a named constant here. Not here: memory (`memory`).

Reading order: `group_sizes`, `task_sizes`, `count_questions`, `question_rate`, `estimate_duration`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Final, Literal

from mergefront import zoo
from mergefront.config import BLIND_ITEMS, RunConfig
from mergefront.errors import MergefrontError, PairingError
from mergefront.jobs.plan.backbone import Backbone
from mergefront.jobs.plan.facts import ModelFacts
from mergefront.models.anatomy import dissect, group_name, language_groups
from mergefront.records import PARTS, SPLITS, Group, Part, Split
from mergefront.runs.directory import RunDirectory
from mergefront.runs.history import evaluations, open_study
from mergefront.tasks import Task, cache, load_task, task_path
from mergefront.tasks.splits import SHARES

ASSUMED_LAYERS: Final = 32
MARGIN: Final = 1.2
"""A search keeps a fifth more time for validation and test than its candidates so far suggest."""
_MEASURED_CANDIDATES: Final = 20

SLACK: Final = 2.0
"""Standard deviations by which a split by hash may fall short of its expected size."""

Location = Literal["here", "cached", "to fetch"]
"""Where a task's questions are: in mergefront, in the cache of fetched ones, or on the hub."""

SizeSource = Literal["headers", "config", "assumed"]


@dataclass(frozen=True)
class GroupSizes:
    """The language groups of a receiver, and how many parameters each has.

    `source` says how they are known: headers (exact), config (from its sizes, for a dense gated
    transformer), or assumed (`ASSUMED_LAYERS` layers; `parameters` is None).
    """

    groups: tuple[Group, ...]
    parameters: Mapping[str, int] | None
    source: SizeSource


def group_sizes(receiver: ModelFacts, backbone: Backbone) -> GroupSizes:
    """Return the receiver's language groups as well as they are known."""
    checkpoint = receiver.checkpoint
    groups: tuple[Group, ...] = ()
    if checkpoint is not None and not receiver.broken:
        # OSError: a tensor must be read that is not on this machine
        with suppress(PairingError, OSError):
            groups = language_groups(dissect(checkpoint), checkpoint)
    if checkpoint is None or not groups:
        return _sizes_by_config(backbone)
    parameters = {
        group.name: sum(math.prod(checkpoint.headers[name].shape) for name in group.tensors)
        for group in groups
    }
    return GroupSizes(groups, parameters, "headers")


def _sizes_by_config(backbone: Backbone) -> GroupSizes:
    layers = ASSUMED_LAYERS if backbone.layers is None else backbone.layers
    names: list[tuple[int | None, Part]] = [
        (None, "embedding"),
        *product(range(layers), PARTS[:3]),
        (None, "norm"),
        (None, "head"),
    ]
    groups = tuple(Group(group_name(layer, part), layer, part, (), "BF16") for layer, part in names)
    if backbone.layers is None:
        return GroupSizes(groups, None, "assumed")
    sizes = _sizes_by_kind(backbone)
    parameters = sizes and {
        group.name: sizes["final" if group.name == "final.norm" else group.part] for group in groups
    }
    return GroupSizes(groups, parameters, "config")


def _sizes_by_kind(backbone: Backbone) -> dict[str, int] | None:
    """Count the parameters of a group, by kind, in a dense transformer with a gated MLP.

    None if a size is unknown. Biases and the norms of queries and keys are left out: they are
    thousandths.
    """
    h, f, n = backbone.hidden, backbone.intermediate, backbone.heads
    k, d, vocab = backbone.kv_heads, backbone.head_dim, backbone.vocab
    if not (h and f and n and k and d and vocab):
        return None
    return {
        "attention": h * d * (2 * n + 2 * k),
        "mlp": 3 * h * f,
        "norm": 2 * h,
        "final": h,
        "embedding": vocab * h,
        "head": 0 if backbone.tied_head else vocab * h,
    }


@dataclass(frozen=True)
class TaskSize:
    """Items of one task of one objective, by split: how many are needed, how many are available.

    `rows` is the size of the whole set. `available` is None if unknown; it is `exact` if the items
    were counted, else it is expected from `rows` and the splits' shares.
    """

    objective: str
    task: str
    rows: int | None
    needed: Mapping[Split, int]
    available: Mapping[Split, int] | None
    exact: bool
    max_tokens: int
    location: Location

    @property
    def short_splits(self) -> list[Split]:
        """Splits that have fewer items than needed, or are expected to."""
        sizes = self.available
        return [] if sizes is None else [s for s in SPLITS if sizes[s] < self.needed[s]]

    @property
    def uncertain_splits(self) -> list[Split]:
        """Splits whose expected size is enough, but that may fall short by chance."""
        sizes, rows = self.available, self.rows
        if sizes is None or self.exact or not rows:
            return []
        # A split by hash draws each row with the split's share: its size is binomial.
        slack = {s: SLACK * math.sqrt(sizes[s] * max(0.0, 1 - sizes[s] / rows)) for s in SPLITS}
        return [s for s in SPLITS if 0 <= sizes[s] - self.needed[s] < slack[s]]


def task_sizes(config: RunConfig) -> list[TaskSize]:
    """Return the sizes of all tasks; the items of an objective are shared evenly by its tasks.

    Raises:
        ConfigError: there is no such task, or its file is faulty.
    """
    sizes = []
    totals: dict[Split, int] = {split: getattr(config.items, split) for split in SPLITS}
    for objective, names in config.objective_tasks.items():
        n = len(names)
        for number, name in enumerate(names):
            task = load_task(task_path(name, Path()))
            needed = {split: total // n + (number < total % n) for split, total in totals.items()}
            size = _task_size(objective, task, needed)
            if config.items.reuse_search_items and size.rows is not None:
                size = replace(size, available=dict.fromkeys(SPLITS, size.rows))
            sizes.append(size)
    return sizes


def _task_size(objective: str, task: Task, needed: Mapping[Split, int]) -> TaskSize:
    rows, exact = task.rows, False
    available: dict[Split, int] | None = None
    if task.data.zoo is not None:
        splits = [row["split"] for row in zoo.questions(task.data.zoo)]
        rows, exact = len(splits), True
        available = {split: splits.count(split) for split in SPLITS}
    elif rows is not None and task.fields.split is None:
        available = {split: int(rows * share) for split, share in zip(SPLITS, SHARES, strict=True)}
    location: Location = "here"
    if task.data.hub is not None:
        location = "to fetch" if cache.find(task.data) is None else "cached"
    return TaskSize(objective, task.name, rows, needed, available, exact, task.max_tokens, location)


@dataclass(frozen=True)
class Questions:
    """How often the items of one objective and split are asked: `items` each of `times` times."""

    objective: str
    split: str
    items: int
    times: int

    @property
    def total(self) -> int:
        return self.items * self.times


def count_questions(config: RunConfig) -> list[Questions]:
    """Count the questions of a search, at most: candidates that equal the receiver cost nothing.

    Every candidate answers the search items, the members and the receiver the validation items,
    the picks (knee, guarded, best of each objective) and the receiver the test items and, without
    images ("blind"), some validation items.
    """
    models_tested = min(2 + len(config.objectives), config.budget.candidates) + 1
    times = {
        "search": config.budget.candidates,
        "validation": min(config.report.finalists, config.budget.candidates) + 1,
        "test": models_tested,
    }
    items = {split: int(getattr(config.items, split)) for split in times}
    if config.report.blind:
        times["blind"], items["blind"] = models_tested, min(items["validation"], BLIND_ITEMS)
    return [
        Questions(objective, split, items[split], count)
        for objective in config.objective_tasks
        for split, count in times.items()
    ]


def question_rate(
    seconds_per_1000: float | None, runs: Path | None, config: RunConfig
) -> tuple[float, str] | None:
    """Return the seconds that 1,000 questions take, and who says so; None if nobody does.

    They are given by the user, or measured by an earlier run, building and scoring included.

    An earlier run counts if it has the same receiver and engine; of the most recent one the median
    of the last candidates is taken.
    """
    if seconds_per_1000 is not None:
        return seconds_per_1000, "given"
    files = [] if runs is None else runs.glob("*/config.yaml")
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            run = RunDirectory.open(file.parent)
            if (run.config.receiver, run.config.engine) != (config.receiver, config.engine):
                continue
            timed = [e for e in evaluations(open_study(run), run) if e.seconds.generate > 0]
            sizes = run.manifest()["items"]["splits"]["search"]
        except MergefrontError:
            continue
        items = sum(int(entry["n"]) for entry in sizes.values())
        if timed and items:
            seconds = median(e.seconds.total for e in timed[-_MEASURED_CANDIDATES:])
            return 1000 * seconds / items, f"measured by run {run.config.name}"
    return None


@dataclass(frozen=True)
class Duration:
    """Hours by phase of a search at `rate` seconds for 1,000 questions.

    `affordable` is how many candidates the budget's hours are enough for, None without a limit.
    """

    rate: float
    source: str
    candidate_seconds: float
    search: float
    validation: float
    test: float
    affordable: int | None

    @property
    def total(self) -> float:
        return self.search + self.validation + self.test


def estimate_duration(
    config: RunConfig, questions: Sequence[Questions], seconds: float, source: str
) -> Duration:
    """Return the hours that the questions take at so many seconds for 1,000."""
    phases = {"search": ("search",), "validation": ("validation", "blind"), "test": ("test",)}
    hours = {
        phase: seconds * sum(q.total for q in questions if q.split in splits) / 1000 / 3600
        for phase, splits in phases.items()
    }
    candidate = seconds * sum(q.items for q in questions if q.split == "search") / 1000
    affordable = None
    if config.budget.hours is not None:
        remaining = config.budget.hours - MARGIN * (hours["validation"] + hours["test"])
        affordable = max(0, int(remaining * 3600 // candidate)) if candidate > 0 else None
    return Duration(seconds, source, candidate, **hours, affordable=affordable)
