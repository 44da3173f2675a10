"""What one run is: the YAML file of a search, checked whole, with every problem named at once.

Not here: how such files are read (`yaml_file`, re-exported), the search space (`space`) and tasks
(`tasks.spec`), which have files of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mergefront.yaml_file import Strict, dump_yaml, load_yaml, read_mapping, validate

__all__ = ["BLIND_ITEMS", "RESERVED", "Budget", "Count", "Donor", "EngineConfig", "EngineKind"]
__all__ += ["Fraction", "Items", "Report", "RunConfig", "SamplerName", "Search", "Strict"]
__all__ += ["Tracking", "VocabularyMode", "WarmStart", "absolute", "check_alias", "dump_yaml"]
__all__ += ["load_yaml", "read_mapping", "validate"]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]

SamplerName = Literal["como-cma", "nsga2", "tpe", "random", "noisy-gp"]
VocabularyMode = Literal["receiver", "by_token"]
EngineKind = Literal["vllm", "transformers"]
WarmStart = Literal["receiver", "uniform", "start"]

RESERVED = frozenset({"receiver", "base", "zero", "tied", "each"})
"""What recipes and spaces call something else, so that no donor may be called so."""
BLIND_ITEMS = 500
"""Most validation items of an objective that the blind control asks."""


def check_alias(alias: str) -> str:
    """Return a donor's alias. Raises ValueError if recipes could not tell it from other words."""
    if alias in RESERVED or not alias.isidentifier():
        raise ValueError(
            f"{alias!r} cannot name a donor: use letters, digits and _, "
            f"and none of {', '.join(sorted(RESERVED))}"
        )
    return alias


class Donor(Strict):
    """A text LLM (or VLM) whose delta is added to the receiver."""

    model: str = Field(description="Folder, hub id, or zoo:NAME.")
    revision: str | None = Field(None, description="Commit of the hub repository to pin.")
    base: str | None = Field(
        None,
        description="This donor's own base, if not the common one; an adapter's is its `model` "
        "where neither is named.",
    )
    adapter: str | None = Field(
        None, description="PEFT LoRA adapter of `model`: a folder or hub id. The donor is both."
    )
    adapter_revision: str | None = Field(None, description="Commit of the adapter's repository.")

    @model_validator(mode="after")
    def _revision_of_an_adapter(self) -> Donor:
        if self.adapter_revision is not None and self.adapter is None:
            raise ValueError("adapter_revision is given, but no adapter")
        return self


class Items(Strict):
    """How many questions each objective is scored on, per split."""

    search: Count = Field(400, description="Items per objective that every candidate answers.")
    validation: Count = Field(1000, description="Items per objective for the members of the front.")
    test: Count = Field(2000, description="Items per objective for the picks; read once.")
    reuse_search_items: bool = Field(
        False,
        description="Let splits of a set that is too small share items. Validation and test scores "
        "on search items flatter; front, report and model card then begin by saying so.",
    )


class Search(Strict):
    """Who proposes candidates, and from where."""

    sampler: SamplerName = Field("como-cma", description="Proposes candidates.")
    seed: int = Field(0, ge=0, description="Every random choice of the run derives from it.")
    warm_start: tuple[WarmStart, ...] = Field(
        ("receiver", "uniform"), description="Candidates evaluated before the sampler's."
    )


class Budget(Strict):
    """When the search ends: whichever limit comes first. A resume may change only these."""

    candidates: Count = Field(200, description="Candidates evaluated, warm starts included.")
    hours: float | None = Field(
        None, gt=0, description="Wall hours in all, validation, test and export included."
    )


class Report(Strict):
    """Definitions that the reported numbers depend on."""

    reference: dict[str, Fraction] | None = Field(
        None,
        description="Hypervolume's reference point by objective; default: the receiver's score on "
        "the first objective, 0.8 times the receiver's on the others.",
    )
    guard: Fraction = Field(
        0.02, description="Loss on the other objectives that a winner may have, in score points."
    )
    guards: dict[str, Fraction] = Field(
        default_factory=dict,
        description="Objective -> its own guard, where it is another than `guard`.",
    )
    blind: bool = Field(
        True,
        description="Ask receiver and picks up to 500 validation items per objective once more "
        "without their images: a gain that is also there blind does not come from seeing.",
    )
    finalists: int = Field(12, ge=2, description="Front members scored again on validation items.")


class EngineConfig(Strict):
    """The inference engine and its resources."""

    kind: EngineKind = Field("vllm", description="vllm, or transformers (reference, slower).")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Arithmetic of the engine; auto: the receiver's own."
    )
    max_model_len: Count | None = Field(None, description="Longest prompt plus answer, tokens.")
    max_num_seqs: Count = Field(256, description="Questions answered at the same time.")
    batch_size: Count = Field(64, description="Same, for the transformers engine.")
    memory_gb: float | None = Field(None, gt=0, description="KV cache; default 1 on a CPU.")
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="Share of the GPU for engine and KV cache."
    )
    tensor_parallel_size: Count = Field(1, description="GPUs of one engine.")
    multiprocess: bool | None = Field(
        None, description="Engine core in a process of its own; default: on a GPU only."
    )
    encoder_cache_gb: float = Field(
        4.0, ge=0, description="Memory for encoded images, so that each is encoded once a run."
    )
    snapshot_device: Literal["auto", "cpu", "device"] = Field(
        "auto", description="Where the sources' tensors wait: beside the model, or in RAM."
    )
    threads: Count | None = Field(None, description="CPU threads of the engine; default: all.")
    enforce_eager: bool | None = Field(None, description="No CUDA graphs; default: on a CPU only.")
    trust_remote_code: bool = Field(
        False,
        description="Run Python code that the receiver's folder brings. Some families need it "
        "(MiniCPM-V, Phi-3.5-V, InternVL in its own layout): only for code that you have read.",
    )


class Tracking(Strict):
    """MLflow, a projection of the run that can be rebuilt at any time."""

    enabled: bool = Field(True, description="Log the run to MLflow.")
    uri: str | None = Field(None, description="Tracking URI; default: mlflow.db beside the runs.")
    experiment: str = Field("mergefront", description="MLflow experiment.")


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
        }
    )
