"""What one run is: the YAML file of a search, checked whole, with every problem named at once.

Not here: how such files are read (`yaml_file`, re-exported), the search space (`space`) and tasks
(`tasks.spec`), which have files of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from mergefront.sections import (
    BLIND_ITEMS,
    RESERVED,
    Budget,
    Count,
    Donor,
    EngineConfig,
    EngineKind,
    Fraction,
    Items,
    Racing,
    Report,
    SamplerName,
    Search,
    Tracking,
    VocabularyMode,
    WarmStart,
    check_alias,
)
from mergefront.yaml_file import Strict, dump_yaml, load_yaml, read_mapping, validate

__all__ = ["BLIND_ITEMS", "RESERVED", "Budget", "Count", "Donor", "EngineConfig", "EngineKind"]
__all__ += ["Fraction", "Items", "Racing", "Report", "RunConfig", "SamplerName", "Search", "Strict"]
__all__ += ["Tracking", "VocabularyMode", "WarmStart", "absolute", "check_alias", "dump_yaml"]
__all__ += ["load_yaml", "read_mapping", "validate"]


class RunConfig(Strict):
    """One complete search. The first objective is the one to gain, the others are to keep."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Directory under runs/.")
    receiver: str = Field(description="The VLM: a folder, a hub id, or zoo:NAME.")
    revision: str | None = Field(None, description="Commit of the receiver's hub repository.")
    base: str | None = Field(None, description="The donors' common ancestor.")
    donors: dict[str, Donor] = Field(min_length=1, description="Alias -> donor.")
    vocabulary: VocabularyMode = Field(
        "receiver",
        description="Where a space merges embedding and head: rows as they stand, or matched "
        "by_token, with the receiver's own where a token is not in every model.",
    )
    space: str = Field(description="Search space: a YAML file, or the name of a shipped one.")
    objectives: dict[str, tuple[str, ...]] = Field(
        description="Objective -> tasks (names of the library, or paths to task files)."
    )
    constraints: dict[str, Fraction] = Field(
        default_factory=dict,
        description="Objective -> least score that is of use: the sampler keeps above it, and so "
        "does the guarded pick.",
    )
    items: Items = Field(default_factory=Items)
    search: Search = Field(default_factory=Search)
    budget: Budget = Field(default_factory=Budget)
    report: Report = Field(default_factory=Report)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    tracking: Tracking = Field(default_factory=Tracking)
    export: str | None = Field(
        None,
        pattern=r"^(knee|guarded|best:[A-Za-z0-9_-]+)$",
        description="Pick that is exported to the run's folder best/ when the search ends: knee, "
        "guarded (best first objective within the guards on the others), best:OBJECTIVE.",
    )
    format: Literal["mergefront/run@1"] = "mergefront/run@1"

    @field_validator("donors")
    @classmethod
    def _aliases(cls, donors: dict[str, Donor]) -> dict[str, Donor]:
        for alias in donors:
            check_alias(alias)
        return donors

    @field_validator("objectives")
    @classmethod
    def _objectives(cls, objectives: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if not 2 <= len(objectives) <= 4:
            raise ValueError(f"2 to 4 objectives are needed, found {len(objectives)}")
        for name, tasks in objectives.items():
            if not tasks:
                raise ValueError(f"objective {name!r} has no task")
        return objectives

    @model_validator(mode="after")
    def _names_of_objectives(self) -> RunConfig:
        if self.export not in {
            None,
            "knee",
            "guarded",
            *(f"best:{name}" for name in self.objectives),
        }:
            raise ValueError(f"export: no objective is named {self.export!r}")
        reference = self.report.reference
        if reference is not None and set(reference) != set(self.objectives):
            raise ValueError(
                f"report.reference names {sorted(reference)}, the objectives are "
                f"{sorted(self.objectives)}"
            )
        unknown = sorted(set(self.constraints) - set(self.objectives))
        if unknown:
            raise ValueError(
                f"constraints names {', '.join(unknown)}; the objectives are "
                f"{', '.join(self.objectives)}"
            )
        unknown = sorted(set(self.report.guards) - set(list(self.objectives)[1:]))
        if unknown:
            raise ValueError(
                f"report.guards names {', '.join(unknown)}; only objectives to keep have a guard: "
                f"{', '.join(list(self.objectives)[1:])}"
            )
        return self

    def guard_of(self, objective: str) -> float:
        """The loss on an objective that a winner may have, in score points."""
        return self.report.guards.get(objective, self.report.guard)


def absolute(config: RunConfig) -> RunConfig:
    """The configuration with every path that exists made absolute, so that it works anywhere."""

    def place(name: str) -> str:
        """A model's folder."""
        there = not name.startswith("zoo:") and Path(name).is_dir()
        return str(Path(name).absolute()) if there else name

    def optional(name: str | None) -> str | None:
        return None if name is None else place(name)

    def file(name: str) -> str:
        """A space or task file; shipped ones go by name."""
        return str(Path(name).absolute()) if Path(name).is_file() else name

    donors = {
        alias: donor.model_copy(
            update={
                "model": place(donor.model),
                "base": optional(donor.base),
                "adapter": optional(donor.adapter),
            }
        )
        for alias, donor in config.donors.items()
    }
    tasks = {
        objective: tuple(file(name) for name in names)
        for objective, names in config.objectives.items()
    }
    return config.model_copy(
        update={
            "receiver": place(config.receiver),
            "base": optional(config.base),
            "space": file(config.space),
            "donors": donors,
            "objectives": tasks,
            "search": config.search.model_copy(
                update={"transfer": tuple(place(run) for run in config.search.transfer)}
            ),
        }
    )
