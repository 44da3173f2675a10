"""`mergefront plan`: what a search would do, download, need and take, before anything is loaded.

Checked without weights: the configuration, its space and tasks; for models config.json and
tensor headers, from disk or asked of the hub. Not here: what only tensors can tell (`inspection`
and `lineage`), and what is installed (`doctor`).

Reading order: `make_plan`, `facts` (what is known of a model), `backbone` (do they fit), `cost`
and `memory` (dimensions, questions, time, GiB), `tasks` (are there enough items), `checks` (what
to warn of), `tables`; `pairs` makes the page of shipped pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mergefront import files
from mergefront.config import RunConfig, load_run_config
from mergefront.errors import SpaceError
from mergefront.jobs.plan import checks, cost
from mergefront.jobs.plan.backbone import Backbone, backbone_of, judge, lineage
from mergefront.jobs.plan.facts import Hub, ModelFacts, look_up, look_up_adapter
from mergefront.jobs.plan.memory import Memory, memory_of
from mergefront.jobs.plan.remark import Remark
from mergefront.jobs.plan.tasks import TaskSize, task_sizes
from mergefront.space.budget import suitable_candidates
from mergefront.space.file import SpaceSpec, load_space
from mergefront.space.space import Space

__all__ = ["Hub", "Plan", "Remark", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """Everything `mergefront plan` prints.

    `verdicts`: role -> does its language model fit the receiver's. `dimension` is exact if
    `stack` is "headers" or "config", else computed for an assumed number of layers.
    """

    config: RunConfig
    spec: SpaceSpec
    models: tuple[ModelFacts, ...]
    backbones: dict[str, Backbone]
    verdicts: dict[str, str]
    dimension: int | None
    stack: str
    tasks: tuple[TaskSize, ...]
    questions: tuple[cost.Questions, ...]
    memory: Memory
    duration: cost.Duration | None
    remarks: tuple[Remark, ...]

    @property
    def works(self) -> bool:
        """Whether nothing was found that cannot work."""
        return all(remark.level != "error" for remark in self.remarks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for --json."""
        models = [
            {key: value for key, value in vars(one).items() if key not in ("config", "headers")}
            | {
                "backbone": asdict(self.backbones[one.role])
                if one.role in self.backbones
                else None,
                "verdict": self.verdicts.get(one.role),
            }
            for one in self.models
        ]
        return {
            "run": self.config.name,
            "works": self.works,
            "models": models,
            "search": {
                "method": self.spec.method,
                "dimension": self.dimension,
                "layers_known_from": self.stack,
                "candidates": self.config.budget.candidates,
                "suits": suitable_candidates(self.dimension),
            },
            "tasks": [asdict(one) for one in self.tasks],
            "questions": [asdict(one) | {"asked": one.asked} for one in self.questions],
            "memory": asdict(self.memory) | {"pinned": self.memory.pinned},
            "duration": None
            if self.duration is None
            else asdict(self.duration) | {"total": self.duration.total},
            "remarks": [remark.to_dict() for remark in self.remarks],
        }


def make_plan(
    name: str,
    *,
    hub: Hub | None,
    gpu_gib: float | None = None,
    seconds_per_1000: float | None = None,
    runs: Path | None = None,
) -> Plan:
    """Plan the run of a configuration: a YAML file, or the name of a shipped one.

    Args:
        hub: asked for what is not on this machine; None: nothing is asked.
        gpu_gib: memory of one GPU, for where everything would lie.
        seconds_per_1000: how long 1,000 questions take, for the time.
        runs: directory of earlier runs, whose measured times serve where that is not given.

    Raises:
        ConfigError: the configuration, its space or a task file is faulty or missing.
    """
    config = load_run_config(name)
    spec = load_space(files.find_yaml("search_spaces", config.space))
    models = tuple(_look_up_all(config, hub))
    backbones = {one.role: backbone_of(one.config) for one in models if one.config is not None}
    verdicts, remarks = _judged(models, spec, config.vocabulary == "by_token")
    receiver = models[0]
    stack = cost.groups_of(receiver, backbones.get("receiver"))
    space, problem = _laid_out(config, spec, stack)
    dimension = None if space is None else space.dimension
    sizes = task_sizes(config)
    asked = tuple(cost.questions(config))
    need = memory_of(config, spec, receiver, stack, backbones.get("receiver"), gpu_gib)
    rate = checks.rate(seconds_per_1000, runs, config)
    took = None if rate is None else cost.duration(config, asked, *rate)
    remarks = [
        *checks.models(models),
        *checks.bases(config, spec),
        *remarks,
        *problem,
        *checks.budget(config, space),
        *checks.items(config, sizes, need.context),
        *checks.costs(config, sizes),
        *checks.engine(config, receiver),
        *checks.memory(config, need),
        *checks.time(config, took),
        *checks.disk(models),
    ]
    return Plan(
        config, spec, models, backbones, verdicts, dimension, stack.source, tuple(sizes), asked,
        need, took, tuple(remarks),
    )  # fmt: skip


def _look_up_all(config: RunConfig, hub: Hub | None) -> list[ModelFacts]:
    """The receiver first, then the common base, then every donor and its own base."""
    found = [look_up("receiver", config.receiver, config.revision, hub)]
    if config.base is not None:
        found.append(look_up("base", config.base, None, hub))
    for alias, donor in config.donors.items():
        found.append(look_up(f"donor {alias}", donor.model, donor.revision, hub))
        if donor.adapter is not None:
            role = f"adapter of {alias}"
            found.append(look_up_adapter(role, donor.adapter, donor.adapter_revision, hub))
        if donor.base is not None:
            found.append(look_up(f"base of {alias}", donor.base, None, hub))
    return found


def _judged(
    models: Sequence[ModelFacts], spec: SpaceSpec, by_token: bool
) -> tuple[dict[str, str], list[Remark]]:
    """Every model against the receiver, every donor that is no adapter against its base."""
    receiver, by_role = models[0], {one.role: one for one in models}
    moved = {part for line in spec.knobs for part in line.parts}
    verdicts: dict[str, str] = {}
    remarks: list[Remark] = []
    for one in models[1:]:
        if one.role.startswith("adapter"):
            continue
        verdicts[one.role], found = judge(receiver, one, moved, by_token=by_token)
        is_base = one.role.startswith("base")
        remarks += [r for r in found if not is_base or r.level == "error"]
    for role, donor in by_role.items():
        alias = role.removeprefix("donor ")
        base = by_role.get(f"base of {alias}", by_role.get("base"))
        if alias != role and base is not None and f"adapter of {alias}" not in by_role:
            remarks += lineage(donor, base)
    return verdicts, remarks


def _laid_out(
    config: RunConfig, spec: SpaceSpec, stack: cost.Stack
) -> tuple[Space | None, list[Remark]]:
    """The space, or None with the reason: it does not fit, or depends on the layers' number."""
    if stack.source == "assumed" and any(line.layers == "each" for line in spec.knobs):
        return None, []
    try:
        space = Space.build(spec, list(config.donors), stack.groups)
    except SpaceError as problem:
        if stack.source == "assumed":
            return None, []
        return None, [Remark("error", "space", problem.message, problem.hint)]
    return space, []
