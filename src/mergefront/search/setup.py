"""Everything that can be wrong with what the user gave is found here, before an engine starts.

`prepare_search` makes a `PreparedSearch` of a run's configuration: models are located, opened and
paired, the space is laid over them, items are loaded, the run directory and the study are created
or resumed, and warm starts are queued. Not here: the engine and the loop (`loop`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import optuna

from mergefront import files
from mergefront.config import RunConfig
from mergefront.engine import activations
from mergefront.engine.activations import Progress
from mergefront.errors import RunError, SpaceError
from mergefront.merging.plan import Plan, plan_of
from mergefront.merging.recipe import Recipe
from mergefront.models import lineage
from mergefront.models.locate import ModelNames
from mergefront.models.sources import Sources
from mergefront.runs.directory import RunDirectory
from mergefront.runs.earlier import read_earlier
from mergefront.runs.history import open_study, spent_seconds
from mergefront.runs.reopen import lay_out, models_of
from mergefront.search.clock import Clock
from mergefront.search.warm_starts import Start, enqueue, moved_groups, warm_points
from mergefront.space import budget
from mergefront.space.file import SpaceSpec, load_space
from mergefront.space.space import Space
from mergefront.tasks import ItemSet, item_set
from mergefront.yaml_file import differences

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedSearch:
    """A run with all that it needs checked and open, except an engine.

    A context manager: at its end other processes may have the run.
    """

    run: RunDirectory
    models: ModelNames
    space: Space
    items: ItemSet
    sources: Sources
    study: optuna.Study
    clock: Clock
    lock: ExitStack

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes have the run; closing twice is allowed."""
        self.lock.close()

    @property
    def config(self) -> RunConfig:
        """The run's configuration."""
        return self.run.config

    def recipe(self, point: Sequence[float]) -> Recipe:
        """Return the recipe of a point in [0, 1]^D."""
        return self.space.recipe(self.models, point)

    def plan(self, point: Sequence[float]) -> Plan:
        """Return what a candidate at a point in [0, 1]^D does with every group."""
        return plan_of(self.recipe(point), self.sources)

    def receiver_plan(self) -> Plan:
        """Return the plan of the receiver itself: every coefficient at identity."""
        spec = self.space.spec
        return plan_of(Recipe(spec.method, self.models, {}, spec.start_parameters), self.sources)


def prepare_search(
    config: RunConfig, runs: Path, progress: Progress = lambda count, total: None
) -> PreparedSearch:
    """Check everything that a run needs, then create or resume its directory and study.

    No engine is started, but for the warm start `activations` of a new run: the receiver is loaded
    in transformers, closed again, and `progress` is told how far it is. `runs` holds run
    directories.

    Raises:
        UserError: any of the many things that can be wrong with what the user gave.
    """
    started = time.monotonic()
    spec = load_space(files.find_yaml("search_spaces", config.space))
    space, sources = lay_out(config, spec)
    resumed = (runs / config.name / "manifest.json").is_file()
    if not resumed:  # a run that exists is never refused for its budget
        check_budget(space, config.budget.candidates)
    items = item_set(config.objective_tasks, config.items, Path())
    sources.check_finite()
    for finding in lineage.check_lineage(sources):
        logger.warning("%s; %s", finding.message, finding.hint)
    hashes = sources.file_hashes()
    if not resumed:  # what is refused so far leaves no directory
        read_earlier(config.search.transfer, space, sources)
    run = RunDirectory.create_or_resume(runs, config)
    with ExitStack() as until_checked:
        until_checked.callback(run.lock())
        if resumed:
            check_same_space(run, space.spec)
        run.check_manifest({
            "sources": hashes,
            "items": items.card(),
            "space": space.spec.model_dump(mode="json"),
        })  # fmt: skip
        run.keep_config()
        study = open_study(run, create=True)
        clock = Clock(config.budget.hours, spent_seconds(study, run), started)
        until_checked.callback(clock.keep(run.elapsed))
        lock = until_checked.pop_all()

    def warm_starts() -> list[Start]:
        earlier = read_earlier(config.search.transfer, space, sources)
        return warm_points(space, config.search.warm_start, sources, earlier, measure)

    def measure() -> activations.Changes:
        search_items, groups = items.items["search"], moved_groups(space)
        return activations.measure(config.engine, sources, groups, search_items, progress)

    enqueue(study, warm_starts, space)
    return PreparedSearch(run, models_of(config), space, items, sources, study, clock, lock)


def measure_activations(
    config: RunConfig, progress: Progress = lambda count, total: None
) -> tuple[activations.Changes, Sources]:
    """Measure what the warm start `activations` is made of, without a run; and the models.

    Raises:
        UserError: what the user gave cannot be used, or a donor has no base.
        EngineError: transformers cannot load the receiver, or take its activations.
    """
    space, sources = lay_out(config, load_space(files.find_yaml("search_spaces", config.space)))
    items = item_set(config.objective_tasks, config.items, Path()).items["search"]
    groups = moved_groups(space)
    return activations.measure(config.engine, sources, groups, items, progress), sources


def check_budget(space: Space, candidates: int) -> None:
    """Warn where a new run has few candidates for its space.

    Raises:
        SpaceError: it has so few that nothing can be learned; the hint names spaces that suit.
    """
    doubt = budget.judge_budget(space, candidates)
    if doubt is not None and doubt.level == "error":
        raise SpaceError(f"the budget does not suit the space: {doubt.message}", hint=doubt.hint)
    if doubt is not None:
        logger.warning("%s; %s", doubt.message, doubt.hint)


def check_same_space(run: RunDirectory, spec: SpaceSpec) -> None:
    """Refuse to go on with a study that was made by another space.

    Raises:
        RunError: the message names every field that differs.
    """
    recorded = SpaceSpec.model_validate(run.manifest()["space"]).model_dump(mode="json")
    changes = differences(recorded, spec.model_dump(mode="json"))
    if changes:
        raise RunError(
            f"{run.path} was searched in another space than {run.config.space} is now: "
            f"{'; '.join(changes)}",
            hint="restore the space file, or start a new run under another name; with "
            f"search.transfer: [{run.path}] it begins with this run's front",
        )
