"""What one run is: the YAML file of a search, checked whole, with every problem named at once.

Not here: how such files are read (`yaml_file`), the search space (`space.file`) and tasks
(`tasks.task_file`), which have files of their own.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    field_serializer,
    field_validator,
    model_validator,
)

from mergefront import files
from mergefront.records import Dtype
from mergefront.redaction import without_secrets
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
    "receiver", "uniform", "start", "donors", "paper",
    "ramp", "importance", "activations", "earlier",
]  # fmt: skip

_OBJECTIVE_NAME = re.compile(r"[^\W_][\w .+()-]{0,59}")
"""Names stand in the report's markup, in figures, in MLflow's keys and on the command line."""

RESERVED_NAMES = frozenset({"receiver", "base", "zero", "tied", "each", "choose"})
"""Words of recipes and spaces: no donor may be called by one of them."""
BLIND_ITEMS = 500
"""The most validation items of an objective that the blind control asks."""


def check_alias(alias: str) -> str:
    """Return a donor's alias. Raises ValueError if recipes could not tell it from other words."""
    if alias in RESERVED_NAMES or not alias.isidentifier():
        raise ValueError(
            f"{alias!r} cannot name a donor: use letters, digits and _, "
            f"and none of {', '.join(sorted(RESERVED_NAMES))}"
        )
    return alias


Alias = Annotated[str, AfterValidator(check_alias)]


class Donor(Strict):
    """A text LLM (or VLM) whose delta is added to the receiver."""

    model: str = Field(description="Folder, hub id, or zoo:NAME.")
    revision: str | None = Field(None, description="Commit of the hub repository to pin.")
    base: str | None = Field(
        None,
        description="This donor's own base, if not the common one; an adapter's is its `model` "
        "where neither is named.",
    )
    adapter: str | None = Field(None, description="PEFT LoRA adapter on `model`: folder or hub id.")
    adapter_revision: str | None = Field(None, description="Commit of the adapter's repository.")

    @model_validator(mode="after")
    def _revision_of_an_adapter(self) -> Donor:
        if self.adapter_revision is not None and self.adapter is None:
            raise ValueError("adapter_revision is given, but no adapter")
        return self


class TokenCost(Strict):
    """An objective without questions: how short the answers to other objectives' questions are.

    An answer of t generated tokens scores 1 - min(t / limit, 1); an answer that was cut off counts
    with the tokens that it has.
    """

    tokens_of: tuple[str, ...] = Field(min_length=1, description="Objectives whose answers count.")
    limit: Count = Field(description="Tokens from which on an answer scores 0.")

    def score(self, tokens: float) -> float:
        """Return the score in [0, 1] of an answer of so many tokens."""
        return 1.0 - min(tokens / self.limit, 1.0)

    def tokens(self, score: float) -> float:
        """Return the tokens that a mean score stands for, 0 to `limit`."""
        return self.limit * (1.0 - score)


class TokenLimit(Strict):
    """A constraint on a cost: the most tokens that an answer may have on average."""

    tokens: float = Field(gt=0, description="Mean tokens of an answer, at most.")


def _alternative(value: Any) -> str | None:
    """Return the tag of the alternative that is meant, so that errors speak of that one only."""
    if isinstance(value, dict | TokenCost | TokenLimit):
        return "cost"
    return {list: "tasks", tuple: "tasks", int: "score", float: "score"}.get(type(value))


Objective = Annotated[
    Annotated[tuple[str, ...], Tag("tasks")] | Annotated[TokenCost, Tag("cost")],
    Discriminator(
        _alternative,
        custom_error_type="objective",
        custom_error_message="expected a list of tasks, or a cost: "
        "{tokens_of: [objectives], limit: tokens}",
    ),
]
"""Tasks, or a cost of the answers to the tasks of other objectives."""
Constraint = Annotated[
    Annotated[Fraction, Tag("score")] | Annotated[TokenLimit, Tag("cost")],
    Discriminator(
        _alternative,
        custom_error_type="constraint",
        custom_error_message="expected the least score, 0 to 1, or of a cost {tokens: most}",
    ),
]
"""The least score of an objective, or for a cost the most tokens."""


class ItemCounts(Strict):
    """How many questions score each objective, by split."""

    search: Count = Field(400, description="Items per objective that every candidate answers.")
    validation: Count = Field(1000, description="Items per objective for the members of the front.")
    test: Count = Field(2000, description="Items per objective for the picks; read once.")
    reuse_search_items: bool = Field(
        False,
        description="Let splits of a set that is too small share items. Validation and test scores "
        "on search items flatter; front, report and model card then begin by saying so.",
    )


