"""A plan as tables for a person. Not here: the remarks, which the command line prints as lines."""

from __future__ import annotations

from collections.abc import Iterable

from mergefront.jobs.plan.backbone import Backbone
from mergefront.jobs.plan.cost import ASSUMED_LAYERS
from mergefront.jobs.plan.memory import ACTIVATIONS
from mergefront.jobs.plan.planner import RunForecast
from mergefront.models.checkpoint import architecture_of
from mergefront.records import SPLITS, TextTable
from mergefront.space.budget import suitable_candidates


def tables(plan: RunForecast) -> list[TextTable]:
    """Return a plan's tables in reading order."""
    verdicts = [list(verdict) for verdict in plan.verdicts.items()]
    return [
        _models(plan),
        TextTable("fit to the receiver's language model", ["model", "verdict"], verdicts),
        _search(plan),
        _questions(plan),
        _memory(plan),
        *_time(plan),
    ]


def _models(plan: RunForecast) -> TextTable:
    rows = []
    for facts in plan.models:
        backbone = plan.backbones.get(facts.role, Backbone())
        dtypes = sorted({header.dtype for header in (facts.headers or {}).values()})
        heads = f"{backbone.heads}/{backbone.kv_heads}x{backbone.head_dim}"
        rows.append([
            facts.role,
            facts.model,
            facts.state,
            architecture_of(facts.config or {}),
            _text(backbone.layers),
            _text(backbone.hidden),
            "?" if backbone.heads is None else heads,
            _text(backbone.vocab),
            "+".join(dtypes) or "?",
            _gb(facts.n_bytes),
            _gb(facts.to_download),
        ])  # fmt: skip
    downloads = {facts.model: facts.to_download for facts in plan.models}
    total = sum(size or 0 for size in downloads.values())
    more = " and what is not known" if None in downloads.values() else ""
    columns = ["role", "model", "where", "architecture", "layers", "hidden", "heads/kv x dim",
               "vocab", "dtype", "GB", "to download"]  # fmt: skip
    return TextTable(f"models: {total / 1e9:.1f} GB to download{more}", columns, rows)


def _search(plan: RunForecast) -> TextTable:
    layers = {
        "headers": "the receiver's tensors",
        "config": "the receiver's config.json",
        "assumed": f"{ASSUMED_LAYERS} assumed layers, since the receiver is not known",
    }[plan.layers_source]
    suited = suitable_candidates(plan.dimension)
    rows = [
        ["method", plan.spec.method],
        ["space", plan.config.space],
        ["dimensions D", f"{_text(plan.dimension)} (from {layers})"],
        ["candidates", str(plan.config.budget.candidates)],
        ["suits D", "?" if suited is None else f"{suited[0]:,} to {suited[1]:,} candidates"],
        ["sampler", plan.config.search.sampler],
        ["engine", plan.config.engine.kind],
    ]
    return TextTable("search", ["what", "value"], rows)


def _questions(plan: RunForecast) -> TextTable:
    rows = [
        [q.objective, q.split, f"{q.items:,}", f"{q.times:,}", f"{q.total:,}"]
        for q in plan.questions
    ]
    rows += [
        [name, f"answers to {' and '.join(cost.tokens_of)}, by length", "", "", "0"]
        for name, cost in plan.config.costs.items()
    ]
    for size in plan.tasks:
        count = "?" if size.rows is None else f"{size.rows:,}"
        rows.append([f"  {size.task}", f"whole, {size.location}", count, "", ""])
    title = f"questions: {sum(q.total for q in plan.questions):,} in all, at most"
    return TextTable(title, ["objective", "split", "items", "times asked", "questions"], rows)


def _memory(plan: RunForecast) -> TextTable:
    need = plan.memory
    placement = need.placement or {}
    rows = [["receiver in the engine", _gib(need.weights), "device"]]
    rows += [
        [f"source {name}", _gib(size), placement.get(name, "device or RAM")]
        for name, size in need.terms
    ]
    rows.append(["encoded images, up to", _gib(need.encoder_cache), "device"])
    rows.append(["activations, assumed", _gib(ACTIVATIONS), "device"])
    if need.kv_token_kib is not None:
        rows.append([f"KV cache of {need.context:,} tokens", _gib(need.answers()), "device"])
    if need.kv_room is not None:
        rows.append(["room for the KV cache", _gib(need.kv_room), "device"])
    if need.pinned:
        rows.append(["sources in pinned host RAM", _gib(need.pinned), "host, all GPUs"])
    gpus = f"each of {need.gpus} GPUs" if need.gpus > 1 else "one engine"
    size = "" if need.gpu_gib is None else f" of {need.gpu_gib:g} GiB"
    basis = {
        "headers": "",
        "config": ", language model only, from its config",
        "assumed": ", receiver not known",
    }[plan.layers_source]
    return TextTable(f"memory on {gpus}{size}{basis}", ["what", "GiB", "where"], rows)


def _time(plan: RunForecast) -> Iterable[TextTable]:
    duration = plan.duration
    if duration is None:
        return
    budget = plan.config.budget.hours
    rows = [
        ["a candidate", f"{duration.candidate_seconds:,.1f} s"],
        *([split, f"{getattr(duration, split):.2f} h"] for split in SPLITS),
        ["all", f"{duration.total:.2f} h"],
        ["budget.hours", "none" if budget is None else f"{budget:g} h"],
    ]
    if duration.affordable is not None:
        rows.append(["candidates that fit the budget", f"{duration.affordable:,}"])
    title = f"time at {duration.rate:,.1f} s for 1,000 questions ({duration.source})"
    yield TextTable(title, ["what", "time"], rows)


def _text(value: object) -> str:
    return "?" if value is None else str(value)


def _gb(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e9:.2f}"


def _gib(size: float | None) -> str:
    return "?" if size is None else f"{size:.2f}"
