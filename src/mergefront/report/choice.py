"""How the search chose and what it saved, from front.json: the model or the scores, the race.

Runs of earlier versions recorded neither: the sections are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mergefront.records import Estimate
from mergefront.report.markup import row, table, text
from mergefront.statistics import wilson

Front = Mapping[str, Any]

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