class RacingConfig(Strict):
    """When a candidate may leave before it has answered all search items."""

    enabled: bool = Field(True, description="false: every candidate answers every search item.")
    rungs: Annotated[int, Field(ge=2, le=10)] = Field(
        4, description="Nested prefixes of the search items, each about twice the one before."
    )
    delta: Share = Field(
        0.1, description="A candidate leaves when its chance to be on the front is below this."
    )
    margin: Fraction = Field(
        0.005, description="A smaller rise above the front, in score points, does not count."
    )
    enough: Annotated[float, Field(ge=1.0)] = Field(
        2.5,
        description="A candidate also leaves when all further items would divide the error of its "
        "scores by less than this factor (a factor nearer to 1 the surer it is to be on the "
        "front); 1: never for that reason.",
    )
    full_first: Count = Field(8, description="Number of first candidates that answer every item.")
    full_every: Count = Field(20, description="After those one in so many, by lot, as a test.")


class SearchConfig(Strict):
    """Which sampler proposes candidates, and which candidates come before its own."""

    sampler: SamplerName = Field(
        "auto",
        description="Proposes candidates; auto: the winner of our benchmark at this number of "
        "knobs and candidates, named and recorded at the start.",
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="Every random choice of the run derives from it."
    )
    warm_start: tuple[WarmStart, ...] = Field(
        ("receiver", "uniform"), description="Candidates evaluated before the sampler's."
    )
    transfer: tuple[str, ...] = Field(
        (), description="Folders of earlier runs on the same models, for warm_start `earlier`."
    )
    racing: RacingConfig = Field(
        RacingConfig(),
        description="Candidates that are behind, broken or known well enough leave early.",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_refinement(cls, fields: Any) -> Any:
        """Accept `refine: never`, which older configurations state: no run refines any more."""
        if isinstance(fields, dict) and fields.get("refine", "never") != "never":
            raise ValueError(
                "refine is no longer an option, since it gained nothing (docs/decisions/0005): "
                "remove it, and begin with as many knots as the budget suffices for"
            )
        plain = isinstance(fields, dict)
        return {k: v for k, v in fields.items() if k != "refine"} if plain else fields

    @model_validator(mode="after")
    def _earlier(self) -> SearchConfig:
        if ("earlier" in self.warm_start) != bool(self.transfer):
            raise ValueError(
                "warm_start `earlier` and `transfer` go together: it starts from their fronts"
            )
        return self


class Budget(Strict):
    """When the search ends: at the first limit that is reached. A resume may change these only."""

    candidates: Count = Field(
        200, le=10**6, description="Candidates evaluated, warm starts included."
    )
    hours: float | None = Field(None, gt=0, le=8784, description="Wall hours from start to export.")
    min_gain: float | None = Field(
        None,
        gt=0,
        description="End the search when the next hour is expected to add less than this share of "
        "the present hypervolume; 0.05 is 5 % an hour. Default: the search uses its budget.",
    )


class ReportConfig(Strict):
    """Definitions that the reported numbers depend on, and how many candidates are reported."""

    reference: dict[str, Fraction] | None = Field(
        None,
        description="Hypervolume's reference point by objective; default: the receiver's score on "
        "the first objective, 0.8 times the receiver's on the others. A cost's is its limit.",
    )
    guard: Fraction = Field(
        0.02,
        description="Loss on each other objective that a winner may have, in score points; a cost "
        "has no guard.",
    )
    guards: dict[str, Fraction] = Field(
        default_factory=dict,
        description="Objective -> its guard, where that is not `guard`; a cost may get one here.",
    )
    blind: bool = Field(
        True,
        description="Ask receiver and picks up to 500 validation items per objective once more, "
        "without their images: a gain that remains does not come from seeing.",
    )
    finalists: int = Field(12, ge=2, description="Front members scored again on validation items.")


class EngineConfig(Strict):
    """The inference engine and its resources."""

    kind: EngineKind = Field("vllm", description="vllm, or transformers (reference, slower).")
    dtype: Dtype = Field("auto", description="Arithmetic of the engine; auto: the receiver's own.")
    max_model_len: int | None = Field(
        None, ge=4, le=10**8, description="Longest prompt plus answer, tokens."
    )
    max_num_seqs: Count = Field(
        256, le=10**5, description="Questions answered at the same time by vLLM."
    )
    batch_size: Count = Field(64, le=10**5, description="The same, for the transformers engine.")
    memory_gb: float | None = Field(None, gt=0, description="KV cache in GB; default 1 on a CPU.")
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="Share of the GPU for engine and KV cache."
    )
    tensor_parallel_size: Count = Field(1, le=1024, description="GPUs of one engine.")
    multiprocess: bool | None = Field(
        None, description="Run the engine core in its own process; default: on a GPU only."
    )
    encoder_cache_gb: float = Field(4.0, ge=0, description="Memory that keeps encoded images.")
    snapshot_device: Literal["auto", "cpu", "device"] = Field(
        "auto", description="Where the sources' tensors wait: beside the model, or in RAM."
    )
    threads: Count | None = Field(
        None, le=4096, description="CPU threads of the engine; default: all."
    )
    start_seconds: float = Field(
        3600.0, gt=0, description="An engine of its own process that starts longer is ended."
    )
    stall_seconds: float = Field(
        600.0,
        gt=0,
        description="An engine of its own process that gives no answer for so long is ended and "
        "started again.",
    )
    enforce_eager: bool | None = Field(None, description="No CUDA graphs; default: on a CPU.")
    trust_remote_code: bool = Field(
        False,
        description="Run the Python code in the receiver's folder. Some families need it "
        "(MiniCPM-V, Phi-3.5-V, InternVL in its own layout). Only for code that you have read.",
    )


