"""The rule `math`: formulas, equal if math-verify proves it; plain numbers never get there.

The expression is looked for in these places; the first place that has one decides:
1. the whole marked span, or the whole reply if it is one line without prose;
2. the last answer clause: its last formula between `$`, else all of it if it is no prose, else its
   number;
3. the last formula between `$` in the last sentence that has one;
4. the number that the rule `number` finds.

It is compared with a gold after its last equals sign, cheapest first: equal text is equal; two
numbers (with `a/b`, percent and ratios) compare as fractions; prose, alternatives ("7 or 8") and
what is longer than 300 characters equal nothing. The rest goes to worker processes
(`formula_pool`), whose verdicts are remembered.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from fractions import Fraction

from mergefront.records import Item, Rule, Score
from mergefront.tasks.scoring import formula_pool, numbers
from mergefront.tasks.scoring.answer_span import (
    AnswerSpan,
    normalised_text,
    plain_latex,
    sentences,
)
from mergefront.tasks.scoring.formula_pool import FormulaPair

LONGEST = 300
_MOST_REMEMBERED = 50_000
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
_verdicts: OrderedDict[FormulaPair, bool | None] = OrderedDict()


def math(span: AnswerSpan, item: Item) -> Score:
    """Compare as mathematical expressions; reads `digits`, `absolute` and `relative`."""
    answer = find_expression(span)
    if not answer:
        return Score(0.0, "", "no_answer")
    verdicts: list[bool | None] = []
    for gold in item.answers:
        verdict = _quick_verdict(gold, answer, item.rule)
        if isinstance(verdict, FormulaPair):
            compare_in_workers([verdict])
            verdict = _verdicts[verdict]
        if verdict:
            return Score(1.0, answer[:200], "ok")
        verdicts.append(verdict)
    return Score(0.0, answer[:200], "ok" if False in verdicts else "parse_error")


def pairs_to_compare(span: AnswerSpan, item: Item) -> list[FormulaPair]:
    """Return the pairs of an item and its answer that only the workers can compare."""
    answer = find_expression(span)
    verdicts = (_quick_verdict(gold, answer, item.rule) for gold in item.answers) if answer else ()
    return [verdict for verdict in verdicts if isinstance(verdict, FormulaPair)]


def compare_in_workers(pairs: Iterable[FormulaPair]) -> None:
    """Let the workers compare the pairs without a verdict yet, all at once, and remember it."""
    unknown = [pair for pair in dict.fromkeys(pairs) if pair not in _verdicts]
    if unknown:
        _verdicts.update(zip(unknown, formula_pool.verdicts(unknown), strict=True))
    while len(_verdicts) > max(_MOST_REMEMBERED, len(unknown)):
        _verdicts.popitem(last=False)


def gold_expression(gold: str) -> str:
    """Return a gold without box, dollar signs and unit.

    A backslash that the data has lost comes back: a form feed stands for the \\f of \\frac.
    """
    for character, command in (("\f", r"\f"), ("\t", r"\t"), ("\b", r"\b"), ("\r", r"\r")):
        gold = re.sub(f"{character}(?=[a-z])", lambda _, command=command: command, gold)  # type: ignore[misc]
    return bare_expression(normalised_text(gold))


def bare_expression(text: str) -> str:
    """Drop dollar signs, box, closing punctuation, unit and thousands commas of an expression."""
    text = _ROOT.sub(r"\\sqrt{\1\2\3}", text.strip(" \n*`'\"").replace("π", r"\pi "))
    for _ in range(3):  # "$\boxed{5 \text{ cm}}$."
        before = text
        text = text.rstrip(" .,;:\n").strip("$ ")
        for left, right in ((r"\(", r"\)"), (r"\[", r"\]"), (r"\boxed{", "}"), (r"\text{", "}")):
            inner = text[len(left) : -len(right)]
            if text == f"{left}{inner}{right}" and left not in inner and _is_balanced(inner):
                text = inner.strip()
        if (shorter := _UNIT.sub("", text).strip()) and "%" not in text:
            text = shorter
        if text == before:
            break
    text = _POWER_TIMES.sub(r"\1\2 \\cdot ", text)
    # Commas may group thousands: 1,234 does, the point (100,200) does not.
    if re.search(r"[(\[{]\s*-?\d+,\d{3}\s*[)\]}]|\\\{", text):
        return text
    return re.sub(r"(?<=\d)(?:,|\{,\}|\\,|\\!)(?=\d{3}(?!\d))", "", text)


def find_expression(span: AnswerSpan) -> str:
    """Return the expression that a reply gives as its answer, or an empty text."""
    text = span.text
    one_line = len(text) <= LONGEST and "\n" not in text
    if span.marked or (one_line and not _is_prose(bare_expression(text))):
        return bare_expression(text)
    for clause in span.whole_clauses():
        if formula := _last_formula(clause):
            return bare_expression(formula)
        if not _is_prose(clause):
            return bare_expression(clause)
        if (reading := numbers.find_number(AnswerSpan(clause, marked=True))) is not None:
            return reading.text
    if span.cut_off:
        return ""
    for sentence in reversed(sentences(text)):
        if formula := _last_formula(sentence):
            return bare_expression(formula)
    if (reading := numbers.find_number(span)) is not None:
        return reading.text
    return bare_expression(text) if len(text) <= LONGEST else ""


def _last_formula(text: str) -> str | None:
    """Return what stands between the last pair of dollar signs or LaTeX brackets of a text."""
    formulas = list(_MATH.finditer(text))
    return next(part for part in formulas[-1].groups() if part is not None) if formulas else None


def _is_balanced(text: str) -> bool:
    """Return whether the text closes no brace that it did not open."""
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return True


def _quick_verdict(gold: str, answer: str, rule: Rule) -> bool | FormulaPair | None:
    """Return whether an answer equals a gold, the pair to compare, or None: no expression."""
    if _squeezed(gold) == _squeezed(answer):
        return True
    if _OR.search(answer) and not _OR.search(gold):
        return None
    if "=" not in gold:
        answer = answer.rpartition("=")[2].strip()
    gold_values, answer_values = _plain_values(gold), _plain_values(answer)
    if gold_values and answer_values:
        return any(numbers.close(a, g, rule) for a in answer_values for g in gold_values)
    if len(answer) > LONGEST or len(gold) > LONGEST:
        return None
    if _is_prose(answer) or _is_prose(gold):
        return False if not any(mark in answer for mark in "\\^=_") else None
    if len(answer) == 1 and gold_values:
        return False
    return FormulaPair(gold, answer, rule.digits, rule.absolute, rule.relative)


def _plain_values(text: str) -> Sequence[Fraction]:
    """Return the value of a number or ratio, and a hundredth of it for a percentage."""
    if ratio := _RATIO.fullmatch(text):
        below = int(ratio[2])
        return [Fraction(int(ratio[1]), below)] if below else []
    reading = numbers.number_alone(text) if "!" not in text else None  # a factorial
    if reading is None or reading.value is None:
        return []
    return [reading.value, reading.value / 100] if reading.percent else [reading.value]


def _is_prose(text: str) -> bool:
    plain = plain_latex(text)
    return any(word.lower() not in _FUNCTIONS for word in _WORD.findall(plain))


def _squeezed(text: str) -> str:
    for fraction in (r"\dfrac", r"\tfrac"):
        text = text.replace(fraction, r"\frac")
    return re.sub(r"\\left|\\right|\\[,!;:]|\s", "", text).lower()
