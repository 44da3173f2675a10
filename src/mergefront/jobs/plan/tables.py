"""A plan as tables for people: (title, columns, rows)."""

from __future__ import annotations

from collections.abc import Iterable

from mergefront.jobs.plan import Plan, cost
from mergefront.jobs.plan.memory import ACTIVATIONS, one_sequence
from mergefront.space.budget import suitable_candidates

TableRows = tuple[str, list[str], list[list[str]]]


def tables(plan: Plan) -> list[TableRows]:
    """Return everything but the remarks."""
    return [
        _models(plan),
        _verdicts(plan),
        _search(plan),
        _questions(plan),
        _memory(plan),
        *_time(plan),
    ]


def _models(plan: Plan) -> TableRows:
    rows = []
    for one in plan.models:
        config = one.config or {}
        backbone = plan.backbones.get(one.role)
        dtypes = sorted({header.dtype for header in (one.headers or {}).values()})
        heads = "?"
        if backbone is not None and backbone.heads is not None:
            heads = f"{backbone.heads}/{backbone.kv_heads}x{backbone.head_dim}"
        rows.append([
            one.role,
            one.model,
            one.state,
            (config.get("architectures") or ["?"])[0],
            _text(backbone and backbone.layers),
            _text(backbone and backbone.hidden),
            heads,
            _text(backbone and backbone.vocab),
            "+".join(dtypes) or "?",
            _gb(one.n_bytes),
            _gb(one.to_download),
        ])  # fmt: skip
    known = {one.model: one.to_download for one in plan.models}
    total = sum(size or 0 for size in known.values())
    more = " and what is not known" if None in known.values() else ""
    columns = ["role", "model", "where", "architecture", "layers", "hidden", "heads/kv x dim",
               "vocab", "dtype", "GB", "to download"]  # fmt: skip
    return f"models: {total / 1e9:.1f} GB to download{more}", columns, rows


def _verdicts(plan: Plan) -> TableRows:
    rows = [[role, verdict] for role, verdict in plan.verdicts.items()]
    return "fit to the receiver's language model", ["model", "verdict"], rows


def _search(plan: Plan) -> TableRows:
    known = {
        "headers": "the receiver's tensors",
        "config": "the receiver's config.json",
        "assumed": f"{cost.ASSUMED_LAYERS} layers assumed, the receiver is not known",
    }[plan.stack]
    suits = suitable_candidates(plan.dimension)
    rows = [
        ["method", plan.spec.method],
        ["space", plan.config.space],
        ["dimensions D", f"{_text(plan.dimension)} (from {known})"],
        ["candidates", str(plan.config.budget.candidates)],
        ["suits D", "?" if suits is None else f"{suits[0]:,} to {suits[1]:,} candidates"],
        ["sampler", plan.config.search.sampler],
        ["engine", plan.config.engine.kind],
    ]
    return "search", ["what", "value"], rows


def _questions(plan: Plan) -> TableRows:
    rows = [
        [one.objective, one.split, f"{one.items:,}", f"{one.times:,}", f"{one.asked:,}"]
        for one in plan.questions
    ]
    total = sum(one.asked for one in plan.questions)
    rows += [
        [name, f"answers to {' and '.join(cost.tokens_of)}, by length", "", "", "0"]
        for name, cost in plan.config.costs.items()
    ]
    rows += [
        [
            f"  {one.task}",
            f"whole, {one.where}",
            "?" if one.rows is None else f"{one.rows:,}",
            "",
            "",
        ]
        for one in plan.tasks
    ]
    title = f"questions: {total:,} in all, at most"
    return title, ["objective", "split", "items", "times asked", "questions"], rows


def _memory(plan: Plan) -> TableRows:
    need = plan.memory
    placed = need.placed or {}
    rows = [["receiver in the engine", _gib(need.weights), "device"]]
    rows += [
        [f"source {name}", _gib(size), placed.get(name, "device or RAM")]
        for name, size in need.terms
    ]
    rows.append(["encoded images, up to", _gib(need.encoded), "device"])
    rows.append(["activations, assumed", _gib(ACTIVATIONS), "device"])
    if need.kv_token_kib is not None:
        one = one_sequence(need)
        rows.append([f"KV cache of {need.context:,} tokens", _gib(one), "device"])
    if need.kv_room is not None:
        rows.append(["room for the KV cache", _gib(need.kv_room), "device"])
    if need.pinned:
        rows.append(["sources in pinned host RAM", _gib(need.pinned), "host, all GPUs"])
    each = f"each of {need.gpus} GPUs" if need.gpus > 1 else "one engine"
    size = "" if need.gpu_gib is None else f" of {need.gpu_gib:g} GiB"
    how = {"headers": "", "config": ", language model only, from its config"}.get(
        plan.stack, ", receiver not known"
    )
    return f"memory on {each}{size}{how}", ["what", "GiB", "where"], rows


def _time(plan: Plan) -> Iterable[TableRows]:
    took = plan.duration
    if took is None:
        return
    budget = plan.config.budget.hours
    rows = [
        ["a candidate", f"{took.candidate_seconds:,.1f} s"],
        ["search", f"{took.search:.2f} h"],
        ["validation", f"{took.validation:.2f} h"],
        ["test", f"{took.test:.2f} h"],
        ["all", f"{took.total:.2f} h"],
        ["budget.hours", "none" if budget is None else f"{budget:g} h"],
    ]
    if took.fits is not None:
        rows.append(["candidates that fit the budget", f"{took.fits:,}"])
    title = f"time at {took.rate:,.1f} s for 1,000 questions ({took.source})"
    yield title, ["what", "time"], rows


def _text(value: object) -> str:
    return "?" if value is None else str(value)


def _gb(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e9:.2f}"


def _gib(size: float | None) -> str:
    return "?" if size is None else f"{size:.2f}"
