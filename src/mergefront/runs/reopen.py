"""An existing run's space and models, opened again as they were when it began."""

from __future__ import annotations

from mergefront.config import RunConfig
from mergefront.merging.methods import method_of
from mergefront.merging.plan import check_method
from mergefront.models.locate import ModelNames, locate_models
from mergefront.models.sources import Sources, check_heads
from mergefront.runs.directory import RunDirectory
from mergefront.space.file import SpaceSpec
from mergefront.space.space import Space


def models_of(config: RunConfig) -> ModelNames:
    """The models of a run as the user wrote them."""
    return ModelNames(
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
    sources = Sources.open(locate_models(models))
    check_method(sources, method_of(spec.method, spec.start_parameters))
    space = Space.build(spec, list(models.donors), sources.groups)
    check_heads(sources, space.parts)
    return space, sources
