"""What the report says in words: outcome, definitions, commands, provenance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mergefront.report.markup import text


def summary(front: Mapping[str, Any]) -> Iterator[str]:
    """Title, warnings before any number, what was done, and the outcome."""
    volume = front["hypervolume"]
    items = front["items"]
    rounds = front.get("test_rounds", 1)
    left = any((front.get("race") or {"left": {}})["left"].values())
    often = "once" if rounds == 1 else f"in {rounds} rounds, since the search was extended,"
    yield f"<h1>{text(front['run'])}</h1>"
    for warning in front.get("warnings", ()):
        yield f'<p class="warning">{text(warning)}</p>'
    yield (
        f'<p class="note">{front["candidates"]} candidates ({front["failed"]} failed), each on '
        f"{'up to ' if left else ''}{items['search']} search items an objective; "
        f"{len(front['members'])} validated on {items['validation']}, "
        f"picks tested {often} on {items['test']}.</p>"
    )
    for message in front["messages"]:
        yield f'<p class="lead">{text(message)}</p>'
    validated = volume.get("validation")
    if validated:
        yield (
            f"<p>Hypervolume on validation items: <b>{validated['value']:.4f}</b> "
            f'<span class="interval">[{validated["low"]:.4f}, {validated["high"]:.4f}]</span> '
            f"(search items, flattering: {volume['search']:.4f}).</p>"
        )


def definitions(front: Mapping[str, Any]) -> Iterator[str]:
    """What each number means, with the values that were used."""
    first, *others = front["objectives"]
    reference = ", ".join(f"{text(k)} {100 * v:.1f} %" for k, v in front["reference"].items())
    guards = front["guards"] if "guards" in front else dict.fromkeys(others, front["guard"])
    kept = "".join(
        f", and the loss of {text(name)} is at most {100 * guard:g} points"
        for name, guard in guards.items()
    )
    entries = {
        "Score": "Mean score of an objective's items in percent, with Wilson's 95 % interval; "
        "items that share an image or problem count as one cluster.",
        "Gain": "Difference to the receiver on the same items in points, with a cluster-robust "
        "95 % t interval.",
        "Search, validation, test": f"{_sets(front)} The search and the picks use "
        "search items only, so their scores flatter; members are scored again on validation "
        "items; test items are read for the picks only, at the end of a search.",
        "Believed": "What the search items of all candidates together say of one: the mean of the "
        "model and its standard deviation, or its own score where the model is not believed. It "
        "chooses, and is never reported as a result.",
        **{name: _cost(name, cost) for name, cost in front.get("costs", {}).items()},
        "Beats the receiver": f"The interval of the {text(first)} gain lies above zero{kept}.",
        "p, Holm's p": f"The chance of a {text(first)} difference as large in either direction "
        "between models that are equally good: McNemar's exact test where items are independent "
        "and right or wrong, else a cluster-robust t test. Holm's p is adjusted for all members "
        "of this table: at most 0.05 means that the gain holds over the whole front; else it "
        "holds, if its interval lies above zero, for this member alone.",
        "Not resolved": "No gain or loss beyond its interval: more items would be needed.",
        "No answer, cut off, tokens": "Shares of items whose answer held nothing that could be "
        "read, or ended at its limit, and the mean length of an answer: a gain that comes with "
        "other lengths or fewer refusals is one of form.",
        "Without images": "The same questions, images removed: the blind control. A gain that is "
        "there without images as well does not come from seeing.",
        "Hypervolume": f"What the front covers above the reference point ({reference}): an area "
        "(volume) of scores between 0 and 1. On validation items it is corrected for the luck of "
        "the best by a bootstrap over clusters, which also gives its 95 % interval.",
        "Knee": "The member of the front as believed, farthest above the line that joins its "
        "extremes, each objective scaled to its range.",
    }
    yield "<h2>What the numbers mean</h2><dl>"
    for term, meaning in entries.items():
        yield f"<dt>{term}</dt><dd>{meaning}</dd>"
    yield "</dl>"


def _cost(name: str, cost: Mapping[str, Any]) -> str:
    """What a cost is, and how to read it in tokens."""
    limit, counted = cost["limit"], " and ".join(cost["tokens_of"])
    return (
        f"How short the answers to the {text(counted)} items are: an answer of t tokens scores "
        f"1 - min(t / {limit}, 1), so that 0 % is {limit} tokens and 100 % none; one that was cut "
        f"off counts at its length. Means are given in tokens as well, in which no answer counts "
        f"as more than {limit}; their interval is 1.96 standard errors to either side. "
        f"{text(name)} asks nothing of its own, and is not in the blind control."
    )


def reproduce(front: Mapping[str, Any]) -> Iterator[str]:
    """The commands that go on from here."""
    run = text(front["run"])
    commands = [
        "mergefront search config.yaml        # the configuration below; resumes if it was killed",
        f"mergefront export {run} --pick knee --out DIR",
        f"mergefront compare {run}:knee {run}:best:{text(front['objectives'][0])}",
    ]
    yield "<h2>Reproduce and use</h2>"
    yield f"<pre>{chr(10).join(commands)}</pre>"
    if front.get("seconds"):
        parts = ", ".join(f"{text(k)} {v:.2f}" for k, v in front["seconds"].items())
        yield f'<p class="note">Mean wall seconds of a candidate: {parts}.</p>'


def provenance(front: Mapping[str, Any], config: str, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Configuration, manifest and openings, folded away."""
    if config:
        yield f"<details><summary>Configuration</summary><pre>{text(config)}</pre></details>"
    record = {**manifest, **({"openings": front["openings"]} if front.get("openings") else {})}
    if record:
        listing = text(json.dumps(record, indent=1, sort_keys=True, default=str))
        yield (
            "<details><summary>Provenance: sources, items, versions, machine</summary>"
            f"<pre>{listing}</pre></details>"
        )


def _sets(front: Mapping[str, Any]) -> str:
    if front.get("warnings"):
        return "Sets of items that OVERLAP here, as said at the top."
    return "Three disjoint sets of items."
