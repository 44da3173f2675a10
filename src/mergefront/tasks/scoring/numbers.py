"""Rules for one number (`number`, `float`, `integer`) and for several (`list`).

Where the number is, first hit wins:
1. the whole marked span or reply is a number, maybe with a currency sign or `x =` before and a unit
   after it, or a number word ("Three.", "three dogs");
2. the clause after the last answer cue: what follows its last equals sign, there the first number;
3. the last sentence that draws a conclusion ("therefore", "so") and has a number: the number that
   it states, else its last number;
4. the last number that a sentence states, right after "is", "are", an equals sign and their like;
5. the last number in bold; 6. the last number of the last sentence with one.
Number words (zero to twenty) count in 1, in 2 and where stated, but not as a part of another number
("twenty-one", "one hundred", "two thirds"). By 3 to 6, a reply that says it cannot
answer, an example, and a bound ("more than 5") give no number, and one of a row of numbers ("58,
59 and 63") is not stated. An answer that was cut off counts only by 1, or by 2 if more text follows
the number. Two alternatives ("7 or 8"), a range, a ratio or a time ("3:4"), an unfinished sum
("2 + 3") and a comma that may be a decimal one ("0,5") are no number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from mergefront.records import Item, Rule, Score
from mergefront.tasks.scoring.latex import plain_latex
from mergefront.tasks.scoring.spans import Span, clauses, ends_in, normal, sentences

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
    """A number as found: its text, and its value, or None if it is no single number."""

    text: str
    value: Fraction | None
    percent: bool = False


def number(span: Span, item: Item, rule: Rule | None = None) -> Score:
    """Equal to a gold as a fraction: 0.5 equals 1/2, 25% equals 25 and 1/4.

    With `digits`, both are rounded first; with `absolute` or `relative`, that much off is equal.
    `rule` stands in for the item's, if given.
    """
    return _compare(span, item, lambda said, gold: close(said, gold, rule or item.rule))


def integer(span: Span, item: Item) -> Score:
    """Equal to a gold after dropping decimals: 3.7 counts as 3 (MathVista's `int(float(x))`)."""
    return _compare(span, item, _same_whole, hundredths=False)


def listed(span: Span, item: Item) -> Score:
    """The numbers of the last bracketed list, or of the answer clause, equal a gold's in order."""
    said = _list_in(span)
    if not said:
        return Score(0.0, "", "no_answer")
    golds = [numbers_in(gold) for gold in item.answers]
    right = any(
        len(said) == len(gold)
        and all(close(a, b, item.rule) for a, b in zip(said, gold, strict=True))
        for gold in golds
    )
    return Score(float(right), f"[{', '.join(map(_shown, said))}]", "ok")


def close(said: Fraction, gold: Fraction, rule: Rule) -> bool:
    """Whether two numbers count as equal under a rule's digits and tolerances."""
    if rule.digits is not None and _rounded(said, rule.digits) == _rounded(gold, rule.digits):
        return True
    return abs(said - gold) <= max(
        Fraction(str(rule.absolute)), Fraction(str(rule.relative)) * abs(gold)
    )


def value_of(text: str) -> Fraction | None:
    """The number that a gold or option is (1,234; -1/2; 1e5; 20%; $5), or None if it is none."""
    found = _BARE.fullmatch(plain_latex(normal(text)))
    return _reading(found).value if found else None


def whole(text: str) -> Reading | None:
    """The number that a text is, with at most a unit after it and `x =` before it."""
    found = _WHOLE.fullmatch(plain_latex(text)) if len(text) <= 200 else None
    return _reading(found) if found else None


def find(span: Span) -> Reading | None:
    """The number that a reply gives as its answer, by the ordered rules above."""
    if reading := whole(span.text) or _whole_word(span.text):
        return reading
    text = plain_latex(span.text) if span.marked else span.text
    if span.marked:
        return _pick(text, first=True) or _pick_word(text)
    for clause in clauses(text):
        if span.cut and ends_in(text, clause):
            continue
        plain = plain_latex(clause)
        if reading := whole(plain) or _pick(plain, first=True) or _pick_word(plain):
            return reading
    return None if span.cut else _in_prose(text)


def numbers_in(text: str) -> list[Fraction]:
    """All numbers of a text, in order."""
    readings = [_reading(found) for found in _NUMBER.finditer(plain_latex(normal(text)))]
    return [reading.value for reading in readings if reading.value is not None]


def _same_whole(said: Fraction, gold: Fraction) -> bool:
    decimal = 10**12 % said.denominator == 0  # a fraction such as 2/3 is not cut down to 0
    return said == gold or (decimal and int(said) == int(gold))


def _compare(
    span: Span, item: Item, equal: Callable[[Fraction, Fraction], bool], *, hundredths: bool = True
) -> Score:
    said = find(span)
    if said is None:
        return Score(0.0, "", "no_answer")
    golds = [value_of(gold) for gold in item.answers]
    if said.value is None:
        return Score(0.0, said.text, "parse_error")
    values = [said.value, said.value / 100] if said.percent and hundredths else [said.value]
    right = any(equal(value, gold) for value in values for gold in golds if gold is not None)
    return Score(float(right), said.text, "ok")


def _in_prose(text: str) -> Reading | None:
    parts = sentences(text)
    if not parts or _REFUSAL.search(parts[0]) or _REFUSAL.search(parts[-1]):
        return None
    parts = [plain_latex(part) for part in reversed(parts) if not _EXAMPLE.search(part)]
    for part in filter(_CONCLUDES.match, parts):
        if reading := _stated(part) or _pick(part, first=False):
            return reading
    for part in parts:
        if reading := _stated(part):
            return reading
    for bold in reversed(_BOLD.findall(text)):
        if reading := whole(bold.strip(" .:")):
            return reading
    return next((reading for part in parts if (reading := _pick(part, first=False))), None)


def _stated(text: str) -> Reading | None:
    """The number, in digits or words, right after the last "is" or equals sign before one."""
    for found in reversed(list(_STATES.finditer(text))):
        hit = _NUMBER.match(text, found.end())
        if hit is None and (word := _WORD.match(text, found.end())):
            return Reading(word[0], Fraction(WORDS.index(word[0].lower())))
        if hit and not _ROW.match(text, hit.end()) and not _UNFINISHED.match(text, hit.end()):
            return _alone(hit)
    return None


def _pick(text: str, *, first: bool) -> Reading | None:
    """The first (after the last equals sign) or last number of a text, if it stands alone."""
    text = (_after(_EQUALS, text) or text) if first else text
    hits = list(_NUMBER.finditer(text))
    hits = [hit for hit in hits if not _BOUND.search(text, max(0, hit.start() - 9), hit.start())]
    if not hits:
        return None
    if first and _UNFINISHED.match(text, hits[0].end()):
        return Reading(text.strip()[:80], None)
    return _alone(hits[0] if first else hits[-1])


def _alone(hit: re.Match[str]) -> Reading:
    """The number of a hit; without a value if it is one of two alternatives or ends of a range."""
    text, begin, end = hit.string, hit.start(), hit.end()
    before, after = text[max(0, begin - 40) : begin], text[end : end + 40]
    if _OR_AFTER.match(after) or _OR_BEFORE.search(before) or _RATIO.match(after):
        return Reading((before[-20:] + text[begin:end] + after[:20]).strip(), None)
    return _reading(hit)


def _whole_word(text: str) -> Reading | None:
    """The number word that a text is, with at most two more words after it."""
    alone = len(text) <= 60 and _WORD_ALONE.fullmatch(text) and len(_WORD.findall(text)) == 1
    return _pick_word(text) if alone else None


def _pick_word(text: str) -> Reading | None:
    hits = _WORD.findall(text)
    return Reading(hits[-1], Fraction(WORDS.index(hits[-1].lower()))) if hits else None


def _after(mark: re.Pattern[str], text: str) -> str:
    """What follows the last mark that a number follows; nothing if none does."""
    # A number never spans a mark. To search again after each mark would take quadratic time.
    last_number = max((number.start() for number in _NUMBER.finditer(text)), default=-1)
    ends = [found.end() for found in mark.finditer(text) if found.end() <= last_number]
    return text[ends[-1] :] if ends else ""


def _reading(found: re.Match[str]) -> Reading:
    said = {name: part.replace(",", "") for name, part in found.groupdict().items() if part}
    core, power = said.get("core", "0"), int(said.get("exp", said.get("ten", "0")))
    try:
        value = Fraction(core) * Fraction(10) ** power / Fraction(said.get("over", "1"))
        if "whole" in said:
            value = int(said["whole"]) + Fraction(said["part"])
    except (ValueError, ZeroDivisionError):  # division by zero, or thousands of digits
        return Reading(found[0].strip()[:80], None)
    if abs(value) > _HUGE:
        return Reading(found[0].strip()[:80], None)
    sign = -1 if said.get("sign") == "-" else 1
    return Reading(found[0].strip()[:80], sign * value, "percent" in said)


def _list_in(span: Span) -> list[Fraction]:
    text = span.text
    brackets = re.findall(r"\[([^\[\]]{1,400})\]|\(([^()]{1,400})\)", text)
    for inner in reversed([square or round_ for square, round_ in brackets]):
        if len(found := numbers_in(inner)) > 1:
            return found
    for region in () if span.cut else (*clauses(text), *sentences(text)[::-1]):
        if found := numbers_in(region):
            return found
    return []


def _rounded(value: Fraction, digits: int) -> float:
    return round(float(value), digits)


def _shown(value: Fraction) -> str:
    return str(value) if value.denominator == 1 else f"{float(value):g}"
