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

from mergefront.records import Item, RuleName, Score

_THINK = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_CUE = re.compile(r"\b(?:answer|option|choice)\s*(?:is|:|=)\s*", re.IGNORECASE)
_CUT = re.compile(r"\n|\.\s|,?\s+\b(?:not|because|since|but|as)\b", re.IGNORECASE)
_SIGN = r"(?:(?<![\w%])[-+])?"  # in "3-5" and "5%-10%" the hyphen is none
_NUMBER = re.compile(rf"{_SIGN}(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?(?:/\d+)?|{_SIGN}\.\d+")


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
    said = plain(span)
    if not said:
        return Score(0.0, "", "no_answer")
    return Score(float(said in {plain(gold) for gold in item.answers}), said, "ok")


def number(span: str, item: Item) -> Score:
    """The last number of the span equals a gold exactly, as a fraction (0.5 equals 1/2)."""
    found = _NUMBER.findall(_after_cue(span))
    if not found:
        return Score(0.0, "", "no_answer")
    said = fraction(found[-1])
    golds = [fraction(gold.strip()) for gold in item.answers]
    if said is None or None in golds:
        return Score(0.0, found[-1], "parse_error")
    return Score(float(said in golds), found[-1], "ok")


def choice(span: str, item: Item) -> Score:
    """A letter of the options, or the one option whose text is named; golds are letters.

    First hit wins: the whole span is a letter; the letter after the last "answer is"; the last
    letter in brackets; a last line that is a letter; the only option text found. A small letter
    counts where it stands alone or in brackets, never inside a sentence ("a" is an article).
    """
    letters = letters_of(item.choices)
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
    return Score(float(said in {plain(gold) for gold in item.answers}), said, "ok")


def letters_of(choices: tuple[str, ...]) -> str:
    """The letters that an item's options have; A to D where the prompt alone lists them."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices) or 4]


def plain(text: str) -> str:
    """Lower-case, single spaces, no punctuation at the edges."""
    return " ".join(text.lower().split()).strip(" .,:;!?\"'`*()[]{}$")


def _after_cue(span: str) -> str:
    cues = list(_CUE.finditer(span))
    if not cues:
        return span
    return _CUT.split(span[cues[-1].end() :], maxsplit=1)[0]


def fraction(text: str) -> Fraction | None:
    """A number as written in an answer (1,234; 1/2; $5; 20%) or None if it is none."""
    try:
        return Fraction(text.replace(",", "").replace(" ", "").lstrip("$").rstrip("%."))
    except (ValueError, ZeroDivisionError):
        return None


def _letter(span: str, letters: str) -> str | None:
    mark = rf"[\s\"'`*(\[]*([{letters}])(?=[\s\"'`*)\].:,;!]|$)"
    either = mark.replace(f"[{letters}]", f"[{letters}{letters.lower()}]")
    alone = re.compile(either + r"[\s\"'`*)\].:,;!]*")
    if whole := alone.fullmatch(span):
        return whole.group(1).upper()
    if _CUE.search(span):
        after = _after_cue(span)
        if lone := alone.fullmatch(after):
            return lone.group(1).upper()
        cued = re.match(mark, after)
        if cued and not re.match(r"[\s*]*A\s+[a-z]", after):  # "a", the article
            return cued.group(1)
    bracketed = re.findall(rf"\(([{letters}])\)", span) or re.findall(
        rf"\(([{letters.lower()}])\)", span
    )
    if bracketed:
        return str(bracketed[-1]).upper()
    last = alone.fullmatch(span.splitlines()[-1] if span else "")
    return last.group(1).upper() if last else None


def _option(span: str, choices: tuple[str, ...], letters: str) -> str | None:
    said = f" {plain(span)} "
    hits = [(letter, plain(text)) for letter, text in zip(letters, choices, strict=False)]
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
