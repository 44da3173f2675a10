"""What `mergefront plan` warns of: each check returns remarks, none if all is well."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from mergefront.config import RunConfig
from mergefront.errors import MergefrontError, UserError
from mergefront.jobs.plan import cost
from mergefront.jobs.plan.facts import ModelFacts
from mergefront.jobs.plan.memory import ACTIVATIONS, GIB, Memory, one_sequence
from mergefront.jobs.plan.remark import Remark
from mergefront.jobs.plan.tasks import TaskSize
from mergefront.merging.methods import METHODS
from mergefront.records import SPLITS
from mergefront.runs.directory import RunDirectory
from mergefront.runs.history import evaluations, open_study
from mergefront.space.budget import judge_budget
from mergefront.space.file import SpaceSpec
from mergefront.space.space import Space
from mergefront.tasks import item_set


def models(found: Sequence[ModelFacts]) -> list[Remark]:
    """Models that cannot be used, and what is not known of the others."""
    remarks = []
    for one in found:
        if one.broken:
            remarks.append(Remark("error", one.role, f"{one.model}: {one.trouble}"))
        elif one.trouble:
            what = "config.json is here, no tensors" if one.config else "not here, nothing is known"
            remarks.append(Remark("note", one.role, f"{one.model}: {what}: {one.trouble}"))
        if one.state == "hub" and "@" not in one.model:
            hint = f"pin it: {one.commit}" if one.commit else ""
            remarks.append(Remark("note", one.role, f"{one.model} is not pinned", hint))
    return remarks


def bases(config: RunConfig, spec: SpaceSpec) -> list[Remark]:
    """Donors without the base that the method takes their delta from."""
    method = METHODS[spec.method]
    read = {
        source
        for term in method.terms(tuple(config.donors), spec.start_parameters)
        for source in method.reads(term, spec.start_parameters)
    }
    remarks = []
    for alias, donor in config.donors.items():
        named = donor.base or config.base or donor.adapter  # an adapter's base is its model
        if f"base:{alias}" in read and named is None:
            message = f"method {spec.method} takes its delta from its base, and none is named"
            hint = f"name it: `donors.{alias}.base`, or `base` for all"
            remarks.append(Remark("error", f"donor {alias}", message, hint))
    if "base" in read and config.base is None:
        hint = "name the common ancestor under `base`"
        remarks.append(Remark("error", "base", f"method {spec.method} needs a common base", hint))
    return remarks


def budget(config: RunConfig, space: Space | None) -> list[Remark]:
    """Too few candidates for the space's dimension; a search refuses what is an error here."""
    found = None if space is None else judge_budget(space, config.budget.candidates)
    return [] if found is None else [Remark(found.level, "budget", found.message, found.hint)]


def items(config: RunConfig, sizes: Sequence[TaskSize], context: int) -> list[Remark]:
    """More items than the sets have, answers longer than the context; what is here is loaded."""
    remarks = []
    for one in sizes:
        for split in one.short:
            there = (one.there or {})[split]
            message = (
                f"{one.wanted[split]} {split} items are asked of {one.task}, it has "
                f"{there}{'' if one.exact else ' or so'}"
            )
            hint = f"lower items.{split}, or add a task to {one.objective}"
            remarks.append(Remark("error", f"items.{split}", message, hint))
        if one.doubtful:
            message = (
                f"{one.task} may fall short of its {' and '.join(one.doubtful)} items by chance"
            )
            remarks.append(Remark("warning", "items", message, "lower them by a tenth"))
        if one.max_tokens >= context:
            message = (
                f"{one.task} allows answers of {one.max_tokens} tokens, prompt and answer together "
                f"may have {context}"
            )
            hint = f"set engine.max_model_len to {2 * one.max_tokens} or more"
            remarks.append(Remark("error", "engine", message, hint))
    here = not any(one.where == "to fetch" for one in sizes) and not any(one.short for one in sizes)
    if here and not all(one.exact for one in sizes):  # the counted ones need no loading
        try:
            item_set(config.objective_tasks, config.items, Path())
        except UserError as problem:
            remarks.append(Remark("error", "items", problem.message, problem.hint))
    if absent := [one.task for one in sizes if one.where == "to fetch"]:
        message = f"the questions of {', '.join(absent)} are not here yet: a search fetches them"
        hint = f"to fetch them now: mergefront tasks fetch {' '.join(absent)}"
        remarks.append(Remark("note", "items", message, hint))
    return remarks


def costs(config: RunConfig, sizes: Sequence[TaskSize]) -> list[Remark]:
    """Costs whose limit lies below what an answer may have: longer ones all count the same."""
    remarks = []
    for name, one in config.costs.items():
        longest = max(task.max_tokens for task in sizes if task.objective in one.tokens_of)
        if longest > one.limit:
            message = (
                f"answers may have {longest} tokens, but count as {one.limit} at most: a mean in "
                "tokens then says too little"
            )
            hint = f"set its limit to {longest}, unless longer answers are all alike to you"
            remarks.append(Remark("note", f"objectives.{name}", message, hint))
    return remarks


