"""The search space file: its fields, checked as far as they can be without any model.

Not here: fitting a space to models (`space`), and what the `layers` alternatives mean (`depth`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mergefront.config import Strict, load_yaml
from mergefront.depth import Layers, not_empty
from mergefront.errors import ConfigError
from mergefront.merging import method_of

TIED: Final = "tied"
MergeablePart = Literal["attention", "mlp", "norm", "embedding", "head"]


def _unique(values: Any) -> Any:
    if isinstance(values, list | tuple) and len(set(map(str, values))) < len(values):
        raise ValueError(f"a name is given twice: {list(values)}")
    return values


def _owners_field(donors: Any) -> Any:
    if isinstance(donors, list | tuple) and donors:
        return _unique(donors)
    if donors not in ("each", TIED):
        raise ValueError("expected each, tied or a list of donors")
    return donors


Parts = Annotated[tuple[MergeablePart, ...], BeforeValidator(_unique)]


class KnobSpec(Strict):
    """One line of `knobs`: which donors and parts, how they vary over depth, and the bounds."""

    donors: Annotated[Literal["each", "tied"] | tuple[str, ...], BeforeValidator(_owners_field)] = (
        Field(
            "each",
            description="each: knobs of its own for every donor; tied: one set for all; a list: "
            "knobs of its own for each donor named.",
        )
    )
    parts: Annotated[Parts, AfterValidator(not_empty)] = Field(
        description="Parts that share these knobs."
    )
    layers: Layers = Field("all", description="How the knobs spread over the layers.")
    low: float = Field(description="Smallest coefficient.", allow_inf_nan=False)
    high: float = Field(description="Largest coefficient.", allow_inf_nan=False)
    start: float | None = Field(
        None, description="Where a search starts; default: the middle.", allow_inf_nan=False
    )

    @model_validator(mode="after")
    def _bounds(self) -> KnobSpec:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.start is not None and not self.low <= self.start <= self.high:
            raise ValueError(f"start {self.start} is outside [{self.low}, {self.high}]")
        return self


class SpaceSpec(Strict):
    """A search space file."""

    method: str = Field("task_arithmetic", description="Merge method.")
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="The method's own parameters, fixed for all candidates."
    )
    knobs: Annotated[tuple[KnobSpec, ...], AfterValidator(not_empty)] = Field(
        description="What is searched."
    )
    frozen: Parts = Field((), description="Parts that stay the receiver's.")
    format: Literal["mergefront/space@1"] = "mergefront/space@1"

    @model_validator(mode="after")
    def _method(self) -> SpaceSpec:
        try:
            method_of(self.method).check(self.parameters)
        except ConfigError as problem:
            raise ValueError(problem.message) from problem
        return self


def load_space(path: Path) -> SpaceSpec:
    """Read a search space file.

    Raises:
        ConfigError: naming the file and every faulty field.
    """
    return load_yaml(path, SpaceSpec)
