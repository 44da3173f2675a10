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
    Least,
    Objective,
    Racing,
    Report,
    SamplerName,
    Search,
    TokenCost,
    Tokens,
    Tracking,
    VocabularyMode,
    WarmStart,
    check_alias,
)
from mergefront.yaml_file import Strict, dump_yaml, load_yaml, read_mapping, validate

__all__ = ["BLIND_ITEMS", "RESERVED", "Budget", "Count", "Donor", "EngineConfig", "EngineKind"]
__all__ += ["Fraction", "Items", "Racing", "Report", "RunConfig", "SamplerName", "Search", "Strict"]
__all__ += ["TokenCost", "Tracking", "VocabularyMode", "WarmStart", "absolute", "check_alias"]
__all__ += ["dump_yaml", "load_yaml", "read_mapping", "validate"]


class RunConfig(Strict):
    """One complete search. The first objective is the one to gain, the others are to keep.

    An objective has tasks of its own (`asked`), or is a cost of the answers to others (`costs`).
    """

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
    objectives: dict[str, Objective] = Field(
        description="Objective -> tasks (names of the library, or paths to task files), or a cost: "
        "{tokens_of: [objectives], limit: tokens}, which asks nothing of its own."
    )
    constraints: dict[str, Least] = Field(
        default_factory=dict,
        description="Objective -> least score that is of use, or of a cost {tokens: most}: the "
        "sampler keeps above it, and so does the guarded pick.",
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
    def _objectives(cls, objectives: dict[str, Objective]) -> dict[str, Objective]:
        if not 2 <= len(objectives) <= 4:
            raise ValueError(f"2 to 4 objectives are needed, found {len(objectives)}")
        asked = [name for name, one in objectives.items() if not isinstance(one, TokenCost)]
        if next(iter(objectives)) not in asked:
            raise ValueError(
                f"the first objective is the one to gain, {next(iter(objectives))!r} is a cost: "
                "put one with tasks of its own first"
            )
        for name, one in objectives.items():
            if not isinstance(one, TokenCost):
                if not one:
                    raise ValueError(f"objective {name!r} has no task")
                continue
            unknown = [other for other in one.tokens_of if other not in asked]
            if unknown:
                raise ValueError(
                    f"{name}.tokens_of names {', '.join(unknown)}; objectives with tasks of their "
                    f"own are {', '.join(asked)}"
                )
            if len(set(one.tokens_of)) < len(one.tokens_of):
                raise ValueError(f"{name}.tokens_of names an objective twice")
        return objectives

    @model_validator(mode="after")
    def _names_of_objectives(self) -> RunConfig:
        names = list(self.objectives)
        if self.export not in {None, "knee", "guarded", *(f"best:{name}" for name in names)}:
            raise ValueError(f"export: no objective is named {self.export!r}")
        reference = self.report.reference
        if reference is not None and set(reference) != set(self.asked):
            which = "objectives with tasks of their own" if self.costs else "objectives"
            raise ValueError(
                f"report.reference names {sorted(reference)}, the {which} are {sorted(self.asked)}"
            )
        unknown = sorted(set(self.report.guards) - set(names[1:]))
        if unknown:
            raise ValueError(
                f"report.guards names {', '.join(unknown)}; only objectives to keep have a guard: "
                f"{', '.join(names[1:])}"
            )
        return self

    @model_validator(mode="after")
    def _constraints(self) -> RunConfig:
        unknown = sorted(set(self.constraints) - set(self.objectives))
        if unknown:
            raise ValueError(
                f"constraints names {', '.join(unknown)}; the objectives are "
                f"{', '.join(self.objectives)}"
            )
        for name, most in self.constraints.items():
            if not isinstance(most, Tokens):
                continue
            if name not in self.costs:
                raise ValueError(
                    f"constraints.{name} is in tokens, but {name} is no cost: expected the least "
                    "score, 0 to 1"
                )
            if most.tokens >= (limit := self.costs[name].limit):
                raise ValueError(
                    f"constraints.{name}: at most {most.tokens:g} tokens, but no answer counts as "
                    f"more than its limit of {limit}: give fewer tokens, or raise the limit"
                )
        return self

    @property
    def asked(self) -> dict[str, tuple[str, ...]]:
        """Objective -> its tasks, of those that have tasks of their own."""
        return {k: v for k, v in self.objectives.items() if not isinstance(v, TokenCost)}

    @property
    def costs(self) -> dict[str, TokenCost]:
        """Objective -> cost, of those that are scored on the answers to others."""
        return {k: v for k, v in self.objectives.items() if isinstance(v, TokenCost)}

    @property
    def least(self) -> dict[str, float]:
        """Objective -> the least score that the constraints ask of it."""
        return {
            name: self.costs[name].score(one.tokens) if isinstance(one, Tokens) else one
            for name, one in self.constraints.items()
        }

    @property
    def guards(self) -> dict[str, float]:
        """Objective to keep -> the loss on it that a winner may have, in score points.

        A cost is a price and has no guard, unless `report.guards` names it.
        """
        own, common = self.report.guards, self.report.guard
        kept = [name for name in list(self.objectives)[1:] if name in own or name in self.asked]
        return {name: own.get(name, common) for name in kept}


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
        objective: tuple(file(name) for name in names) for objective, names in config.asked.items()
    }
    return config.model_copy(
        update={
            "receiver": place(config.receiver),
            "base": optional(config.base),
            "space": file(config.space),
            "donors": donors,
            "objectives": {name: tasks.get(name, one) for name, one in config.objectives.items()},
            "search": config.search.model_copy(
                update={"transfer": tuple(place(run) for run in config.search.transfer)}
            ),
        }
    )
