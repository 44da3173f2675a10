"""Everything that can go wrong with what the user gave goes wrong here, before an engine starts.

A run's configuration -> models located, opened and paired, space laid over them, items loaded, run
directory and study created or resumed, warm starts queued.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import optuna

from mergefront import lineage, shipped
from mergefront.config import RunConfig
from mergefront.errors import SpaceError
from mergefront.merging import METHODS
from mergefront.merging.sources import Sources, check_heads
from mergefront.recipe import Models, Recipe, refs
from mergefront.recorded import open_study, spent_seconds
from mergefront.rundir import RunDirectory
from mergefront.search import Clock, Search
from mergefront.space import Space, SpaceSpec, load_space
from mergefront.tasks import item_set

logger = logging.getLogger(__name__)


def models_of(config: RunConfig) -> Models:
    """The models of a run as the user wrote them."""
    return Models(
        receiver=config.receiver,
        revision=config.revision,
        base=config.base,
        donors=dict(config.donors),
        vocabulary=config.vocabulary,
    )


def run_space(run: RunDirectory) -> tuple[Space, Sources]:
    """The space and sources of an existing run: the space it was started with, not today's file.

    Raises:
        RunError: the run has not been started, or a source is not what it was.
    """
    spec = SpaceSpec.model_validate(run.manifest()["space"])
    space, sources = lay_out(run.config, spec)
    run.check_manifest({"sources": sources.file_hashes()})
    return space, sources


def lay_out(config: RunConfig, spec: SpaceSpec) -> tuple[Space, Sources]:
    """A search space, laid over a run's opened and paired checkpoints.

    Raises:
        UserError: a model cannot be found, opened or paired, or the space does not fit.
    """
    models = models_of(config)
    sources = Sources.open(refs(Recipe(spec.method, models, {}, spec.opening)))
    sources.check_method(METHODS[spec.method], spec.opening)
    space = Space.build(spec, list(models.donors), sources.groups)
    check_heads(sources, space.parts)
    return space, sources


def assemble(config: RunConfig, runs: Path) -> Search:
    """Check everything that a run needs, then create or resume its directory and study.

    No engine is started. `runs` is the directory that holds run directories.

    Raises:
        UserError: any of the many things that can be wrong with what the user gave.
    """
    spec = load_space(shipped.find("search_spaces", config.space, Path()))
    items = item_set(config.objectives, config.items, Path())
    space, sources = lay_out(config, spec)
    sources.check_finite()
    for finding in lineage.check(sources):
        logger.warning("%s; %s", finding.message, finding.hint)
    run = RunDirectory.create_or_resume(runs, config)
    release = run.lock()
    run.check_manifest({
        "sources": sources.file_hashes(),
        "items": items.card(),
        "space": space.spec.model_dump(mode="json"),
    })  # fmt: skip
    run.keep_config()
    study = open_study(run, create=True)
    enqueue_warm_starts(study, space, config.search.warm_start)
    clock = Clock(config.budget.hours, before=spent_seconds(study))
    return Search(run, models_of(config), space, items, sources, study, clock, release)


def enqueue_warm_starts(study: optuna.Study, space: Space, names: Sequence[str]) -> None:
    """Queue the warm starts that the study does not hold yet; they run before any proposal."""
    known = {t.user_attrs.get("origin") for t in study.get_trials(deepcopy=False)}
    for origin, point in warm_points(space, names):
        if origin not in known:
            params = {knob.name: u for knob, u in zip(space.knobs, point, strict=True)}
            study.enqueue_trial(params, user_attrs={"origin": origin})


def warm_points(space: Space, names: Sequence[str]) -> list[tuple[str, tuple[float, ...]]]:
    """(origin, point) of the warm starts: the receiver, the uniform line, the space's start.

    The uniform line gives every donor the same coefficient in every layer: a quarter, half, three
    quarters and the whole of the knobs' upper bound, or of 1 where the bound is above that.
    """
    points: list[tuple[str, tuple[float, ...]]] = []
    for name in names:
        if name == "receiver":
            try:
                points.append(("receiver", space.receiver_point()))
            except SpaceError:
                logger.warning("warm start skipped: the receiver lies outside the space's bounds")
        elif name == "uniform":
            top = min(1.0, max(knob.high for knob in space.coefficient_knobs))
            for share in (0.25, 0.5, 0.75, 1.0):
                points.append((f"uniform {share * top:g}", space.uniform_point(share * top)))
        else:
            points.append(("start", space.start_point()))
    return points