class TrackingConfig(Strict):
    """MLflow, which shows a copy of the run's records; it can be rebuilt at any time."""

    enabled: bool = Field(True, description="Log the run to MLflow.")
    uri: str | None = Field(
        None,
        description="Tracking URI; default: mlflow.db beside the runs. The run's files hold *** in "
        "place of its password; better, give that in MLFLOW_TRACKING_PASSWORD or _TOKEN.",
    )
    experiment: str = Field(
        "mergefront", min_length=1, max_length=200, description="MLflow experiment."
    )

    @field_serializer("uri", when_used="json")
    def _uri_without_secrets(self, uri: str | None) -> str | None:
        return None if uri is None else without_secrets(uri)


class RunConfig(Strict):
    """One complete search. The first objective is the one to gain, the others are to keep.

    An objective has tasks of its own (`objective_tasks`), or is a cost of the answers to other
    objectives' questions (`costs`).
    """

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,
        description="Directory under runs/.",
    )
    receiver: str = Field(description="The VLM: a folder, a hub id, or zoo:NAME.")
    revision: str | None = Field(None, description="Commit of the receiver's hub repository.")
    base: str | None = Field(None, description="The donors' common ancestor.")
    donors: dict[Alias, Donor] = Field(min_length=1, description="Alias -> donor.")
    vocabulary: VocabularyMode = Field(
        "receiver",
        description="How rows of embedding and head correspond, if a space merges them: as in the "
        "receiver, or by_token (rows of tokens that not every model has stay the receiver's).",
    )
    space: str = Field(description="Search space: a YAML file, or the name of a shipped one.")
    objectives: dict[str, Objective] = Field(
        description="Objective -> tasks (names of the library, or paths to task files), or a cost, "
        "which has no questions: {tokens_of: [objectives], limit: tokens}."
    )
    constraints: dict[str, Constraint] = Field(
        default_factory=dict,
        description="Objective -> its least useful score, or for a cost {tokens: most}. Sampler "
        "and guarded pick keep within it.",
    )
    items: ItemCounts = Field(default_factory=ItemCounts)
    search: SearchConfig = Field(default_factory=SearchConfig)
    budget: Budget = Field(default_factory=Budget)
    report: ReportConfig = Field(default_factory=ReportConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    export: str | None = Field(
        None,
        pattern=r"^(knee|guarded|best:[A-Za-z0-9_-]+)$",
        description="Pick that is exported to the run's folder best/ when the search ends: knee, "
        "guarded (best first objective within the guards of the others), best:OBJECTIVE.",
    )
    format: Literal["mergefront/run@1"] = "mergefront/run@1"

    @field_validator("objectives")
    @classmethod
    def _objectives(cls, objectives: dict[str, Objective]) -> dict[str, Objective]:
        if not 2 <= len(objectives) <= 4:
            raise ValueError(f"expected 2 to 4 objectives, found {len(objectives)}")
        with_tasks = [k for k, v in objectives.items() if not isinstance(v, TokenCost)]
        first = next(iter(objectives))
        if first not in with_tasks:
            raise ValueError(
                f"the first objective is to be gained, but {first!r} is a cost: "
                "put an objective with tasks of its own first"
            )
        lists = (value for value in objectives.values() if not isinstance(value, TokenCost))
        tasks = [task for names in lists for task in names]
        repeated = [task for task, times in Counter(tasks).items() if times > 1][:5]
        if repeated:
            raise ValueError(f"expected each task once, found more often: {', '.join(repeated)}")
        for name, objective in objectives.items():
            if not _OBJECTIVE_NAME.fullmatch(name):
                raise ValueError(
                    f"{name[:60]!r} ({len(name):,} characters) cannot name an objective: use 1 to "
                    "60 letters, digits, spaces and _ - . + ( )"
                )
            if not objective:
                raise ValueError(f"objective {name!r} has no task")
            if isinstance(objective, TokenCost):
                scored, kind = objective.tokens_of, "objectives with tasks of their own"
                _check_known(f"{name}.tokens_of", scored, with_tasks, kind)
                if len(set(scored)) < len(scored):
                    raise ValueError(f"{name}.tokens_of names an objective twice")
        return objectives

    @model_validator(mode="after")
    def _names_of_objectives(self) -> RunConfig:
        names = list(self.objectives)
        if self.export not in {None, "knee", "guarded", *(f"best:{name}" for name in names)}:
            raise ValueError(f"export: no objective is named {self.export!r}")
        reference, expected = self.report.reference, sorted(self.objective_tasks)
        if reference is not None and sorted(reference) != expected:
            kind = "objectives with tasks of their own" if self.costs else "objectives"
            raise ValueError(
                f"report.reference names {sorted(reference)}, the {kind} are {expected}"
            )
        _check_known("report.guards", self.report.guards, names[1:], "objectives to keep")
        _check_known("constraints", self.constraints, names, "objectives")
        return self

    @model_validator(mode="after")
    def _token_limits(self) -> RunConfig:
        for name, constraint in self.constraints.items():
            if not isinstance(constraint, TokenLimit):
                continue
            if name not in self.costs:
                raise ValueError(
                    f"constraints.{name} is in tokens, but {name} is no cost: expected the least "
                    "score, 0 to 1"
                )
            if constraint.tokens >= (limit := self.costs[name].limit):
                raise ValueError(
                    f"constraints.{name}: at most {constraint.tokens:g} tokens, but no answer "
                    f"counts as more than its limit of {limit}: give fewer, or raise the limit"
                )
        return self

    @property
    def objective_tasks(self) -> dict[str, tuple[str, ...]]:
        """Objective -> its tasks; costs are left out."""
        return {k: v for k, v in self.objectives.items() if not isinstance(v, TokenCost)}

    @property
    def costs(self) -> dict[str, TokenCost]:
        """Objective -> its definition, of the objectives that are costs."""
        return {k: v for k, v in self.objectives.items() if isinstance(v, TokenCost)}

    @property
    def least_scores(self) -> dict[str, float]:
        """Objective -> the least score that its constraint asks for; the others are left out."""
        return {
            name: self.costs[name].score(limit.tokens) if isinstance(limit, TokenLimit) else limit
            for name, limit in self.constraints.items()
        }

    @property
    def guards(self) -> dict[str, float]:
        """Objective -> the loss on it that a winner may have, in score points; the first has none.

        A cost is a price and has no guard, unless `report.guards` names it.
        """
        named, common = self.report.guards, self.report.guard
        return {
            name: named.get(name, common)
            for name in list(self.objectives)[1:]
            if name in named or name in self.objective_tasks
        }


def _check_known(field: str, names: Iterable[str], known: Sequence[str], kind: str) -> None:
    """Raise ValueError if a field names what is not among the known objectives of a kind."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"{field} names {', '.join(unknown)}; the {kind} are {', '.join(known)}")


def load_run_config(name: str, changes: Mapping[str, object] | None = None) -> RunConfig:
    """Read a run configuration, with absolute paths: a YAML file, or a shipped one by name.

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
            fields = data.get(section) or {}
            # Whatever is no mapping stays, for `validate` to name it.
            data[section] = {**fields, key: value} if isinstance(fields, dict) else fields
        elif value is not None:
            data[key] = value
    return with_absolute_paths(validate(data, RunConfig, str(path)))


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return the configuration with every path that exists made absolute."""

    def folder(name: str | None) -> str | None:
        # os.path, since Path.is_dir would raise for a name that is too long.
        exists = name and not name.startswith("zoo:") and os.path.isdir(name)
        return str(Path(name).absolute()) if name and exists else name

    def file(name: str) -> str:
        """A space or task file; the name of a shipped one stays."""
        return str(Path(name).absolute()) if os.path.isfile(name) else name

    data = config.model_dump()
    for names in (data, *data["donors"].values()):
        fields = names.keys() & {"receiver", "base", "model", "adapter"}
        names.update({field: folder(names[field]) for field in fields})
    data["space"] = file(config.space)
    for objective, tasks in config.objective_tasks.items():
        data["objectives"][objective] = tuple(map(file, tasks))
    data["search"]["transfer"] = tuple(map(folder, config.search.transfer))
    return RunConfig.model_validate(data)
