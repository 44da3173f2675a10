"""The search space file: its fields, checked as far as they can be without any model.

Not here: fitting a space to models (`space`), and what the `layers` alternatives mean (`layers`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mergefront.errors import ConfigError
from mergefront.merging.methods import method_of
from mergefront.space.layers import Blocks, Layers, Ranges, not_empty
from mergefront.yaml_file import Strict, load_yaml

TIED: Final = "tied"
CHOOSE: Final = "choose"
RangeEnd = Literal["low", "high", "start"]
MergeablePart = Literal["attention", "mlp", "norm", "embedding", "head"]


def _check_unique(values: Any) -> Any:
    if isinstance(values, list | tuple) and len(set(map(str, values))) < len(values):
        raise ValueError(f"a name is given twice: {list(values)}")
    return values


def _check_donors(donors: Any) -> Any:
    if isinstance(donors, list | tuple) and donors:
        return _check_unique(donors)
    if donors not in ("each", TIED, CHOOSE):
        raise ValueError("expected each, tied, choose or a list of donors")
    return donors


Parts = Annotated[tuple[MergeablePart, ...], BeforeValidator(_check_unique)]


class KnobSpec(Strict):
    """One line of `knobs`: which donors and parts, how they vary over depth, and the bounds."""

    donors: Annotated[
        Literal["each", "tied", "choose"] | tuple[str, ...], BeforeValidator(_check_donors)
    ] = Field(
        "each",
        description="each: knobs of its own for every donor; tied: one set for all; choose: each "
        "run of layers takes one donor or the receiver; a list: knobs of its own for each donor "
        "named.",
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
        fixed = self.donors == CHOOSE and self.low == self.high  # then there is no level to search
        if self.low >= self.high and not fixed:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.start is not None and not self.low <= self.start <= self.high:
            raise ValueError(f"start {self.start} is outside [{self.low}, {self.high}]")
        runs = isinstance(self.layers, Blocks | Ranges) or self.layers in ("all", "each")
        if self.donors == CHOOSE and not runs:
            raise ValueError(
                "donors: choose picks for whole runs of layers: layers must be all, each, "
                "{blocks: n} or {ranges: ...}"
            )
        return self

    @property
    def start_value(self) -> float:
        """Where a search starts."""
        return (self.low + self.high) / 2 if self.start is None else self.start


class ParameterRange(Strict):
    """A parameter of the method that is searched, the same in all groups."""

    low: float = Field(description="Smallest value.", allow_inf_nan=False)
    high: float = Field(description="Largest value.", allow_inf_nan=False)
    start: float | None = Field(
        None, description="Where a search starts; default: the middle.", allow_inf_nan=False
    )

    @model_validator(mode="after")
    def _bounds(self) -> ParameterRange:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if not self.low <= self.start_value <= self.high:
            raise ValueError(f"start {self.start} is outside [{self.low}, {self.high}]")
        return self

    @property
    def start_value(self) -> float:
        """Where a search starts."""
        return (self.low + self.high) / 2 if self.start is None else self.start

    def at(self, end: RangeEnd, whole: bool) -> float:
        """Return a bound or the start; if `whole` as an int, and the middle rounded down."""
        number = {"low": self.low, "high": self.high, "start": self.start_value}[end]
        if not whole:
            return number
        if end == "start" and self.start is None:
            return math.floor(number)
        return int(number) if number.is_integer() else number


class SpaceSpec(Strict):
    """A search space file."""

    method: str = Field("task_arithmetic", description="Merge method.")
    parameters: dict[str, ParameterRange | bool | int | float | str] = Field(
        default_factory=dict,
        description="The method's own parameters: a value for all candidates, or low and high of "
        "one that is searched.",
    )
    knobs: Annotated[tuple[KnobSpec, ...], AfterValidator(not_empty)] = Field(
        description="What is searched."
    )
    frozen: Parts = Field((), description="Parts that stay the receiver's.")
    format: Literal["mergefront/space@1"] = "mergefront/space@1"

    @model_validator(mode="after")
    def _method(self) -> SpaceSpec:
        try:
            method = method_of(self.method)
            for end in get_args(RangeEnd):
                method.of(self._parameters(end))
        except ConfigError as problem:
            raise ValueError(problem.message) from problem
        for name in self.searched_parameters:
            if name not in method.searchable:
                searchable = ", ".join(method.searchable) or "none"
                raise ValueError(
                    f"parameter {name} of method {self.method} cannot be searched; "
                    f"those that can: {searchable}"
                )
        return self

    @property
    def searched_parameters(self) -> dict[str, ParameterRange]:
        """The parameters that are searched."""
        return {k: v for k, v in self.parameters.items() if isinstance(v, ParameterRange)}

    @property
    def start_parameters(self) -> dict[str, Any]:
        """All parameters, those that are searched at their start: what an engine opens with."""
        return self._parameters("start")

    def _parameters(self, end: RangeEnd) -> dict[str, Any]:
        whole = method_of(self.method).whole
        return {
            name: value.at(end, name in whole) if isinstance(value, ParameterRange) else value
            for name, value in self.parameters.items()
        }


def load_space(path: Path) -> SpaceSpec:
    """Read a search space file.

    Raises:
        ConfigError: naming the file and every faulty field.
    """
    return load_yaml(path, SpaceSpec)
