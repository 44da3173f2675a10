"""Rules for words: `exact`, `text`, `relaxed`, `vqa`, `anls`, `contains`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mergefront.records import Item, Rule, Score
from mergefront.tasks.scoring import numbers
from mergefront.tasks.scoring.answer_span import (
    AnswerSpan,
    answer_clauses,
    normalised_text,
    plain_latex,
)

_EDGE_MARKS = " .,:;!?\"'`*()[]{}$"
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = {"none": "0"} | {word: str(n) for n, word in enumerate(numbers.WORDS[:11])}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_RELAXED = 0.05
_ANLS_THRESHOLD = 0.5
_CONTAINS_CAP = 100


def exact(span: AnswerSpan, item: Item) -> Score:
    """Score 1 for a gold, after lower-casing and without spaces and punctuation at the edges."""
    answer = bare_words(span.text)
    if not answer:
        return Score(0.0, "", "no_answer")
    golds = {bare_words(normalised_text(gold)) for gold in item.answers}
    return Score(float(answer in golds), answer, "ok")


def text(span: AnswerSpan, item: Item) -> Score:
    """Score 1 if the reply, or its answer clause, is a gold; articles do not count.

    A gold that is a number is compared as by `number`.
    """
    if all(numbers.value_of(gold) is not None for gold in item.answers):
        return numbers.number(span, item)
    golds = {_without_articles(gold) for gold in item.answers}
    answers = [answer for region in _regions(span) if (answer := _without_articles(region))]
    if not answers:
        return Score(0.0, "", "no_answer")
    right = next((answer for answer in answers if answer in golds), None)
    return Score(float(right is not None), (right or answers[0])[:200], "ok")


def relaxed(span: AnswerSpan, item: Item) -> Score:
    """Score 1 within 5 % of a gold (or the rule's `relative`) for numbers; else as `text`.

    Reference: ChartQA, arXiv:2203.10244, section 5.1.
    """
    if any(numbers.value_of(gold) is None for gold in item.answers):
        return text(span, item)
    rule = Rule("relaxed", None, item.rule.absolute, item.rule.relative or _RELAXED)
    return numbers.number(span, item, rule)


def vqa(span: AnswerSpan, item: Item) -> Score:
    """VQA accuracy against N golds: the mean, leaving one gold out, of min(1, matches / 3).

    A single gold counts in full. Texts are cleaned as in the official evaluation code (case,
    articles, number words, punctuation, apostrophes). Reference: arXiv:1505.00468.
    """
    golds = [_vqa_form(gold) for gold in item.answers]
    best = Score(0.0, "", "no_answer")
    for region in _regions(span):
        answer = _vqa_form(region)
        matches, count = golds.count(answer), len(golds)
        if not answer:
            continue
        # `matches` of the N ways to leave one gold out take a match away.
        left_whole, left_less = min(1.0, matches / 3), min(1.0, (matches - 1) / 3)
        total = matches * left_less + (count - matches) * left_whole
        value = total / count if count > 1 else float(matches)
        if value > best.value or best.status == "no_answer":
            best = Score(value, answer[:200], "ok")
    return best


def anls(span: AnswerSpan, item: Item) -> Score:
    """Return 1 - edit distance / length of the longer, and 0 below one half; the best gold counts.

    Reference: ST-VQA, arXiv:1905.13648, section 3.1.
    """
    golds = [_lower_case(gold) for gold in item.answers]
    answers = [answer for region in _regions(span) if (answer := _lower_case(region))]
    if not answers:
        return Score(0.0, "", "no_answer")
    value, best = max((max(_similarity(a, gold) for gold in golds), a) for a in answers)
    return Score(value, best[:200], "ok")


def contains(span: AnswerSpan, item: Item) -> Score:
    """Score 1 if a gold stands in the answer, case and line ends aside (OCRBench).

    Only the first 100 characters of the answer count, or four times the gold's length if that is
    more, so that listing everything does not pay. In a formula, blanks are dropped and case counts.
    """
    regions = [region for region in _regions(span) if bare_words(region)]
    if not regions:
        return Score(0.0, "", "no_answer")
    for region in regions:
        if any(_contains(region, normalised_text(gold)) for gold in item.answers):
            return Score(1.0, region[:200], "ok")
    return Score(0.0, regions[0][:200], "ok")


def bare_words(text: str) -> str:
    """Return the text in lower case, with single spaces, without punctuation at its edges."""
    return " ".join(text.lower().split()).strip(_EDGE_MARKS)


def _regions(span: AnswerSpan) -> Iterator[str]:
    """Yield the parts that may be the answer: the last answer clause, and the whole."""
    if not span.marked and (clause := next(answer_clauses(span.text), None)) is not None:
        yield clause
    yield span.text


def _without_articles(text: str) -> str:
    text = bare_words(plain_latex(normalised_text(text)))
    return " ".join(word for word in text.split() if word not in _ARTICLES)


def _lower_case(text: str) -> str:
    return " ".join(normalised_text(text).lower().split())


def _vqa_form(text: str) -> str:
    text = normalised_text(text[:500]).lower().replace("\n", " ").replace("'", "").replace("’", "")
    text = re.sub(r"(?<=\d),(?=\d)", "", text)
    for mark in _PUNCTUATION:
        text = text.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = (_NUMBER_WORDS.get(word, word) for word in text.split())
    return " ".join(word for word in words if word not in _ARTICLES)


def _contains(region: str, gold: str) -> bool:
    region = region[: max(_CONTAINS_CAP, 4 * len(gold))]
    if gold.lower().replace("\n", " ") in region.lower().replace("\n", " "):
        return True
    formula = any(mark in gold for mark in "\\=^_+{")
    return formula and "".join(gold.split()) in "".join(region.split())


def _similarity(answer: str, gold: str) -> float:
    longest = max(len(answer), len(gold))
    if min(len(answer), len(gold)) < _ANLS_THRESHOLD * longest:
        return 0.0  # at least so many edits; this also keeps a long reply cheap
    value = 1 - _edit_distance(answer, gold) / longest
    return value if value >= _ANLS_THRESHOLD else 0.0


def _edit_distance(a: str, b: str) -> int:
    """Levenshtein distance, in len(a) * len(b) steps."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