def engine(config: RunConfig, receiver: ModelFacts) -> list[Remark]:
    """A receiver that the chosen engine has no class for."""
    if receiver.config is None:
        return []
    model_type = str(receiver.config.get("model_type"))
    architecture = (receiver.config.get("architectures") or ["?"])[0]
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if model_type not in CONFIG_MAPPING_NAMES:
        message = (
            f"transformers has no class for model type {model_type!r}: the repository brings its "
            "own code, which is not run"
        )
        hint = "take the conversion to transformers' layout (often named ...-hf)"
        return [Remark("error", "receiver", message, hint)]
    known = _vllm_architectures()
    if config.engine.kind == "vllm" and known is not None and f'"{architecture}"' not in known:
        message = f"the vLLM installed here has no {architecture}"
        return [Remark("error", "engine", message, "set engine.kind to transformers")]
    return []


def _vllm_architectures() -> str | None:
    """vLLM's list of models as text, for importing it takes ten seconds; None without vLLM."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "model_executor" / "models" / "registry.py"
    return file.read_text(encoding="utf-8") if file.is_file() else None


def memory(config: RunConfig, need: Memory) -> list[Remark]:
    """An engine that does not fit its GPUs, or sources that wait in host memory."""
    if need.gpu_gib is None or need.weights is None:
        return []
    if need.kv_room is None or need.kv_room < one_sequence(need):
        share = need.weights + ACTIVATIONS + (need.kv_room or 0.0)
        message = (
            f"the engine's share of {share:.1f} GiB has {need.weights:.1f} GiB of weights and "
            f"{ACTIVATIONS:g} GiB of activations, and no room for one answer of {need.context} "
            "tokens"
        )
        hint = (
            "raise engine.gpu_memory_utilization or engine.tensor_parallel_size, or lower "
            "engine.max_model_len"
        )
        return [Remark("error", "memory", message, hint)]
    remarks = []
    device = sum(size for name, size in need.terms if (need.placed or {})[name] == "device")
    spare = need.gpu_gib - need.weights - ACTIVATIONS - need.kv_room
    if device + need.encoded > spare:
        message = (
            f"sources ({device:.1f} GiB) and encoded images (up to {need.encoded:.1f} GiB) lie "
            f"beside the engine's share, which leaves {spare:.1f} GiB"
        )
        hint = "lower engine.gpu_memory_utilization or engine.encoder_cache_gb"
        too_much = device > spare
        remarks.append(Remark("error" if too_much else "warning", "memory", message, hint))
    if need.pinned >= 0.05:
        message = f"{need.pinned:.1f} GiB of sources wait in pinned host RAM, read per candidate"
        if config.engine.snapshot_device == "cpu":
            hint = "as engine.snapshot_device: cpu asks"
        elif need.best_utilization is None:
            hint = "to keep all on the device: more GPUs, or fewer donors"
        else:
            share = need.best_utilization
            hint = f"to keep all on the device: engine.gpu_memory_utilization: {share:.2f}"
        remarks.append(Remark("note", "memory", message, hint))
        ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
        if need.pinned > ram:
            message = f"that is more than this machine's {ram:.0f} GiB of RAM"
            remarks.append(Remark("warning", "memory", message, "plan on the machine that runs it"))
    return remarks


def time(config: RunConfig, took: cost.Duration | None) -> list[Remark]:
    """A budget of hours that ends the search early, or leaves no room for one."""
    hours = config.budget.hours
    if took is None or hours is None or took.fits is None:
        return []
    if took.fits < 1:
        message = f"{hours:g} h leave no time to search: validation and test alone take longer"
        hint = "raise budget.hours, or lower items.validation and items.test"
        return [Remark("error", "budget", message, hint)]
    if took.fits < config.budget.candidates:
        message = (
            f"{hours:g} h are enough for about {took.fits} of {config.budget.candidates} candidates"
        )
        hint = f"raise budget.hours to {took.total * cost.MARGIN:.1f}, or lower items.search"
        return [Remark("warning", "budget", message, hint)]
    return []


def disk(found: Sequence[ModelFacts]) -> list[Remark]:
    """Too little disk for what would be downloaded."""
    from huggingface_hub import constants

    needed = sum(size for size in {one.model: one.to_download or 0 for one in found}.values())
    place = Path(constants.HF_HUB_CACHE)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed <= free:
        return []
    message = f"{needed / 1e9:.0f} GB to download, {free / 1e9:.0f} GB free in {place}"
    return [Remark("error", "disk", message, "make room, or set HF_HOME to a larger disk")]


def rate(given: float | None, runs: Path | None, config: RunConfig) -> tuple[float, str] | None:
    """Seconds for 1,000 questions and where they are from: given, or measured by earlier runs.

    Earlier runs count if they have the same receiver and engine; the last 20 candidates of the
    most recent one are taken, building and scoring included.
    """
    if given is not None:
        return given, "given"
    folders = [] if runs is None else sorted(runs.glob("*/config.yaml"), key=_changed, reverse=True)
    for file in folders:
        try:
            run = RunDirectory.open(file.parent)
            if (run.config.receiver, run.config.engine) != (config.receiver, config.engine):
                continue
            done = [e for e in evaluations(open_study(run), run) if e.seconds.generate > 0]
            sizes = run.manifest()["items"]["splits"][SPLITS[0]]
        except MergefrontError:
            continue
        asked = sum(int(entry["n"]) for entry in sizes.values())
        if done and asked:
            seconds = median(e.seconds.total for e in done[-20:])
            return 1000 * seconds / asked, f"measured by run {run.config.name}"
    return None


def _changed(file: Path) -> float:
    return file.stat().st_mtime
