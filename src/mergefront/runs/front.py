"""front.json: everything that is reported about a run.

Fields may be added under this format version: readers ignore those that they do not know. A field
that changes its meaning or goes raises the version. The fields below are the file's.

Not here: how the numbers are computed (`summary`), how they are shown (`report`, `plots`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter, ValidationError

from mergefront.config import ItemCounts, TokenCost
from mergefront.errors import RunError
from mergefront.json_file import LARGEST_INDEX, parse_json
from mergefront.records import Calibration, Estimate, Split
from mergefront.runs.directory import RunDirectory
from mergefront.runs.gains import AnswerSummary, Gains, Overlap
from mergefront.runs.history import RaceSummary
from mergefront.runs.study import Opening

FORMAT: Final = "mergefront/front@1"

Estimates = Mapping[str, Annotated[Estimate, PlainSerializer(Estimate.to_dict)]]
"""Objective -> estimate."""

_Race = Annotated[
    RaceSummary | None,
    BeforeValidator(lambda value: value or None),
    PlainSerializer(lambda race: {} if race is None else race.to_dict()),
]


@dataclass(frozen=True)
class BlindScores:
    """The blind control of a model: its scores without images, and its gain over the receiver
    without images."""

    scores: Estimates
    gain: Gains


@dataclass(frozen=True)
class Member:
    """A candidate that was chosen for validation.

    `believed` is what chose it; `search` flatters. `gain` and `test_gain` are over the receiver on
    validation and test items. `picks` names what it was picked as; only picks have test scores and
    a blind control. `non_dominated` is said of what is believed of the members. `holds` says how
    far a gain on the first objective carries (`gains.scope_of`).
    """

    number: int
    origin: str
    knobs: Mapping[str, float | str]
    search: Estimates
    validation: Estimates
    gain: Gains
    answers: Mapping[str, AnswerSummary]
    picks: tuple[str, ...]
    test: Estimates | None
    test_gain: Gains | None
    blind: BlindScores | None
    parameters_sha256: str | None
    non_dominated: bool
    believed: Estimates
    verdict: str
    holds: str


@dataclass(frozen=True)
class UnvalidatedCandidate:
    """A candidate that is no member: nothing is known of it but its search scores."""

    number: int
    search: Mapping[str, Estimate]


@dataclass(frozen=True)
class BeliefSummary:
    """What chose the members: the model, or, for the reason `why`, the scores.

    `front` has the numbers of the candidates on the front as believed. `calibration` says for each
    objective how well the model foretells candidates from the others.
    """

    by_model: bool
    why: str
    front: tuple[int, ...]
    calibration: Mapping[str, Calibration]


@dataclass(frozen=True)
class ValidatedHypervolume:
    """The members' hypervolume on validation items, with its 95 % interval."""

    value: float
    low: float
    high: float
    reference: Mapping[str, float]


@dataclass(frozen=True)
class Hypervolumes:
    """Hypervolume of all candidates on search items, which flatter, and of the members."""

    search: float
    validation: ValidatedHypervolume


@dataclass(frozen=True)
class Front:
    """Everything that is reported about a run, dominated members too.

    `reference` is the hypervolume's on search items. `guards` are the losses that each objective
    may have; `guard` is the one that holds where none is given. `overlap` and `warnings` say which
    items are in two splits. `seconds` are the mean wall seconds of a candidate by phase.
    `test_rounds` counts how often test items were read, which is once unless a search was extended.
    """

    run: str
    sampler: str
    warnings: tuple[str, ...]
    objectives: tuple[str, ...]
    reference: Mapping[str, float]
    guard: float
    guards: Mapping[str, float]
    costs: Mapping[str, TokenCost]
    receiver: Mapping[Split, Estimates]
    receiver_answers: Mapping[str, AnswerSummary]
    receiver_blind: Estimates | None
    members: tuple[Member, ...]
    belief: BeliefSummary
    race: _Race
    hypervolume: Hypervolumes
    candidates: int
    failed: int
    items: ItemCounts
    overlap: Overlap
    seconds: Mapping[str, float]
    openings: tuple[Opening, ...]
    test_rounds: int
    messages: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values as they stand in front.json."""
        return {"format": FORMAT, **_adapter().dump_python(self, mode="json")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Front:
        """Read what `to_dict` gives.

        Raises:
            RunError: the values are of another format, or not what the format asks for.
        """
        if values.get("format") != FORMAT:
            raise RunError(f"it has the format {values.get('format')!r}, not {FORMAT!r}")
        try:
            return _adapter().validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise RunError(f"{where}: {first['msg']}") from error


@cache
def _adapter() -> TypeAdapter[Front]:
    return TypeAdapter(Front)


def read_front(run: RunDirectory) -> Front:
    """Read front.json of a finished run.

    Raises:
        RunError: the run has none yet, or this version of mergefront cannot read it.
    """
    if not run.front.is_file():
        raise RunError(
            f"{run.path}: no front yet",
            hint="let the search finish (run the same `mergefront search` command again)",
        )
    try:
        return Front.from_dict(parse_json(run.front.read_bytes(), LARGEST_INDEX))
    except (RunError, ValueError) as error:
        raise RunError(
            f"{run.front} cannot be read: {error}",
            hint=f"`mergefront rebuild {run.path}` makes it anew from the scores",
        ) from error
