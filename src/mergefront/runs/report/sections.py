"""What the report says in words: outcome, definitions, commands, provenance.
The report's tables, from front.json: members, picks, answers, knobs.
How the search chose and what it saved, from front.json: the model or the scores, the race.

Runs of earlier versions recorded neither: the sections are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mergefront.records import Estimate
from mergefront.runs.report.html import gain, probability, row, score, table, text
from mergefront.stats import wilson


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


Front = Mapping[str, Any]


def member_table(front: Front) -> Iterator[str]:
    """The front on validation items, the receiver first."""
    names = front["objectives"]
    columns = ["candidate", "origin", *[c for n in names for c in (n, f"{n} gain")]]
    columns += [f"p of {names[0]}", "Holm's p", "verdict"]
    receiver = front["receiver"].get("validation")
    rows = []
    if receiver:
        cells = [cell for name in names for cell in (score(receiver[name]), "")]
        rows.append(row(["receiver", "", *cells, "", "", ""]))
    for member in front["members"]:
        label = f"{member['number']} {text(', '.join(member['picks']))}".strip()
        first = member["gain"][names[0]]
        chances = [probability(first.get("p")), probability(first.get("p_holm"))]
        cells = [label, text(member["origin"]), *_pairs(names, member, "validation", "gain")]
        rows.append(row([*cells, *chances, _verdict(member)], picked=bool(member["picks"])))
    yield "<h2>The front, on validation items</h2>"
    yield table(columns, rows)


def pick_table(front: Front) -> Iterator[str]:
    """The picks on test items."""
    names = front["objectives"]
    tested = [m for m in front["members"] if m.get("test")]
    if not tested:
        return
    columns = ["pick", *[c for n in names for c in (n, f"{n} gain")]]
    rows = []
    receiver = front["receiver"].get("test")
    if receiver:
        cells = [cell for name in names for cell in (score(receiver[name]), "")]
        rows.append(row(["receiver", *cells]))
    for member in tested:
        label = f"{text(', '.join(member['picks']))} ({member['number']})"
        rows.append(row([label, *_pairs(names, member, "test", "test_gain")]))
    yield "<h2>The picks, on test items</h2>"
    yield table(columns, rows)


def answer_table(front: Front) -> Iterator[str]:
    """How validation items were answered, and what is left of the scores without images."""
    if not front.get("receiver_answers"):
        return
    names = [name for name in front["objectives"] if name in front["receiver_answers"]]
    blind = front.get("receiver_blind") or {}
    columns = ["candidate"]
    for name in names:
        columns += [f"{name}: no answer, %", "cut off, %", "tokens"]
        columns += ["without images", "gain without images"] if name in blind else []
    receiver = row(["receiver", *_answered(front["receiver_answers"], blind, {}, names, blind)])
    rows = [receiver]
    for member in front["members"]:
        unseen = member["blind"] or {"scores": {}, "gain": {}}
        cells = _answered(member["answers"], unseen["scores"], unseen["gain"], names, blind)
        label = f"{member['number']} {text(', '.join(member['picks']))}".strip()
        rows.append(row([label, *cells], picked=bool(member["picks"])))
    yield "<h2>How they answered, on validation items</h2>"
    yield table(columns, rows)


def knob_table(front: Front) -> Iterator[str]:
    """The members' knob values, folded away."""
    members = front["members"]
    if not members:
        return
    numbers = [str(m["number"]) for m in members]
    names = dict.fromkeys(name for m in members for name in m["knobs"])
    rows = [row([text(name), *(_knob(m["knobs"].get(name)) for m in members)]) for name in names]
    body = table(["knob", *numbers], rows)
    yield f"<details><summary>Knob values of the front</summary>{body}</details>"


def _knob(value: float | str | None) -> str:
    """A number, the word that was chosen, or nothing where the member has no such knob."""
    if value is None:
        return ""
    return text(value) if isinstance(value, str) else f"{value:.3f}"


def _pairs(names: Sequence[str], member: Front, scores: str, gains: str) -> list[str]:
    return [c for n in names for c in (score(member[scores][n]), gain(member[gains][n]))]


def _verdict(member: Front) -> str:
    words = text(member["verdict"] + (f" ({member['holds']})" if member.get("holds") else ""))
    beats = member["verdict"] == "beats the receiver"
    return f'<span class="better">{words}</span>' if beats else words


def _answered(
    answers: Front, scores: Front, gains: Front, names: Sequence[str], blind: Front
) -> list[str]:
    cells = []
    for name in names:
        one = answers[name]
        cells += [f"{100 * one['no_answer']:.1f}", f"{100 * one['truncated']:.1f}"]
        cells.append(f"{one['tokens']:.1f}")
        if name in blind:
            cells.append(score(scores[name]) if name in scores else "")
            cells.append(gain(gains[name]) if name in gains else "")
    return cells


_MEANINGS = {
    "behind": "its chance to be on the front fell below the threshold",
    "known": "more answers would hardly have added to what was known of it",
    "collapsed": "it scored less than half the reference: a broken model",
}


def choice_section(front: Front) -> Iterator[str]:
    """Who chose the members, whether the model may be believed, and what became of its word."""
    belief = front.get("belief")
    if belief is None:
        return
    yield "<h2>How the members were chosen</h2>"
    yield f"<p>{text(_who(belief))}</p>"
    if belief["calibration"]:
        yield from _calibration(front["objectives"], belief)
    yield from _ways(front, by_model=belief["by_model"])


