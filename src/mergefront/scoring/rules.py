"""The scoring rules, one function each: (final span, item) -> Score.

Every rule first looks at the final answer span: what follows a closed think block, and inside it
the last boxed expression or answer tag if there is one. A rule either finds an answer of its type
or says `no_answer`; it never guesses.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Literal

from mergefront.records import Item, Score

RuleName = Literal["exact", "number", "choice", "yes_no"]

_THINK = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_CUE = re.compile(r"\b(?:answer|option|choice)\s*(?:is|:|=)\s*", re.IGNORECASE)
_CUT = re.compile(r"\n|\.\s|,?\s+\b(?:not|because|since|but|as)\b", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?|[-+]?\.\d+")


def final_span(text: str) -> str:
    """The part of a reply that counts: after thinking; the last boxed or tagged answer if any."""
    text = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-")
    text = _THINK.sub("", text)
    if "</think>" in text:  # some templates open the think block in the prompt
        text = text.rsplit("</think>", 1)[1]
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    tags = _TAG.findall(text)
    return str(tags[-1]).strip() if tags else text.strip()


def _last_boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for position in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position]
    return None


def exact(span: str, item: Item) -> Score:
    """Equal to one of the golds after lower-casing and dropping edge punctuation and spaces."""
    said = _plain(span)
    if not said:
        return Score(0.0, "", "no_answer")
    return Score(float(said in {_plain(gold) for gold in item.answers}), said, "ok")


def number(span: str, item: Item) -> Score:
    """The last number of the span equals a gold exactly, as a fraction (0.5 equals 1/2)."""
    found = _NUMBER.findall(_after_cue(span))
    if not found:
        return Score(0.0, "", "no_answer")
    said = _fraction(found[-1])
    golds = [_fraction(gold.strip()) for gold in item.answers]
    if said is None or None in golds:
        return Score(0.0, found[-1], "parse_error")
    return Score(float(said in golds), found[-1], "ok")


def choice(span: str, item: Item) -> Score:
    """A letter of the options, or the one option whose text is named; golds are letters.

    First hit wins: the whole span is a letter; the letter after the last "answer is"; the last
    letter in brackets; a last line that is a letter; the only option text found.
    """
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(item.choices) or 4]
    letter = _letter(span, letters) or _option(_after_cue(span), item.choices, letters)
    if letter is None:
        return Score(0.0, "", "no_answer")
    golds = {gold.strip().strip("().").upper() for gold in item.answers}
    return Score(float(letter in golds), letter, "ok")


def yes_no(span: str, item: Item) -> Score:
    """The first yes or no of the span, after the last answer cue if there is one."""
    found = re.search(r"\b(yes|no)\b", _after_cue(span), re.IGNORECASE)
    if found is None:
        return Score(0.0, "", "no_answer")
    said = found.group(1).lower()
    return Score(float(said in {_plain(gold) for gold in item.answers}), said, "ok")


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .,:;!?\"'`*()[]{}$")


def _after_cue(span: str) -> str:
    cues = list(_CUE.finditer(span))
    if not cues:
        return span
    return _CUT.split(span[cues[-1].end() :], maxsplit=1)[0]


def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text.replace(",", "").replace(" ", "").lstrip("$").rstrip("%."))
    except (ValueError, ZeroDivisionError):
        return None


def _letter(span: str, letters: str) -> str | None:
    mark = rf"[\s\"'`*(\[]*([{letters}])(?=[\s\"'`*)\].:,;!]|$)"
    whole = re.fullmatch(mark + r"[\s\"'`*)\].:,;!]*", span)
    if whole:
        return whole.group(1)
    if _CUE.search(span):
        cued = re.match(mark, _after_cue(span))
        if cued and not re.match(r"[\s*]*A\s+[a-z]", _after_cue(span)):  # "a", the article
            return cued.group(1)
    bracketed = re.findall(rf"\(([{letters}])\)", span)
    if bracketed:
        return str(bracketed[-1])
    last = span.splitlines()[-1] if span else ""
    alone = re.fullmatch(mark + r"[\s\"'`*)\].:,;!]*", last)
    return alone.group(1) if alone else None


def _option(span: str, choices: tuple[str, ...], letters: str) -> str | None:
    said = f" {_plain(span)} "
    hits = [(letter, _plain(text)) for letter, text in zip(letters, choices, strict=False)]
    hits = [(letter, text) for letter, text in hits if text and f" {text} " in said]
    # An option inside a longer named option ("blue" in "light blue") is not named itself.
    named = [h for h in hits if not any(h[1] != o[1] and h[1] in o[1] for o in hits)]
    return named[0][0] if len(named) == 1 else None


RULES: Mapping[RuleName, Callable[[str, Item], Score]] = {
    "exact": exact,
    "number": number,
    "choice": choice,
    "yes_no": yes_no,
}
