"""What `mergefront plan` warns of. Each check yields remarks, none if it has no objection."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from mergefront.config import RunConfig
from mergefront.errors import UserError
from mergefront.jobs.plan.cost import MARGIN, Duration, TaskSize
from mergefront.jobs.plan.facts import ModelFacts, Remark
from mergefront.jobs.plan.memory import ACTIVATIONS, GIB, Memory
from mergefront.merging.methods import method_of
from mergefront.models.checkpoint import architecture_of
from mergefront.space.budget import judge_budget
from mergefront.space.file import SpaceSpec
from mergefront.space.space import Space
from mergefront.tasks import item_set

_SMALL_GIB = 0.05


def model_remarks(models: Sequence[ModelFacts]) -> Iterator[Remark]:
    """Name models that cannot be used, what is not known of the others, and missing pins."""
    for facts in models:
        if facts.broken:
            yield Remark("error", facts.role, f"{facts.model}: {facts.trouble}")
        elif facts.trouble:
            known = "only its config.json is known" if facts.config else "nothing is known of it"
            message = f"{facts.model} is not on this machine, and {known}: {facts.trouble}"
            yield Remark("note", facts.role, message)
        if facts.state == "hub" and "@" not in facts.model:
            hint = f"pin it: {facts.commit}" if facts.commit else ""
            yield Remark("note", facts.role, f"{facts.model} is not pinned", hint)


def base_remarks(config: RunConfig, spec: SpaceSpec) -> Iterator[Remark]:
    """Name donors without the base that the method takes their delta from."""
    method = method_of(spec.method, spec.start_parameters)
    sources = {
        source for term in method.terms(tuple(config.donors)) for source in method.reads(term)
    }
    for alias, donor in config.donors.items():
        base = donor.base or config.base or donor.adapter  # an adapter's base is its model
        if f"base:{alias}" in sources and base is None:
            message = f"method {spec.method} takes a donor's delta from its base, but it has none"
            hint = f"name its base: `donors.{alias}.base`, or `base` for all donors"
            yield Remark("error", f"donor {alias}", message, hint)
    if "base" in sources and config.base is None:
        hint = "name the common ancestor under `base`"
        yield Remark("error", "base", f"method {spec.method} needs a common base", hint)


def budget_remarks(config: RunConfig, space: Space | None) -> Iterator[Remark]:
    """Warn of too few candidates for the space's dimension; a search refuses what is an error."""
    problem = None if space is None else judge_budget(space, config.budget.candidates)
    if problem is not None:
        yield Remark(problem.level, "budget", problem.message, problem.hint)


def item_remarks(config: RunConfig, tasks: Sequence[TaskSize], context: int) -> Iterator[Remark]:
    """Warn of more items than the tasks have, and of answers longer than the context."""
    for size in tasks:
        yield from _split_remarks(size)
        if size.max_tokens >= context:
            message = (
                f"{size.task} allows answers of {size.max_tokens} tokens, but prompt and answer "
                f"together may have only {context}"
            )
            hint = f"set engine.max_model_len to {2 * size.max_tokens} or more"
            yield Remark("error", "engine", message, hint)
    absent = [size.task for size in tasks if size.location == "to fetch"]
    short = any(size.short_splits for size in tasks)
    if not absent and not short and not all(size.exact for size in tasks):
        try:  # the only way to count them: the questions are on this machine, so load them
            item_set(config.objective_tasks, config.items, Path())
        except UserError as error:
            yield Remark("error", "items", error.message, error.hint)
    if absent:
        message = f"the questions of {', '.join(absent)} are not on this machine yet"
        command = f"mergefront tasks fetch {' '.join(absent)}"
        hint = f"a search fetches them; to fetch them now: {command}"
        yield Remark("note", "items", message, hint)


def _split_remarks(size: TaskSize) -> Iterator[Remark]:
    for split in size.short_splits:
        available = f"{'' if size.exact else 'about '}{(size.available or {})[split]}"
        message = f"{size.task} needs {size.needed[split]} {split} items, but has {available}"
        hint = f"lower items.{split}, or add a task to {size.objective}"
        yield Remark("error", f"items.{split}", message, hint)
    if size.uncertain_splits:
        splits = " and ".join(size.uncertain_splits)
        message = f"{size.task} has hardly more {splits} items than needed, or by chance too few"
        yield Remark("warning", "items", message, "lower their number by a tenth")


def token_cost_remarks(config: RunConfig, tasks: Sequence[TaskSize]) -> Iterator[Remark]:
    """Name costs whose limit is lower than answers may be long: longer ones all count the same."""
    for name, cost in config.costs.items():
        longest = max(size.max_tokens for size in tasks if size.objective in cost.tokens_of)
        if longest > cost.limit:
            message = (
                f"answers may have {longest} tokens, but count as {cost.limit} at most, so that "
                "the mean in tokens is too low"
            )
            hint = f"set its limit to {longest}, unless all longer answers are alike to you"
            yield Remark("note", f"objectives.{name}", message, hint)


