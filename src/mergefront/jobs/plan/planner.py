"""The plan of a run, made of what `facts`, `backbone`, `cost`, `memory` and `tasks` compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mergefront import files
from mergefront.config import RunConfig, load_run_config
from mergefront.errors import SpaceError
from mergefront.jobs.plan import backbone, checks, cost
from mergefront.jobs.plan.backbone import Backbone
from mergefront.jobs.plan.cost import Duration, GroupSizes, Questions, SizeSource, TaskSize
from mergefront.jobs.plan.facts import Hub, ModelFacts, Remark, look_up, look_up_adapter
from mergefront.jobs.plan.memory import Memory, engine_memory
from mergefront.records import plain
from mergefront.space.budget import suitable_candidates
from mergefront.space.file import SpaceSpec, load_space
from mergefront.space.space import Space


@dataclass(frozen=True)
class RunForecast:
    """Everything `mergefront plan` prints.

    `backbones` maps a model's role to the sizes of its language model. `verdicts` maps it to
    whether those fit the receiver's. `dimension` is computed from the layers that `layers_source`
    names: exact from "headers" and "config", for an assumed number of layers otherwise, None if it
    depends on that number.
    """

    config: RunConfig
    spec: SpaceSpec
    models: tuple[ModelFacts, ...]
    backbones: dict[str, Backbone]
    verdicts: dict[str, str]
    dimension: int | None
    layers_source: SizeSource
    tasks: tuple[TaskSize, ...]
    questions: tuple[Questions, ...]
    memory: Memory
    duration: Duration | None
    remarks: tuple[Remark, ...]

    @property
    def works(self) -> bool:
        """Whether no remark is an error."""
        return all(remark.level != "error" for remark in self.remarks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for --json."""
        return {
            "run": self.config.name,
            "works": self.works,
            "models": [self._model_dict(facts) for facts in self.models],
            "search": {
                "method": self.spec.method,
                "dimension": self.dimension,
                "layers_known_from": self.layers_source,
                "candidates": self.config.budget.candidates,
                "suits": suitable_candidates(self.dimension),
            },
            "tasks": [
                plain(size, needed="wanted", available="there", location="where")
                for size in self.tasks
            ],
            "questions": [plain(q) | {"asked": q.total} for q in self.questions],
            "memory": plain(self.memory, encoder_cache="encoded", placement="placed")
            | {"pinned": self.memory.pinned},
            "duration": self.duration
            and plain(self.duration, affordable="fits") | {"total": self.duration.total},
            "remarks": [plain(remark, hint="mend") for remark in self.remarks],
        }

    def _model_dict(self, facts: ModelFacts) -> dict[str, Any]:
        sizes = self.backbones.get(facts.role)
        data = vars(facts) | {
            "backbone": sizes and asdict(sizes),
            "verdict": self.verdicts.get(facts.role),
        }
        return {key: value for key, value in data.items() if key not in ("config", "headers")}


def make_plan(
    name: str,
    *,
    hub: Hub | None,
    gpu_gib: float | None = None,
    seconds_per_1000: float | None = None,
    runs: Path | None = None,
) -> RunForecast:
    """Plan the run of a configuration: a YAML file, or the name of a shipped one.

    Args:
        hub: asked for what is not on this machine; with None, nothing is asked.
        gpu_gib: memory of one GPU; without it, the plan does not say what goes where.
        seconds_per_1000: how long 1,000 questions take.
        runs: directory of earlier runs, whose measured times are used without `seconds_per_1000`.

    Raises:
        ConfigError: the configuration, its space or a task file is faulty or missing.
    """
    config = load_run_config(name)
    spec = load_space(files.find_yaml("search_spaces", config.space))
    models = tuple(_look_up_models(config, hub))
    backbones = {m.role: backbone.backbone_of(m.config) for m in models if m.config is not None}
    verdicts, fit_remarks = _compare_models(models, spec, config)
    receiver, receiver_backbone = models[0], backbones.get("receiver", Backbone())
    sizes = cost.group_sizes(receiver, receiver_backbone)
    space, space_remarks = _build_space(config, spec, sizes)
    tasks = tuple(cost.task_sizes(config))
    questions = tuple(cost.count_questions(config))
    memory = engine_memory(config, spec, receiver, sizes, receiver_backbone, gpu_gib)
    rate = cost.question_rate(seconds_per_1000, runs, config)
    duration = None if rate is None else cost.estimate_duration(config, questions, *rate)
    remarks = (
        *checks.model_remarks(models),
        *checks.base_remarks(config, spec),
        *fit_remarks,
        *space_remarks,
        *checks.budget_remarks(config, space),
        *checks.item_remarks(config, tasks, memory.context),
        *checks.token_cost_remarks(config, tasks),
        *checks.engine_remarks(config, receiver),
        *checks.memory_remarks(config, memory),
        *checks.time_remarks(config, duration),
        *checks.disk_remarks(models),
    )
    return RunForecast(
        config=config,
        spec=spec,
        models=models,
        backbones=backbones,
        verdicts=verdicts,
        dimension=None if space is None else space.dimension,
        layers_source=sizes.source,
        tasks=tasks,
        questions=questions,
        memory=memory,
        duration=duration,
        remarks=remarks,
    )


def _look_up_models(config: RunConfig, hub: Hub | None) -> list[ModelFacts]:
    """Describe the receiver first, then the common base, then every donor and its own base."""
    models = [look_up("receiver", config.receiver, config.revision, hub)]
    if config.base is not None:
        models.append(look_up("base", config.base, None, hub))
    for alias, donor in config.donors.items():
        models.append(look_up(f"donor {alias}", donor.model, donor.revision, hub))
        if donor.adapter is not None:
            role = f"adapter of {alias}"
            models.append(look_up_adapter(role, donor.adapter, donor.adapter_revision, hub))
        if donor.base is not None:
            models.append(look_up(f"base of {alias}", donor.base, None, hub))
    return models


def _compare_models(
    models: Sequence[ModelFacts], spec: SpaceSpec, config: RunConfig
) -> tuple[dict[str, str], list[Remark]]:
    """Compare every model with the receiver, and every donor without an adapter with its base."""
    receiver, by_role = models[0], {facts.role: facts for facts in models}
    searched_parts = {part for line in spec.knobs for part in line.parts}
    bases = {"base", *(f"base of {alias}" for alias in config.donors)}
    adapters = {f"adapter of {alias}" for alias in config.donors}
    by_token = config.vocabulary == "by_token"
    verdicts: dict[str, str] = {}
    remarks: list[Remark] = []
    for facts in models[1:]:
        if facts.role in adapters:
            continue
        verdict, fit_remarks = backbone.compare_backbones(
            receiver, facts, searched_parts, by_token=by_token
        )
        verdicts[facts.role] = verdict
        remarks += [r for r in fit_remarks if facts.role not in bases or r.level == "error"]
    for alias, donor in config.donors.items():
        base = by_role.get(f"base of {alias}", by_role.get("base"))
        if base is not None and donor.adapter is None:
            remarks += backbone.lineage_remarks(by_role[f"donor {alias}"], base)
    return verdicts, remarks


def _build_space(
    config: RunConfig, spec: SpaceSpec, sizes: GroupSizes
) -> tuple[Space | None, list[Remark]]:
    """Build the space; None if it does not fit the models, or needs the number of layers."""
    if sizes.source == "assumed" and any(line.layers == "each" for line in spec.knobs):
        return None, []
    try:
        return Space.build(spec, list(config.donors), sizes.groups), []
    except SpaceError as error:
        if sizes.source == "assumed":
            return None, []
        return None, [Remark("error", "space", error.message, error.hint)]
