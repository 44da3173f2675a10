"""The model card (README.md) of an exported checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mergefront
from mergefront.merging.recipe import Recipe
from mergefront.models.sources import Sources

_PAPER = (
    "S. Chen et al., *Bring Reason to Vision: Understanding Perception and Reasoning through "
    "Model Merging*, ICML 2025, arXiv:2505.05464"
)


def licences(sources: Sources) -> dict[str, str]:
    """Source -> the licence that its own model card names, or "unknown"."""
    found = {}
    for name, model in sources.models.items():
        if name in ("receiver", *sources.donors):
            found[name] = _licence(model.checkpoint.folder)
            if model.adapter is not None:
                found[f"adapter of {name}"] = _licence(model.adapter.folder)
    return found


def _licence(folder: Path) -> str:
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    match = re.search(r"^license(?:_name)?:\s*['\"]?([^'\"\n]+)", text, re.MULTILINE)
    return match.group(1).strip() if match else "unknown"


def model_card(
    recipe: Recipe,
    licence_of: Mapping[str, str],
    front: Mapping[str, Any] | None,
    member: Mapping[str, Any] | None,
    recast: tuple[str, str] | None = None,
    scored_in: str | None = None,
) -> str:
    """Markdown with YAML front matter: base models, licence, scores with intervals, recipe.

    `front` and `member` are of front.json; None for a recipe merged without a search. `recast`
    is (the floating type written, the receiver's own), where these differ; `scored_in` says in
    which type the weights were scored, where that is not known to have made the same of them.
    """
    models = recipe.models
    based_on = [models.receiver]
    for donor in models.donors.values():
        based_on += [donor.model, *([donor.adapter] if donor.adapter else [])]
    header = ["---", "base_model:", *(f"- {name}" for name in based_on)]
    known = set(licence_of.values())
    header += [f"license: {known.pop() if len(known) == 1 and 'unknown' not in known else 'other'}"]
    header += ["library_name: transformers", "pipeline_tag: image-text-to-text"]
    header += ["tags:", "- merge", "- mergefront", "---", ""]
    donors = ", ".join(f"`{donor.model}` ({alias})" for alias, donor in models.donors.items())
    body = [
        f"# {models.receiver} merged with {', '.join(models.donors)}",
        "",
        f"Language layers of `{models.receiver}` with parts of the task vectors of {donors} "
        f"(base: `{models.base or 'none'}`), by {recipe.method}; vision tower, connector, "
        "embeddings and head are the receiver's unless the recipe says otherwise. Coefficients "
        "for every layer and part are in `recipe.json`, source hashes in `provenance.json`.",
        "",
        *_rounding(recast, scored_in),
        "## Licence",
        "",
        "A merge inherits the conditions of every model in it. As their model cards say: "
        + ", ".join(f"{name}: {licence}" for name, licence in licence_of.items())
        + ". All of them apply, the strictest first; read each before you publish.",
        "",
    ]
    if front is not None and member is not None:
        body += _scores(front, member)
    reproduce = _reproduce(recipe, recast, searched=front is not None)
    return "\n".join([*header, *body, *reproduce])


def _rounding(recast: tuple[str, str] | None, scored_in: str | None) -> list[str]:
    """In which type the weights are, where it is not the receiver's."""
    if recast is None:
        return []
    written, own = recast
    words = (
        f"All weights are in {written}; the receiver's are in {own}. Each was rounded once: a "
        "merged one from fp32 arithmetic, a copied one from the receiver's."
    )
    if scored_in is not None:
        words += (
            f" The scores below are of the same merge in another type ({scored_in}); "
            "`provenance.json` says what could be verified of these."
        )
    return [words, ""]


def _reproduce(recipe: Recipe, recast: tuple[str, str] | None, *, searched: bool) -> list[str]:
    option = f" --dtype {recast[0]}" if recast else ""
    commands = [f"mergefront merge recipe.json --out DIR{option}    # these weights"]
    if searched:
        commands.append("mergefront search run.yaml                # the search that found them")
    made = (
        f"Made by mergefront {mergefront.__version__}, recipe {recipe.hash()}. The idea: {_PAPER}."
    )
    return ["## Reproduce", "", "```", *commands, "```", "", made, ""]


def _scores(front: Mapping[str, Any], member: Mapping[str, Any]) -> list[str]:
    if "gain" not in member:
        return _optimistic(front, member)
    source = "test" if member.get("test") else "validation"
    gains = member["test_gain"] if source == "test" else member["gain"]
    lines = [
        f"## Scores ({source} items)",
        "",
        *(f"**{warning}**\n" for warning in front.get("warnings", ())),
        "| objective | receiver | this model | paired difference, 95 % interval | p | items |",
        "|---|---|---|---|---|---|",
    ]
    for name in front["objectives"]:
        mine, base, gain = member[source][name], front["receiver"][source][name], gains[name]
        lines.append(
            f"| {name} | {_score(base)} | {_score(mine)} "
            f"| {100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"
            f"{_tokens(gain, '+.2f')} "
            f"| {_probability(gain.get('p'))} | {mine['n']} |"
        )
    picked = f" as {', '.join(member['picks'])}" if member["picks"] else ""
    others = front["objectives"][1:]
    guards = front["guards"] if "guards" in front else dict.fromkeys(others, front["guard"])
    kept = ", ".join(f"{name} {100 * guard:g} points" for name, guard in guards.items()) or "none"
    verdict = member["verdict"] + (f" ({member['holds']})" if member.get("holds") else "")
    lines += [
        "",
        f"In percent, ± one standard error; items that count only together count once. Candidate "
        f"{member['number']} of {front['candidates']}, chosen{picked} {_chosen_by(front, member)}. "
        f"Verdict on validation items: **{verdict}** (guard: {kept}).",
        "",
        *_costs(front),
    ]
    return lines + _without_images(front, member)


def _score(one: Mapping[str, Any]) -> str:
    return f"{100 * one['mean']:.1f} ± {100 * one['se']:.1f}{_tokens(one, '.2f')}"


def _tokens(one: Mapping[str, Any], form: str) -> str:
    """What a cost comes to; nothing for other objectives."""
    return f" ({one['tokens']:{form}} tokens)" if "tokens" in one else ""


def _costs(front: Mapping[str, Any]) -> list[str]:
    """What the costs are."""
    return [
        line
        for name, cost in front.get("costs", {}).items()
        for line in (
            f"{name}: an answer of t tokens to the {' and '.join(cost['tokens_of'])} items scores "
            f"1 - min(t / {cost['limit']}, 1).",
            "",
        )
    ]


def _chosen_by(front: Mapping[str, Any], member: Mapping[str, Any]) -> str:
    """By what a member was chosen: a model's word of it, or its scores."""
    belief = front.get("belief")
    if belief is None:
        return "on search items"
    if not belief["by_model"]:
        return f"by its scores on search items, not by a model of all candidates ({belief['why']})"
    words = ", ".join(f"{name} {_score(one)}" for name, one in member["believed"].items())
    return f"by what a model of all candidates' scores on search items believes of it ({words})"


def _without_images(front: Mapping[str, Any], member: Mapping[str, Any]) -> list[str]:
    """The blind control, where there was one."""
    blind, base = member.get("blind"), front.get("receiver_blind")
    if not blind or not base:
        return []
    scores = "; ".join(
        f"{name} {100 * blind['scores'][name]['mean']:.1f} "
        f"(receiver {100 * base[name]['mean']:.1f}, difference "
        f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}])"
        for name, gain in blind["gain"].items()
    )
    words = f"Without the images (blind control, validation items): {scores}. A gain that is there "
    return [words + "without images as well does not come from seeing.", ""]


def _probability(p: float | None) -> str:
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _optimistic(front: Mapping[str, Any], member: Mapping[str, Any]) -> list[str]:
    """Scores of a candidate that was never validated: search items only."""
    scores = [
        f"- {name}: {_score(member['search'][name])} "
        f"(receiver {100 * front['receiver']['search'][name]['mean']:.1f})"
        for name in front["objectives"]
    ]
    early = any(member["search"][name].get("partial", 0.0) > 0 for name in front["objectives"])
    which = "part of the items it was searched on (it left early)" if early else (
        "the items it was searched on"
    )  # fmt: skip
    return [
        "## Scores (search items only)",
        "",
        f"Candidate {member['number']} was not validated. On {which}, in "
        "percent, ± one standard error; such numbers are optimistic:",
        "",
        *scores,
        "",
    ]
