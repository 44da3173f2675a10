"""Rules for one number (`number`, `float`, `integer`) and for several (`list`).

The number is looked for in these places; the first place that has one decides:
1. the whole marked span or reply is a number, maybe with a currency sign or `x =` before and a unit
   after it, or a number word ("Three.", "three dogs");
2. the last answer clause: the first number after its last equals sign;
3. the last sentence that draws a conclusion ("therefore", "so") and has a number: the number that
   it states, else its last number;
4. the last number that a sentence states, right after "is", "are", an equals sign and the like;
5. the last number in bold;
6. the last number of the last sentence with one.

Number words (zero to twenty) count in 1, in 2 and where they are stated, but not as a part of
another number ("twenty-one", "one hundred", "two thirds"). In 3 to 6, no number comes from a reply
that says it cannot answer, from an example, or from a bound ("more than 5"), and a number in a row
("58, 59 and 63") is not stated. Of an answer that was cut off, only 1 counts, and 2 if more text
follows the number. Two alternatives ("7 or 8"), a range, a ratio or a time ("3:4"), an unfinished
sum ("2 + 3") and a comma that may be a decimal one ("0,5") are no number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from mergefront.records import Item, Rule, Score
from mergefront.tasks.scoring.answer_span import (
    AnswerSpan,
    answer_clauses,
    normalised_text,
    plain_latex,
    sentences,
)

WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    *("nineteen", "twenty"),
)
_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
_START = r"(?:(?<![\w%^.)\]}°])[-+](?=[\d.])|(?<![\w.^_])(?<!\d:)(?<!\^\{)(?<!_\{)(?<!\^-)(?<!\{-))"
_NUMBER = re.compile(
    rf"(?P<sign>{_START})"
    rf"(?:(?P<whole>\d{{1,9}}) (?P<part>\d{{1,9}}/\d{{1,9}})(?![\d/])|"
    rf"(?P<core>{_DIGITS})(?!\d)(?!(?:st|nd|rd|th)\b)"
    r"(?:[eE](?P<exp>[-+]?\d{1,3})(?!\w)| ?[x×*] ?10 ?\^ ?\{?(?P<ten>[-+]?\d{1,3})\}?"
    rf"| ?/ ?(?P<over>{_DIGITS})(?![\d/]))?)(?P<percent> ?%| ?per ?cent\b)?"
)
_UNIT = r"(?:°[CF]?|[A-Za-zµμΩ€£]+(?:\^?\{?-?\d\}?)?)"
_BARE = re.compile(rf"[$€£¥₹]? ?{_NUMBER.pattern}\.?")
_WHOLE = re.compile(
    rf"[\s\"'`*(\[]*(?:[A-Za-z]\w{{0,9}} ?[=≈] ?)?[$€£¥₹]? ?{_NUMBER.pattern} ?"
    rf"(?:{_UNIT}(?:(?: |/| per ){_UNIT}){{0,3}})?[\s\"'`*)\].,;!]*"
)
_EQUALS = re.compile(r"[=≈]|\bequals\b|\bapproximately\b")
_STATES = re.compile(
    r"(?:[=≈]|\b(?:is|are|was|were|be|equals?|gives?|get|has|have|shows?|see|count)\b)"
    r"(?: (?:about|approximately|around|only|exactly|a total of|equal to|also|still)){0,2}"
    r"[\s*:$€£]*(?=[-+.\d]|(?:WORDS)\b)".replace("WORDS", "|".join(WORDS)),
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"\W*(?:therefore|thus|hence|so|finally|in total|in conclusion|所以|因此)\b", re.I
)
_EXAMPLE = re.compile(r"\bfor (?:example|instance)\b|\be\.g\.|\bsuppose\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:impossible|not possible|unable|cannot|can't|can not|could not|couldn't|insufficient)\b"
    r"[^.\n]{0,40}\b(?:provide|determine|answer|help|say|tell|give|find|calculate|assist|solve)",
    re.IGNORECASE,
)
_BOUND = re.compile(r"\b(?:than|least|most)\s[$€£]?\Z")
_ROW = re.compile(r"[%°\w]{0,3}(?:,| and) (?:and )?[-+$]?\d")
_BOLD = re.compile(r"\*\*([^*\n]{1,60})\*\*")
_OR_AFTER = re.compile(r" ?\w{0,12},? or (?:about |maybe )?[-+$]?\d")
_OR_BEFORE = re.compile(
    r"\d(?: ?\w{0,12},? or (?:about |maybe )?[-+$]?|%?-)\Z"
    r"|\b(?:between|from) (?:[^.]{1,20} (?:and|to) )?\Z|\d,\Z"
)
_UNFINISHED = re.compile(r" ?[-+×*/÷^] ?[(\d]")
_RATIO = re.compile(r" ?: ?\d|-\d|,\d")
_HUGE = 10**300
_WORD = re.compile(
    rf"(?<![\w-])(?<!hundred )(?<!hundred and )(?<!thousand )({'|'.join(WORDS)})(?![\w-]|"
    r" (?:and a )?(?:hal(?:f|ves)|thirds?|(?:quart|fourth|fifth|sixth|eighth|tenth)(?:er)?s?|"
    r"hundred|thousand|million|billion|dozen)\b)",
    re.IGNORECASE,
)
_WORD_ALONE = re.compile(
    rf"[\s\"'`*(\[]*{_WORD.pattern}(?: (?!(?:or|and|to|of|by|point)\b)[a-z]+){{0,2}}"
    r"[\s\"'`*)\].,;!]*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reading:
    """A number as it stands in a text, and its value: None if it is no single number."""

    text: str
    value: Fraction | None
    percent: bool = False


def number(span: AnswerSpan, item: Item, rule: Rule | None = None) -> Score:
    """Compare the number with each gold as a fraction: 0.5 equals 1/2, 25% equals 25 and 1/4.

    With `digits`, both are rounded first; with `absolute` or `relative`, numbers that differ by at
    most that much are equal. A `rule` stands in for the item's.
    """
    return _compare(span, item, lambda answer, gold: close(answer, gold, rule or item.rule))


def integer(span: AnswerSpan, item: Item) -> Score:
    """Compare without decimals: 3.7 counts as 3 (MathVista's `int(float(x))`)."""
    return _compare(span, item, _same_whole, hundredths=False)


def number_list(span: AnswerSpan, item: Item) -> Score:
    """Compare the numbers of the last bracketed list, or of the answer clause, in their order."""
    answer = _find_list(span)
    if not answer:
        return Score(0.0, "", "no_answer")
    golds = [numbers_in(gold) for gold in item.answers]
    right = any(
        len(answer) == len(gold)
        and all(close(a, b, item.rule) for a, b in zip(answer, gold, strict=True))
        for gold in golds
    )
    return Score(float(right), f"[{', '.join(map(_shown, answer))}]", "ok")


def close(answer: Fraction, gold: Fraction, rule: Rule) -> bool:
    """Return whether two numbers are equal under a rule's digits and tolerances."""
    if (n := rule.digits) is not None and round(float(answer), n) == round(float(gold), n):
        return True
    return abs(answer - gold) <= max(
        Fraction(str(rule.absolute)), Fraction(str(rule.relative)) * abs(gold)
    )


def value_of(text: str) -> Fraction | None:
    """Return the number that a gold or option is (1,234; -1/2; 1e5; 20%; $5), if it is one."""
    match = _BARE.fullmatch(plain_latex(normalised_text(text)))
    return _reading(match).value if match else None


def number_alone(text: str) -> Reading | None:
    """Return the number that a text is, with at most a unit after it and `x =` before it."""
    match = _WHOLE.fullmatch(plain_latex(text)) if len(text) <= 200 else None
    return _reading(match) if match else None


def find_number(span: AnswerSpan) -> Reading | None:
    """Return the number that a reply gives as its answer, from the places above."""
    if reading := number_alone(span.text) or _word_alone(span.text):
        return reading
    text = plain_latex(span.text) if span.marked else span.text
    if span.marked:
        return _pick_number(text, first=True) or _pick_word(text)
    for clause in span.whole_clauses():
        plain = plain_latex(clause)
        if reading := number_alone(plain) or _pick_number(plain, first=True) or _pick_word(plain):
            return reading
    return None if span.cut_off else _in_prose(text)


def numbers_in(text: str) -> list[Fraction]:
    """Return all numbers of a text, in order."""
    matches = _NUMBER.finditer(plain_latex(normalised_text(text)))
    values = [_reading(match).value for match in matches]
    return [value for value in values if value is not None]


def _same_whole(answer: Fraction, gold: Fraction) -> bool:
    decimal = 10**12 % answer.denominator == 0  # a fraction such as 2/3 is not cut down to 0
    return answer == gold or (decimal and int(answer) == int(gold))


def _compare(
    span: AnswerSpan,
    item: Item,
    equal: Callable[[Fraction, Fraction], bool],
    *,
    hundredths: bool = True,
) -> Score:
    """Score the number of a reply; with `hundredths`, 25% may also stand for 0.25."""
    answer = find_number(span)
    if answer is None:
        return Score(0.0, "", "no_answer")
    golds = [value_of(gold) for gold in item.answers]
    if answer.value is None:
        return Score(0.0, answer.text, "parse_error")
    values = [answer.value]
    if answer.percent and hundredths:
        values.append(answer.value / 100)
    right = any(equal(value, gold) for value in values for gold in golds if gold is not None)
    return Score(float(right), answer.text, "ok")


def _in_prose(text: str) -> Reading | None:
    parts = sentences(text)
    if not parts or _REFUSAL.search(parts[0]) or _REFUSAL.search(parts[-1]):
        return None
    parts = [plain_latex(part) for part in reversed(parts) if not _EXAMPLE.search(part)]
    for part in filter(_CONCLUDES.match, parts):
        if reading := _stated_number(part) or _pick_number(part, first=False):
            return reading
    for part in parts:
        if reading := _stated_number(part):
            return reading
    for bold in reversed(_BOLD.findall(text)):
        if reading := number_alone(bold.strip(" .:")):
            return reading
    return next((reading for part in parts if (reading := _pick_number(part, first=False))), None)


def _stated_number(text: str) -> Reading | None:
    """Return the number, in digits or words, after the last "is" or equals sign before one."""
    for verb in reversed(list(_STATES.finditer(text))):
        match = _NUMBER.match(text, verb.end())
        if match is None and (word := _WORD.match(text, verb.end())):
            return Reading(word[0], Fraction(WORDS.index(word[0].lower())))
        if match and not (_ROW.match(text, match.end()) or _UNFINISHED.match(text, match.end())):
            return _single_number(match)
    return None


def _pick_number(text: str, *, first: bool) -> Reading | None:
    """Return the first number (after the last equals sign) or the last number of a text."""
    text = (_after_equals(text) or text) if first else text
    matches = [
        match
        for match in _NUMBER.finditer(text)
        if not _BOUND.search(text, max(0, match.start() - 9), match.start())
    ]
    if not matches:
        return None
    if first and _UNFINISHED.match(text, matches[0].end()):
        return Reading(text.strip()[:80], None)
    return _single_number(matches[0] if first else matches[-1])


def _single_number(match: re.Match[str]) -> Reading:
    """Read a number; without a value if it is one of two alternatives or an end of a range."""
    text, begin, end = match.string, match.start(), match.end()
    before, after = text[max(0, begin - 40) : begin], text[end : end + 40]
    if _OR_AFTER.match(after) or _OR_BEFORE.search(before) or _RATIO.match(after):
        return Reading((before[-20:] + text[begin:end] + after[:20]).strip(), None)
    return _reading(match)


def _word_alone(text: str) -> Reading | None:
    """Return the number word that a text is, with at most two more words after it."""
    alone = len(text) <= 60 and _WORD_ALONE.fullmatch(text) and len(_WORD.findall(text)) == 1
    return _pick_word(text) if alone else None


def _pick_word(text: str) -> Reading | None:
    words = _WORD.findall(text)
    return Reading(words[-1], Fraction(WORDS.index(words[-1].lower()))) if words else None


def _after_equals(text: str) -> str:
    """Return what follows the last equals sign that has a number after it, else an empty text."""
    # No number spans an equals sign. To search again after each sign would take quadratic time.
    last_number = max((match.start() for match in _NUMBER.finditer(text)), default=-1)
    ends = [sign.end() for sign in _EQUALS.finditer(text) if sign.end() <= last_number]
    return text[ends[-1] :] if ends else ""


def _reading(match: re.Match[str]) -> Reading:
    parts = {name: part.replace(",", "") for name, part in match.groupdict().items() if part}
    text, core, power = match[0].strip()[:80], parts.get("core", "0"), parts.get("exp")
    try:
        value = Fraction(core) * Fraction(10) ** int(power or parts.get("ten", "0"))
        value /= Fraction(parts.get("over", "1"))
        if "whole" in parts:
            value = int(parts["whole"]) + Fraction(parts["part"])
    except (ValueError, ZeroDivisionError):  # thousands of digits, or a division by zero
        return Reading(text, None)
    if abs(value) > _HUGE:
        return Reading(text, None)
    sign = -1 if parts.get("sign") == "-" else 1
    return Reading(text, sign * value, "percent" in parts)


def _find_list(span: AnswerSpan) -> list[Fraction]:
    text = span.text
    brackets = re.findall(r"\[([^\[\]]{1,400})\]|\(([^()]{1,400})\)", text)
    for content in reversed([square or round_ for square, round_ in brackets]):
        if len(numbers := numbers_in(content)) > 1:
            return numbers
    for region in () if span.cut_off else (*answer_clauses(text), *sentences(text)[::-1]):
        if numbers := numbers_in(region):
            return numbers
    return []


def _shown(value: Fraction) -> str:
    return str(value) if value.denominator == 1 else f"{float(value):g}"
