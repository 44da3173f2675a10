"""The report's tables, from front.json: members, picks, answers, knobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mergefront.report.markup import gain, probability, row, score, table, text

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
    """The members' knob values, folded away; a member of a refined space has knobs of its own."""
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
