"""What a search costs before it is begun: groups and their sizes, questions, time.

Every figure is computed from the configuration and the models' headers; what is assumed is a
named constant here and is printed with the result. Not here: `memory`.

Reading order: `groups_of`, `questions`, `duration`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mergefront.config import BLIND_ITEMS, RunConfig
from mergefront.errors import PairingError
from mergefront.jobs.plan.backbone import Backbone
from mergefront.jobs.plan.facts import ModelFacts
from mergefront.models.anatomy import dissect, group_name, language_groups
from mergefront.records import PARTS, Group, Part

ASSUMED_LAYERS: Final = 32
MARGIN: Final = 1.2
"""The search keeps a fifth more time for validation and test than candidates so far suggest."""


@dataclass(frozen=True)
class Stack:
    """The language groups of a receiver, and the number of values in each.

    `source`: headers (exact), config (from its sizes, for a dense gated transformer) or assumed
    (nothing known but that there are layers; values are None).
    """

    groups: tuple[Group, ...]
    values: Mapping[str, int] | None
    source: str


def groups_of(receiver: ModelFacts, backbone: Backbone | None) -> Stack:
    """The receiver's language groups as well as they are known."""
    found = receiver.checkpoint
    if found is not None and not receiver.broken:
        try:
            made = language_groups(dissect(found), found)
        except (PairingError, OSError):
            made = ()
        if made:
            values = {
                group.name: sum(math.prod(found.headers[name].shape) for name in group.tensors)
                for group in made
            }
            return Stack(made, values, "headers")
    known = backbone is not None and backbone.layers is not None
    layers = backbone.layers if known and backbone else ASSUMED_LAYERS
    names: list[tuple[int | None, Part]] = [(None, "embedding")]
    names += [(layer, part) for layer in range(layers or 0) for part in PARTS[:3]]
    names += [(None, "norm"), (None, "head")]
    made = tuple(Group(group_name(layer, part), layer, part, (), "BF16") for layer, part in names)
    sizes = _sizes(backbone) if known and backbone else None
    if sizes is None:
        return Stack(made, None, "config" if known else "assumed")
    return Stack(made, {group.name: sizes[_kind(group)] for group in made}, "config")


def _kind(group: Group) -> str:
    return "final" if group.layer is None and group.part == "norm" else group.part


def _sizes(of: Backbone) -> dict[str, int] | None:
    """Values by kind of group in a dense transformer with a gated MLP; None if a size is unknown.

    Biases and norms of queries and keys are left out: thousandths.
    """
    h, f, n, k, d = of.hidden, of.intermediate, of.heads, of.kv_heads, of.head_dim
    if not (h and f and n and k and d and of.vocab):
        return None
    return {
        "attention": h * d * (2 * n + 2 * k),
        "mlp": 3 * h * f,
        "norm": 2 * h,
        "final": h,
        "embedding": of.vocab * h,
        "head": 0 if of.tied_head else of.vocab * h,
    }


@dataclass(frozen=True)
class Questions:
    """Questions asked of one objective on one split: items a time, times, all."""

    objective: str
    split: str
    items: int
    times: int

    @property
    def asked(self) -> int:
        return self.items * self.times


def questions(config: RunConfig) -> list[Questions]:
    """How often what is asked: at most, for candidates that equal the receiver cost nothing.

    Every candidate answers the search items, the finalists and the receiver the validation items,
    the picks (knee, guarded, best of each objective) and the receiver the test items, and without
    images ("blind") some validation items.
    """
    chosen = min(2 + len(config.objectives), config.budget.candidates) + 1
    times = {
        "search": config.budget.candidates,
        "validation": min(config.report.finalists, config.budget.candidates) + 1,
        "test": chosen,
    }
    items = {split: int(getattr(config.items, split)) for split in times}
    if config.report.blind:
        times["blind"], items["blind"] = chosen, min(items["validation"], BLIND_ITEMS)
    return [
        Questions(objective, split, items[split], count)
        for objective in config.objective_tasks
        for split, count in times.items()
    ]


@dataclass(frozen=True)
class Duration:
    """Hours by phase at `rate` seconds for 1,000 questions, and where that rate is from."""

    rate: float
    source: str
    candidate_seconds: float
    search: float
    validation: float
    test: float
    fits: int | None

    @property
    def total(self) -> float:
        return self.search + self.validation + self.test


def duration(config: RunConfig, asked: Sequence[Questions], rate: float, source: str) -> Duration:
    """Hours that the questions take; `fits`: candidates for which the budget has room."""
    phases = {"search": ("search",), "validation": ("validation", "blind"), "test": ("test",)}
    hours = {
        phase: rate * sum(q.asked for q in asked if q.split in splits) / 1000 / 3600
        for phase, splits in phases.items()
    }
    candidate = rate * sum(q.items for q in asked if q.split == "search") / 1000
    fits = None
    if config.budget.hours is not None:
        left = config.budget.hours - MARGIN * (hours["validation"] + hours["test"])
        fits = max(0, int(left * 3600 // candidate)) if candidate > 0 else None
    return Duration(rate, source, candidate, **hours, fits=fits)