def race_section(front: Front) -> Iterator[str]:
    """What the race saved, who left and why, and whether the rule was right."""
    race = front.get("race")
    if not race or not (any(race["left"].values()) or race["spared"]):
        return
    yield "<h2>The race</h2>"
    yield (
        "<p>A candidate without a chance leaves before it has answered all search items. The "
        f"candidates answered {100 * race['items']:.0f} % of the items that asking all of them "
        f"everything would have taken, in {100 * race['seconds']:.0f} % of the seconds.</p>"
    )
    spared = list(race["spared"].values())
    rows = [
        row([text(f"{why}: {_MEANINGS.get(why, '')}"), str(number), str(spared.count(why))])
        for why, number in race["left"].items()
    ]
    yield table(["left as", "candidates", "would have, but answered all"], rows)
    yield f"<p>{text(_honest(front, race['spared']))}</p>"


def _who(belief: Mapping[str, Any]) -> str:
    if belief["by_model"]:
        return (
            "The model chose: a surface over the knobs for each objective, fitted to all "
            "candidates with the error of each. A lucky score is drawn towards what its "
            "neighbours scored, so the front that is believed promises less than the scores do, "
            "and holds more."
        )
    return (
        f"The scores chose, and not the model: {belief['why']}. A front chosen by scores takes the "
        "lucky ones; expect more to be lost on validation items."
    )


def _calibration(names: Sequence[str], belief: Mapping[str, Any]) -> Iterator[str]:
    """Each candidate foretold from all others: in words, then in numbers."""
    checks = {name: belief["calibration"][name] for name in names if name in belief["calibration"]}
    inside = " and ".join(f"{100 * one['within_95']:.0f} % in {n}" for n, one in checks.items())
    yield (
        f"<p>Each candidate was foretold from all the others. Its score should lie in the 95 % "
        f"interval that was foretold in 95 of 100 cases: it does in {text(inside)}.</p>"
    )
    columns = ["objective", "candidates", "inside 95 %, %", "mean square", "errors widened by",
               "excess", "verdict"]  # fmt: skip
    rows = []
    for name, one in checks.items():
        widened = math.sqrt(max(1.0, one["mean_square"]))
        numbers = [f"{100 * one['within_95']:.1f}", f"{one['mean_square']:.2f}"]
        numbers += [f"{widened:.2f}", f"{one['excess']:.2f}"]
        said = "misfit: not believed" if one["misfit"] else "may be believed"
        rows.append(row([text(name), str(one["n"]), *numbers, said]))
    yield table(columns, rows)
    yield (
        '<p class="note">Mean square: of residuals over their stated deviation; 1 if the model '
        "errs as much as it says, and up to 2 its errors are widened. Excess: mean squared "
        "residual over mean squared standard error of the scores; well above 1, the scores differ "
        "for reasons that the model does not see.</p>"
    )


def _ways(front: Front, *, by_model: bool) -> Iterator[str]:
    """Members from search to test: each step nearer to what holds."""
    names = front["objectives"]
    steps = ["search", *(["believed"] if by_model else []), "validation", "test"]
    columns = ["member", *(f"{name}: {step}" for name in names for step in steps)]
    searched = [one for m in front["members"] for one in m["search"].values()]
    part = any(one.get("partial", 0.0) > 0 for one in searched)
    rows = []
    for member in front["members"]:
        cells = []
        for name in names:
            for step in steps:
                one = (member.get(step) or {}).get(name)
                cells.append("" if one is None else _cell(one, step))
        label = f"#{member['number']} {text(', '.join(member['picks']))}".strip()
        rows.append(row([label, *cells], picked=bool(member["picks"])))
    yield table(columns, rows)
    chosen = "what is believed" if by_model else "search scores"
    words = (
        "From the search to the test, each ± its standard error: members were chosen by "
        f"{chosen}; search scores flatter."
    )
    if part:
        words += " A score with a number of items behind it is an estimate from so many of them."
    yield f'<p class="note">{text(words)}</p>'


def _cell(one: Mapping[str, Any], step: str) -> str:
    words = f"{100 * one['mean']:.1f} ± {100 * one['se']:.1f}"
    if "tokens" in one:
        words += f' <span class="interval">({one["tokens"]:.2f} tokens)</span>'
    if step == "search" and one.get("partial", 0.0) > 0:
        words += f' <span class="interval">({one["n"]} items)</span>'
    return words


def _honest(front: Front, spared: Mapping[str, str]) -> str:
    """How often the rule would have been wrong, by those that it was not applied to."""
    behind = [number for number, why in spared.items() if why != "known"]
    if not behind:
        return (
            "Candidates that answer all items whatever their chances keep the rule honest; none "
            "of them would have left as behind or collapsed, so nothing is known of its errors."
        )
    on_front = {str(number) for number in front["belief"]["front"]}
    wrong = sum(number in on_front for number in behind)
    rate, n = wrong / len(behind), len(behind)
    low, high = wilson(Estimate(rate, 0.0, n))
    return (
        f"Some candidates answered all items whatever their chances, to keep the rule honest. {n} "
        f"of them would have left as behind or collapsed; {wrong} of these ended up on the front "
        f"as believed: the rule would have been wrong {100 * rate:.0f} % of the time "
        f"(95 % interval {100 * low:.0f} to {100 * high:.0f} %). To leave as known is not to be "
        "given up: such candidates stay eligible for the front."
    )
