"""An existing run's space, models and candidates, opened again as they were when it began."""

from __future__ import annotations

from dataclasses import dataclass

from mergefront.config import RunConfig
from mergefront.errors import RunError
from mergefront.merging.methods import method_of
from mergefront.merging.plan import check_method
from mergefront.merging.recipe import Recipe
from mergefront.models.locate import ModelNames, locate_models
from mergefront.models.sources import Sources, check_heads
from mergefront.runs.directory import RunDirectory
from mergefront.runs.front import Member, UnvalidatedCandidate, read_front
from mergefront.runs.history import evaluations, open_study, with_tokens
from mergefront.runs.reference import resolve_pick
from mergefront.space.file import SpaceSpec
from mergefront.space.space import Space


def models_of(config: RunConfig) -> ModelNames:
    """The models of a run as the user wrote them."""
    return ModelNames(**{name: getattr(config, name) for name in ModelNames.model_fields})


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


@dataclass(frozen=True)
class RunCandidate:
    """A candidate of a run: what is reported of it, and what builds it again."""

    label: str
    report: Member | UnvalidatedCandidate
    recipe: Recipe
    sources: Sources

    @property
    def number(self) -> int:
        """The candidate's number in its run."""
        return self.report.number


def reopen_candidate(run: RunDirectory, pick: str) -> RunCandidate:
    """Return the candidate of a run that a pick or a number names.

    Raises:
        RunError: there is no such candidate, or a model is not what it was.
    """
    front = read_front(run) if run.front.is_file() or not pick.isdigit() else None
    number = int(pick) if front is None else resolve_pick(front, pick, run.path)
    config = run.config
    scored = {e.number: e for e in evaluations(open_study(run), run) if not e.failure}
    if number not in scored:
        raise RunError(f"{run.path}: candidate {number} was not evaluated")
    evaluation = scored[number]
    space, sources = run_space(run)
    members = {} if front is None else {member.number: member for member in front.members}
    report = members.get(number) or UnvalidatedCandidate(
        number, with_tokens(evaluation.objectives, config.costs)
    )
    recipe = space.recipe(models_of(config), evaluation.point)
    return RunCandidate(f"{config.name}:{pick}", report, recipe, sources)
