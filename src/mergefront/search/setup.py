"""Everything that can go wrong with what the user gave goes wrong here, before an engine starts.

A run's configuration -> models located, opened and paired, space laid over them, items loaded, run
directory and study created or resumed, warm starts queued.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mergefront import files
from mergefront.config import RunConfig
from mergefront.engine import activations
from mergefront.engine.activations import Progress
from mergefront.errors import RunError, SpaceError
from mergefront.models import lineage
from mergefront.models.sources import Sources
from mergefront.runs import earlier as transfer
from mergefront.runs.directory import RunDirectory
from mergefront.runs.history import open_study, spent_seconds
from mergefront.runs.reopen import lay_out, models_of
from mergefront.search import warm_starts as warm
from mergefront.search.loop import Search
from mergefront.search.stopping import Clock
from mergefront.space.budget import doubt
from mergefront.space.file import SpaceSpec, load_space
from mergefront.space.space import Space
from mergefront.tasks import item_set
from mergefront.yaml_file import differences

logger = logging.getLogger(__name__)


def assemble(
    config: RunConfig, runs: Path, progress: Progress = lambda done, total: None
) -> Search:
    """Check everything that a run needs, then create or resume its directory and study.

    No engine is started, but for the warm start `activations` of a new run: the receiver is loaded
    in transformers, told about by `progress`, and closed. `runs` holds run directories.

    Raises:
        UserError: any of the many things that can be wrong with what the user gave.
    """
    spec = load_space(files.find_yaml("search_spaces", config.space))
    space, sources = lay_out(config, spec)
    started = (runs / config.name / "manifest.json").is_file()
    if not started:  # a run that exists is never refused for its budget
        check_budget(space, config.budget.candidates)
    items = item_set(config.asked, config.items, Path())
    sources.check_finite()
    for finding in lineage.check(sources):
        logger.warning("%s; %s", finding.message, finding.hint)
    hashes = sources.file_hashes()
    if not started:  # what is refused so far leaves no directory
        transfer.read_earlier(config.search.transfer, space, sources)
    run = RunDirectory.create_or_resume(runs, config)
    release = run.lock()
    if started:
        check_same_space(run, space.spec)
    run.check_manifest({
        "sources": hashes,
        "items": items.card(),
        "space": space.spec.model_dump(mode="json"),
    })  # fmt: skip
    run.keep_config()
    study = open_study(run, create=True)

    def warm_starts() -> list[warm.Start]:
        earlier = transfer.read_earlier(config.search.transfer, space, sources)
        return warm.warm_points(space, config.search.warm_start, sources, earlier, measure)

    def measure() -> activations.Changes:
        asked, moved = items.items["search"], warm.moved_groups(space)
        return activations.measure(config.engine, sources, moved, asked, progress)

    warm.enqueue(study, warm_starts, space)
    clock = Clock(config.budget.hours, before=spent_seconds(study))
    return Search(run, models_of(config), space, items, sources, study, clock, release)


def measured(
    config: RunConfig, progress: Progress = lambda done, total: None
) -> tuple[activations.Changes, Sources]:
    """Measure what the warm start `activations` is made of, without a run; and the models.

    Raises:
        UserError: what the user gave cannot be used, or a donor has no base.
        EngineError: transformers cannot load the receiver, or take its activations.
    """
    space, sources = lay_out(config, load_space(files.find_yaml("search_spaces", config.space)))
    items = item_set(config.asked, config.items, Path()).items["search"]
    moved = warm.moved_groups(space)
    return activations.measure(config.engine, sources, moved, items, progress), sources


def check_budget(space: Space, candidates: int) -> None:
    """Warn where a new run has few candidates for its space.

    Raises:
        SpaceError: it has so few that nothing can be learned; names spaces that suit them.
    """
    found = doubt(space, candidates)
    if found is not None and found.level == "error":
        raise SpaceError(f"the budget does not suit the space: {found.message}", hint=found.hint)
    if found is not None:
        logger.warning("%s; %s", found.message, found.hint)


def check_same_space(run: RunDirectory, spec: SpaceSpec) -> None:
    """Refuse to go on with a study that was made by another space.

    Raises:
        RunError: naming every field that differs.
    """
    then = SpaceSpec.model_validate(run.manifest()["space"]).model_dump(mode="json")
    found = differences(then, spec.model_dump(mode="json"))
    if found:
        raise RunError(
            f"{run.path} was searched in another space than {run.config.space} is now: "
            f"{'; '.join(found)}",
            hint="restore the space file, or start a new run under another name; with "
            f"search.transfer: [{run.path}] it begins with this run's front",
        )
