"""What one run is: the YAML file of a search, checked whole, with every problem named at once.

Not here: how such files are read (`yaml_file`), the search space (`space.file`) and tasks
(`tasks.spec`), which have files of their own.

Reading order: `RunConfig` at the end has the whole file; its sections come before it, in the file's
order.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from mergefront import files
from mergefront.records import Dtype
from mergefront.yaml_file import Strict, read_mapping, validate

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]

SamplerName = Literal[
    "noisy-gp", "como-cma", "cma", "nsga2", "nsga3", "tpe", "gp", "qmc", "random", "auto"
]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
VocabularyMode = Literal["receiver", "by_token"]
EngineKind = Literal["vllm", "transformers"]
WarmStart = Literal[
    "receiver",
    "uniform",
    "start",
    "donors",
    "paper",
    "ramp",
    "importance",
    "activations",
    "earlier",
]

RESERVED = frozenset({"receiver", "base", "zero", "tied", "each", "choose"})
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


class TokenCost(Strict):
    """An objective that asks nothing: how short the answers to other objectives' questions are.

    An answer of t generated tokens scores 1 - min(t / limit, 1); one that was cut off counts at its
    length.
    """

    tokens_of: tuple[str, ...] = Field(
        min_length=1, description="Objectives whose answers count, each of them alike."
    )
    limit: Count = Field(
        description="Tokens from which an answer scores 0: as many as an answer may have."
    )

    def score(self, tokens: float) -> float:
        """The score in [0, 1] of an answer of so many tokens."""
        return 1.0 - min(tokens / self.limit, 1.0)

    def tokens(self, score: float) -> float:
        """Tokens that a mean score stands for, 0 to `limit`: longer answers count as the limit."""
        return self.limit * (1.0 - score)


class Tokens(Strict):
    """A constraint on a cost: the most tokens that an answer may have on average."""

    tokens: float = Field(gt=0, description="Mean tokens of an answer, at most.")


def _form(value: Any) -> str | None:
    """Say which alternative is meant, so that errors speak of that one only."""
    if isinstance(value, dict | TokenCost | Tokens):
        return "cost"
    return {list: "tasks", tuple: "tasks", int: "score", float: "score"}.get(type(value))


Objective = Annotated[
    Annotated[tuple[str, ...], Tag("tasks")] | Annotated[TokenCost, Tag("cost")],
    Discriminator(
        _form,
        custom_error_type="objective",
        custom_error_message="expected a list of tasks, or a cost: "
        "{tokens_of: [objectives], limit: tokens}",
    ),
]
"""Tasks of its own, or a cost of the answers to other objectives' tasks."""
Least = Annotated[
    Annotated[Fraction, Tag("score")] | Annotated[Tokens, Tag("cost")],
    Discriminator(
        _form,
        custom_error_type="constraint",
        custom_error_message="expected the least score, 0 to 1, or of a cost {tokens: most}",
    ),
]
"""The least score of an objective, or the most tokens of a cost."""


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


class Racing(Strict):
    """Whether and when a candidate may leave before it has answered all search items."""

    enabled: bool = Field(True, description="false: every candidate answers every search item.")
    rungs: Annotated[int, Field(ge=2, le=10)] = Field(
        4, description="Nested prefixes of the search items, each about twice the one before."
    )
    delta: Share = Field(
        0.1, description="A candidate leaves when its chance to be on the front is below this."
    )
    margin: Fraction = Field(
        0.005,
        description="What rises above the front by less than this, in score points, is not on it.",
    )
    enough: Annotated[float, Field(ge=1.0)] = Field(
        2.5,
        description="A candidate also leaves when answering all items would make the error of what "
        "is known of it smaller by less than this factor (nearer to 1 the surer it is to be on "
        "the front); 1: never for that reason.",
    )
    full_first: Count = Field(8, description="So many first candidates answer every item.")
    full_every: Count = Field(
        20, description="And one in so many after that, by lot, which keeps the rule honest."
    )


class Search(Strict):
    """Who proposes candidates, and from where."""

    sampler: SamplerName = Field(
        "auto",
        description="Proposes candidates; auto: what won our benchmark at this number of knobs and "
        "candidates, said and recorded at the start.",
    )
    seed: int = Field(0, ge=0, description="Every random choice of the run derives from it.")
    warm_start: tuple[WarmStart, ...] = Field(
        ("receiver", "uniform"), description="Candidates evaluated before the sampler's."
    )
    transfer: tuple[str, ...] = Field(
        (), description="Folders of earlier runs on the same models, for warm_start `earlier`."
    )
    racing: Racing = Field(
        default_factory=Racing, description="Candidates without a chance leave early."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_refinement(cls, fields: Any) -> Any:
        """Read the files of runs that wrote down `refine: never`: that is what every run does."""
        if not isinstance(fields, dict) or "refine" not in fields:
            return fields
        if fields["refine"] != "never":
            raise ValueError(
                "refine is no option any more, for it gained nothing (docs/decisions/0005): "
                "leave it out, and begin with as many knots as the budget can teach"
            )
        return {name: value for name, value in fields.items() if name != "refine"}

    @model_validator(mode="after")
    def _earlier(self) -> Search:
        if ("earlier" in self.warm_start) != bool(self.transfer):
            raise ValueError(
                "warm_start `earlier` and `transfer` go together: the fronts of the runs that "
                "`transfer` names are warm starts by that name"
            )
        return self


class Budget(Strict):
    """When the search ends: whichever limit comes first. A resume may change only these."""

    candidates: Count = Field(200, description="Candidates evaluated, warm starts included.")
    hours: float | None = Field(
        None, gt=0, description="Wall hours in all, validation, test and export included."
    )
    min_gain: float | None = Field(
        None,
        gt=0,
        description="End the search when another hour is expected to add less than this share of "
        "the present hypervolume; 0.05 is 5 % an hour. Without it the search uses its budget.",
    )


class Report(Strict):
    """Definitions that the reported numbers depend on."""

    reference: dict[str, Fraction] | None = Field(
        None,
        description="Hypervolume's reference point by objective; default: the receiver's score on "
        "the first objective, 0.8 times the receiver's on the others. A cost's is its limit.",
    )
    guard: Fraction = Field(
        0.02,
        description="Loss on the other objectives that a winner may have, in score points; costs "
        "have none.",
    )
    guards: dict[str, Fraction] = Field(
        default_factory=dict,
        description="Objective -> its own guard, where it is another than `guard`, or a cost's.",
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
    dtype: Dtype = Field("auto", description="Arithmetic of the engine; auto: the receiver's own.")
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


def load_run_config(name: str, changes: Mapping[str, object] | None = None) -> RunConfig:
    """Read a run configuration: a YAML file, or the name of a shipped one. Paths become absolute.

    Args:
        changes: field -> value in its place ("name", "budget.candidates"); None changes nothing.

    Raises:
        ConfigError: the file is missing or faulty; lists every problem.
    """
    path = files.find_yaml("configs", name)
    data = read_mapping(path)
    for field, value in (changes or {}).items():
        section, _, key = field.rpartition(".")
        if value is not None and section:
            data[section] = {**(data.get(section) or {}), key: value}
        elif value is not None:
            data[key] = value
    return absolute(validate(data, RunConfig, str(path)))


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
