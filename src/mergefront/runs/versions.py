"""The versions of a run's space: the file's own, and the finer one that it may become on the way.

Version 0 is the space of the run's manifest. A refinement is one attribute of the study
(`records.REFINEMENT`), so that a killed run has refined or has not. Each trial belongs to one
version for ever: its parameters, its knobs' names ("v1.x" in version 1) and its recipe come from
there, to the bit. What compares candidates of all versions reads their `Evaluation.place`.

Not here: when a search refines (`patience`), how a space gets finer (`refinement`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import optuna

from mergefront.errors import SpaceError
from mergefront.merging.recipe import Models, Recipe
from mergefront.records import REFINEMENT, Evaluation
from mergefront.space.space import Space, SpaceSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Versions:
    """The spaces of a run, coarsest first; trials from number `after` on belong to the last."""

    spaces: tuple[Space, ...]
    after: int = 0

    @classmethod
    def read(cls, space: Space, study: optuna.Study) -> Versions:
        """What a study says; `space` is that of the run's manifest."""
        found = study.user_attrs.get(REFINEMENT)
        if found is None:
            return cls((space,))
        finer = Space.build(SpaceSpec.model_validate(found["spec"]), space.donors, space.groups)
        return cls((space, finer), int(found["after"]))

    @property
    def latest(self) -> int:
        """The version in which new candidates are proposed."""
        return len(self.spaces) - 1

    @property
    def finest(self) -> Space:
        """The space of the latest version."""
        return self.spaces[-1]

    def of(self, number: int) -> int:
        """The version that a trial belongs to."""
        return self.latest if number >= self.after else 0

    def names(self, version: int) -> list[str]:
        """The parameters of a version's trials, which no other version has."""
        prefix = f"v{version}." if version else ""
        return [prefix + knob.name for knob in self.spaces[version].knobs]

    def knobs(self, one: Evaluation) -> dict[str, float | str]:
        """A candidate's knobs by name."""
        values = zip(self.spaces[one.version].knobs, one.point, strict=True)
        named = zip(self.names(one.version), values, strict=True)
        return {name: knob.value(u) for name, (knob, u) in named}

    def table(self, one: Evaluation) -> dict[str, dict[str, float]]:
        """A candidate's coefficients, as it was scored."""
        return self.spaces[one.version].table(one.point)

    def recipe(self, models: Models, point: Sequence[float], version: int) -> Recipe:
        """The recipe of a point in [0, 1]^D of a version."""
        space = self.spaces[version]
        return Recipe(space.spec.method, models, space.table(point), space.parameters(point))


def refine(versions: Versions, study: optuna.Study, found: Sequence[Evaluation]) -> Versions:
    """Give every line with knots twice as many, from the study's next trial on.

    `found` are all finished candidates; no trial may be in flight or queued.

    Raises:
        SpaceError: there is nothing to refine; see `check_refinable`.
    """
    coarse, after = versions.finest, len(study.get_trials(deepcopy=False))
    finer = coarse.refined()
    study.set_user_attr(
        REFINEMENT,
        {
            "after": after,
            "spec": finer.spec.model_dump(mode="json"),
            "points": {str(one.number): coarse.embed(one.point, finer) for one in found},
        },
    )
    logger.info(
        "after %d candidates next to nothing more is expected of %d knobs: from here on the "
        "space has %d, and all candidates keep their place in it",
        after,
        coarse.dimension,
        finer.dimension,
    )
    return Versions((*versions.spaces, finer), after)


def check_refinable(space: Space) -> None:
    """Refuse a run that is to be refined but cannot be.

    Raises:
        SpaceError: no line has knots, or as many as the receiver has layers.
    """
    hint = "use search.refine: never, or a space with lines of `layers: {knots: n}`"
    try:
        finer = space.refined()
    except SpaceError as error:
        raise SpaceError(f"search.refine: exhausted, but {error.message}", hint=hint) from error
    if finer.dimension == space.dimension:
        raise SpaceError(
            "search.refine: exhausted, but the space has a knot for every layer already", hint=hint
        )
