"""The rule `math`: formulas, equal if math-verify proves them so; plain numbers never get there.

What is compared, first hit wins:
1. the whole marked span, or the whole reply if it is one line without prose;
2. the clause after the last answer cue: its last formula between `$`, else all of it if it is no
   prose, else its number;
3. the last formula between `$`, after its last equals sign, in the last sentence that has one;
4. the number that the rule `number` finds.
Then, cheapest first: equal text is equal; two numbers (with `a/b`, percent and ratios) compare as
fractions; prose, alternatives ("7 or 8") and what is longer than 300 characters equal nothing; the
rest goes to worker processes (`pool`), and what they said is remembered.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from fractions import Fraction

from mergefront.records import Item, Rule, Score
from mergefront.tasks.scoring import numbers, workers
from mergefront.tasks.scoring.latex import plain_latex
from mergefront.tasks.scoring.spans import Span, clauses, ends_in, normal, sentences

LONGEST = 300
_REMEMBERED = 50_000
_MATH = re.compile(r"\$\$?([^$]{1,400})\$\$?|\\\(([^\n]{1,400}?)\\\)|\\\[([^\n]{1,400}?)\\\]")
_UNIT = re.compile(
    r"(?:\\(?:text|mathrm|mbox|rm|textbf) ?\{ ?(?:[^{}\\]{1,40})\}(?:\^ ?\{?\d\}?)?"
    r"|\{ ?(?:square|cubic)? ?[a-z]{2,12} ?\}|\\?%|\^ ?\{? ?\\circ ?\}?|°|\\degree"
    r"|(?<=[\d)}\s])(?:square |cubic )?(?:cm|mm|km|m|units?|degrees?|inches|feet|radians)"
    r"(?:\^ ?\{?\d\}?)?)\s*\Z"
)
_ROOT = re.compile(r"√ ?(?:\{([^{}]+)\}|\(([^()]+)\)|(\d+|[a-zA-Z]))")
# The parser reads 2^{2} 13 as 2^2 * 1 * 3.
_POWER_TIMES = re.compile(r"(\^ ?\{[^{}]*\}) ?(?=\d)|(\^ ?\d) (?=\d)")
_RATIO = re.compile(r"(\d{1,15}) ?: ?(\d{1,15})")
_OR = re.compile(r"\bor\b|\\lor\b")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_FUNCTIONS = frozenset(
    ("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "log", "exp", "sqrt")
)
_known: OrderedDict[workers.Pair, bool | None] = OrderedDict()


def math(span: Span, item: Item) -> Score:
    """Equal to a gold as a mathematical expression; reads `digits`, `absolute`, `relative`."""
    said = said_in(span)
    if not said:
        return Score(0.0, "", "no_answer")
    verdicts: list[bool | None] = []
    for gold in item.answers:
        verdict = _cheap(gold, said, item.rule)
        if isinstance(verdict, workers.Pair):
            settle([verdict])
            verdict = _known[verdict]
        if verdict:
            return Score(1.0, said[:200], "ok")
        verdicts.append(verdict)
    return Score(0.0, said[:200], "ok" if False in verdicts else "parse_error")


def pairs_of(span: Span, item: Item) -> list[workers.Pair]:
    """What of an item only the workers can tell."""
    said = said_in(span)
    found = (_cheap(gold, said, item.rule) for gold in item.answers) if said else ()
    return [one for one in found if isinstance(one, workers.Pair)]


def settle(pairs: Iterable[workers.Pair]) -> None:
    """Ask the workers, at once, about the pairs that are not known yet."""
    asked = [pair for pair in dict.fromkeys(pairs) if pair not in _known]
    if asked:
        _known.update(zip(asked, workers.verdicts(asked), strict=True))
    while len(_known) > max(_REMEMBERED, len(asked)):
        _known.popitem(last=False)


def gold_expression(gold: str) -> str:
    """A gold without box, dollar signs and unit; a lost backslash of a control character back."""
    for lost, command in (("\f", r"\f"), ("\t", r"\t"), ("\b", r"\b"), ("\r", r"\r")):
        gold = re.sub(f"{lost}(?=[a-z])", lambda _, command=command: command, gold)  # type: ignore[misc]
    return bare(normal(gold))


def bare(text: str) -> str:
    """An expression without dollar signs, box, closing punctuation, unit, and thousands commas."""
    text = _ROOT.sub(r"\\sqrt{\1\2\3}", text.strip(" \n*`'\"").replace("π", r"\pi "))
    for _ in range(3):  # "$\boxed{5 \text{ cm}}$."
        before = text
        text = text.rstrip(" .,;:\n").strip("$ ")
        for left, right in ((r"\(", r"\)"), (r"\[", r"\]"), (r"\boxed{", "}"), (r"\text{", "}")):
            inner = text[len(left) : -len(right)]
            if text == f"{left}{inner}{right}" and left not in inner and _closed(inner):
                text = inner.strip()
        if (shorter := _UNIT.sub("", text).strip()) and "%" not in text:
            text = shorter
        if text == before:
            break
    text = _POWER_TIMES.sub(r"\1\2 \\cdot ", text)
    return (
        re.sub(r"(?<=\d)(?:,|\{,\}|\\,|\\!)(?=\d{3}(?!\d))", "", text) if _grouped(text) else text
    )


def said_in(span: Span) -> str:
    """The expression that a reply gives as its answer, or nothing."""
    text = span.text
    if span.marked or (len(text) <= LONGEST and "\n" not in text and not _prose(bare(text))):
        return bare(text)
    for clause in clauses(text):
        if span.cut and ends_in(text, clause):
            continue
        if formulas := list(_MATH.finditer(clause)):
            return bare(_inner(formulas[-1]))
        if not _prose(clause):
            return bare(clause)
        if (reading := numbers.find(Span(clause, marked=True))) is not None:
            return reading.text
    if span.cut:
        return ""
    for sentence in reversed(sentences(text)):
        if formulas := list(_MATH.finditer(sentence)):
            return bare(_inner(formulas[-1]))
    reading = numbers.find(span)
    return reading.text if reading is not None else bare(text) if len(text) <= LONGEST else ""


def _inner(found: re.Match[str]) -> str:
    return next(part for part in found.groups() if part is not None)


def _closed(text: str) -> bool:
    """Whether no brace closes that was not opened in the text."""
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return True


def _grouped(text: str) -> bool:
    """Whether commas in a text group thousands: 1,234 does, the point (100,200) does not."""
    return not re.search(r"[(\[{]\s*-?\d+,\d{3}\s*[)\]}]|\\\{", text)


def _cheap(gold: str, said: str, rule: Rule) -> bool | workers.Pair | None:
    """Whether two expressions are equal, None if what was said is none, or what to ask for."""
    if _squeezed(gold) == _squeezed(said):
        return True
    if _OR.search(said) and not _OR.search(gold):
        return None
    if "=" not in gold:
        said = said.rpartition("=")[2].strip()
    mine, theirs = _plain_values(gold), _plain_values(said)
    if mine and theirs:
        return any(numbers.close(one, other, rule) for one in theirs for other in mine)
    if len(said) > LONGEST or len(gold) > LONGEST:
        return None
    if _prose(said) or _prose(gold):
        return False if not any(mark in said for mark in "\\^=_") else None
    if len(said) == 1 and mine:
        return False
    return workers.Pair(gold, said, rule.digits, rule.absolute, rule.relative)


def _plain_values(text: str) -> Sequence[Fraction]:
    if ratio := _RATIO.fullmatch(text):
        below = int(ratio[2])
        return [Fraction(int(ratio[1]), below)] if below else []
    reading = numbers.whole(text) if "!" not in text else None  # a factorial
    if reading is None or reading.value is None:
        return []
    return [reading.value, reading.value / 100] if reading.percent else [reading.value]


def _prose(text: str) -> bool:
    plain = plain_latex(text)
    return any(word.lower() not in _FUNCTIONS for word in _WORD.findall(plain))


def _squeezed(text: str) -> str:
    for spelled in (r"\dfrac", r"\tfrac"):
        text = text.replace(spelled, r"\frac")
    return re.sub(r"\\left|\\right|\\[,!;:]|\s", "", text).lower()