def engine_remarks(config: RunConfig, receiver: ModelFacts) -> Iterator[Remark]:
    """Name a receiver that the chosen engine has no class for."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if receiver.config is None:
        return
    model_type = str(receiver.config.get("model_type"))
    architecture = architecture_of(receiver.config)
    if model_type not in CONFIG_MAPPING_NAMES:
        message = (
            f"transformers has no class for model type {model_type!r}: the repository brings its "
            "own code, which is not run"
        )
        hint = "take the conversion to transformers' layout (often named ...-hf)"
        yield Remark("error", "receiver", message, hint)
    elif (
        config.engine.kind == "vllm"
        and (registry := _vllm_registry()) is not None
        and f'"{architecture}"' not in registry
    ):
        message = f"the installed vLLM has no class {architecture}"
        yield Remark("error", "engine", message, "set engine.kind to transformers")


def _vllm_registry() -> str | None:
    """Return the source of vLLM's list of models, None without vLLM.

    It is read as text, since importing vLLM takes ten seconds.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "model_executor" / "models" / "registry.py"
    return file.read_text(encoding="utf-8") if file.is_file() else None


def memory_remarks(config: RunConfig, need: Memory) -> Iterator[Remark]:
    """Warn of an engine that does not fit its GPUs, and of terms that wait in host memory."""
    if need.gpu_gib is None or need.weights is None:
        return
    if need.kv_room is None or need.kv_room < need.answers():
        share = need.weights + ACTIVATIONS + (need.kv_room or 0.0)
        message = (
            f"the engine's share of {share:.1f} GiB holds {need.weights:.1f} GiB of weights and "
            f"{ACTIVATIONS:g} GiB of activations, and has no room for one answer of {need.context} "
            "tokens"
        )
        hint = (
            "raise engine.gpu_memory_utilization or engine.tensor_parallel_size, or lower "
            "engine.max_model_len"
        )
        yield Remark("error", "memory", message, hint)
        return
    spare = need.gpu_gib - need.weights - ACTIVATIONS - need.kv_room
    if need.on_device + need.encoder_cache > spare:
        message = (
            f"sources ({need.on_device:.1f} GiB) and encoded images (up to "
            f"{need.encoder_cache:.1f} GiB) lie beside the engine's share, which leaves only "
            f"{spare:.1f} GiB"
        )
        hint = "lower engine.gpu_memory_utilization or engine.encoder_cache_gb"
        yield Remark("error" if need.on_device > spare else "warning", "memory", message, hint)
    if need.pinned >= _SMALL_GIB:
        yield from _pinned_remarks(config, need)


def _pinned_remarks(config: RunConfig, need: Memory) -> Iterator[Remark]:
    pinned = f"{need.pinned:.1f} GiB"
    hint = "to keep all on the device: more GPUs, or fewer donors"
    if config.engine.snapshot_device == "cpu":
        hint = "engine.snapshot_device: cpu demands it"
    elif need.best_utilization is not None:
        share = f"engine.gpu_memory_utilization: {need.best_utilization:.2f}"
        hint = f"to keep all on the device: {share}"
    message = f"{pinned} of sources wait in pinned host RAM, and every candidate reads them"
    yield Remark("note", "memory", message, hint)
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    if need.pinned > ram:
        message = f"{pinned} of pinned RAM are more than this machine's {ram:.0f} GiB of RAM"
        hint = "run plan on the machine that will run the search"
        yield Remark("warning", "memory", message, hint)


def time_remarks(config: RunConfig, duration: Duration | None) -> Iterator[Remark]:
    """Warn of a budget of hours that ends the search early, or leaves no time to search."""
    hours, candidates = config.budget.hours, config.budget.candidates
    if duration is None or hours is None or duration.affordable is None:
        return
    if duration.affordable < 1:
        message = f"{hours:g} h leave no time to search: validation and test alone take longer"
        hint = "raise budget.hours, or lower items.validation and items.test"
        yield Remark("error", "budget", message, hint)
    elif duration.affordable < candidates:
        affordable = f"about {duration.affordable} of {candidates} candidates"
        hint = f"raise budget.hours to {duration.total * MARGIN:.1f}, or lower items.search"
        yield Remark("warning", "budget", f"{hours:g} h are enough for {affordable}", hint)


def disk_remarks(models: Sequence[ModelFacts]) -> Iterator[Remark]:
    """Warn of too little disk space for what would be downloaded."""
    from huggingface_hub import constants

    needed = sum({facts.model: facts.to_download or 0 for facts in models}.values())
    cache = Path(constants.HF_HUB_CACHE)
    folder = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        message = (
            f"{needed / 1e9:.0f} GB to download, but only {free / 1e9:.0f} GB free in {folder}"
        )
        yield Remark("error", "disk", message, "make room, or set HF_HOME to a larger disk")
