"""The real thing that every arm is measured on: the zoo's receiver in a live vLLM engine.

Settings (what may be added to the receiver): one donor; two that conflict; the forgetful one. One
engine serves them all: it knows both donors, and a recipe that names one leaves the other out,
which gives the same bits as an engine that knows one (a term without a coefficient is skipped, not
added).

Items. Judge items are 4,000 of the zoo's test split for each objective, which shares no scan with
its search and validation splits. Seed k searches on its own 400 + 400 items: slice k of the search
split, from seed 6 on of the validation split (slices of an order of which every prefix is
stratified), so that no two seeds share an item; they may share scans. All arms of a seed answer
the same items.

Not here: who proposes (`peers`, `ours`), what is returned (`returned`), scores of it (`judging`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mergefront import stats
from mergefront.config import Donor, EngineConfig
from mergefront.engine import Engine, open_engine
from mergefront.merging.plan import plan_of
from mergefront.merging.recipe import Recipe
from mergefront.models.locate import ModelNames, locate_models
from mergefront.models.sources import Sources
from mergefront.records import Estimate, Item, Seconds, Split
from mergefront.space.file import SpaceSpec
from mergefront.space.space import Space
from mergefront.tasks import Pool, Task, load_task, task_path
from mergefront.tasks.item_set import pools_of
from mergefront.tasks.scoring import score_all

SETTINGS: Mapping[str, tuple[str, ...]] = {
    "one donor": ("arithmetic",),
    "two conflicting": ("arithmetic", "comparison"),
    "forgetful": ("comparison",),
}
DONORS = ("arithmetic", "comparison")
OBJECTIVES: Mapping[str, str] = {
    "reasoning": "digits_reasoning",
    "perception": "digits_perception",
}
METHOD = "task_arithmetic"

Items = Mapping[str, tuple[Item, ...]]
"""Objective -> its items."""


@dataclass(frozen=True)
class Asked:
    """Scores of one recipe by objective, in the items' order, and wall seconds of the engine."""

    scores: Mapping[str, NDArray[np.float64]]
    seconds: float


@dataclass
class Workbench:
    """Models, items and one engine for everything that a process runs."""

    search_count: int = 400
    judge_count: int = 4000
    _slices: dict[int, Items] = field(default_factory=dict)

    @cached_property
    def models(self) -> ModelNames:
        donors = {name: Donor(model=f"zoo:{name}") for name in DONORS}
        return ModelNames(receiver="zoo:vlm", base="zoo:base", donors=donors)

    @cached_property
    def sources(self) -> Sources:
        return Sources.open(locate_models(self.models))

    @cached_property
    def engine(self) -> Engine:
        settings = EngineConfig(kind="vllm", dtype="float32", threads=1)
        return open_engine(settings, self.sources.folders)

    @cached_property
    def tasks(self) -> dict[str, Task]:
        return {name: load_task(task_path(name, Path())) for name in OBJECTIVES.values()}

    @cached_property
    def _pools(self) -> dict[str, Pool]:
        return pools_of(self.tasks, dict.fromkeys(self.tasks, Path()))

    @cached_property
    def judge_items(self) -> Items:
        """The items that judge, the same for all arms and seeds."""
        n = self.judge_count
        return {o: tuple(self._pools[task].take("test", n)) for o, task in OBJECTIVES.items()}

    @cached_property
    def judge_clusters(self) -> list[list[str]]:
        """For each objective the scans' block of each judge item; draws no picture."""
        outlines = (self._pools[task].outline("test") for task in OBJECTIVES.values())
        return [[item.cluster for item in outline[: self.judge_count]] for outline in outlines]

    def search_items(self, seed: int) -> Items:
        """The items on which all arms of a seed search.

        Raises:
            ValueError: the zoo has no items left for so high a seed.
        """
        if seed not in self._slices:
            found = {o: self._slice(self._pools[task], seed) for o, task in OBJECTIVES.items()}
            self._slices[seed] = found
        return self._slices[seed]

    def _slice(self, pool: Pool, seed: int) -> tuple[Item, ...]:
        n, left = self.search_count, seed
        splits: tuple[Split, ...] = ("search", "validation")
        for split in splits:
            whole = pool.size(split) // n
            if left < whole:
                return tuple(pool.take(split, (left + 1) * n)[left * n :])
            left -= whole
        raise ValueError(f"seed {seed}: the zoo has items for {seed - left} seeds")

    def space(self, setting: str, spec: SpaceSpec) -> Space:
        """A search space over the donors of a setting."""
        return Space.build(spec, SETTINGS[setting], self.sources.groups)

    @property
    def receiver(self) -> Recipe:
        return Recipe(METHOD, self.models, {})

    def recipe(self, table: Mapping[str, Mapping[str, float]]) -> Recipe:
        """The recipe of a table donor -> group -> coefficient."""
        return Recipe(METHOD, self.models, table)

    def ask(self, recipe: Recipe, items: Items) -> Asked:
        """Build a recipe in the engine, have it answer, mark the answers."""
        began = time.perf_counter()
        self.engine.load(plan_of(recipe, self.sources))
        flat = [item for many in items.values() for item in many]
        marks = score_all(flat, self.engine.generate(flat))
        values = np.array([mark.value for mark in marks])
        ends = np.cumsum([len(many) for many in items.values()])[:-1]
        scores = dict(zip(items, np.split(values, ends), strict=True))
        return Asked(scores, time.perf_counter() - began)


def estimates(asked: Asked, items: Items) -> dict[str, Estimate]:
    """Mean by objective with its error, clustered by the scans of an item's picture."""
    return {
        name: stats.estimate(scores, [item.cluster for item in items[name]])
        for name, scores in asked.scores.items()
    }


def reference(receiver: Sequence[float]) -> tuple[float, float]:
    """The reference point, of the receiver's (reasoning, perception)."""
    return receiver[0], 0.8 * receiver[1]


def engine_seconds(seconds: Seconds) -> float:
    """What the engine spent on a candidate: building, dropping caches, answering, marking."""
    return seconds.build + seconds.reset + seconds.generate + seconds.score
