"""Rules for words: `exact`, `text`, `relaxed`, `vqa`, `anls`, `contains`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mergefront.records import Item, Rule, Score
from mergefront.tasks.scoring import numbers
from mergefront.tasks.scoring.latex import plain_latex
from mergefront.tasks.scoring.spans import Span, clauses, normal

_EDGE = " .,:;!?\"'`*()[]{}$"
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = {"none": "0"} | {word: str(n) for n, word in enumerate(numbers.WORDS[:11])}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_RELAXED = 0.05
_ANLS_THRESHOLD = 0.5
_CONTAINS_CAP = 100


def exact(span: Span, item: Item) -> Score:
    """Equal to one of the golds after lower-casing and dropping edge punctuation and spaces."""
    said = plain(span.text)
    if not said:
        return Score(0.0, "", "no_answer")
    return Score(float(said in {plain(normal(gold)) for gold in item.answers}), said, "ok")


def text(span: Span, item: Item) -> Score:
    """The reply, or the clause after an answer cue, equals a gold without articles.

    A gold that is a number is compared as by `number`.
    """
    if all(numbers.value_of(gold) is not None for gold in item.answers):
        return numbers.number(span, item)
    golds = {_loose(gold) for gold in item.answers}
    said = [one for part in _regions(span) if (one := _loose(part))]
    if not said:
        return Score(0.0, "", "no_answer")
    right = next((one for one in said if one in golds), None)
    return Score(float(right is not None), (right or said[0])[:200], "ok")


def relaxed(span: Span, item: Item) -> Score:
    """Within 5 % of a gold (or the rule's `relative`) if golds are numbers; else as `text`.

    Reference: ChartQA, arXiv:2203.10244, section 5.1.
    """
    if any(numbers.value_of(gold) is None for gold in item.answers):
        return text(span, item)
    rule = Rule("relaxed", None, item.rule.absolute, item.rule.relative or _RELAXED)
    return numbers.number(span, item, rule)


def vqa(span: Span, item: Item) -> Score:
    """VQA accuracy against N golds: the mean, leaving one gold out, of min(1, matches / 3).

    A single gold counts in full. Reference: arXiv:1505.00468, and its evaluation code's cleaning
    (case, articles, number words, punctuation, apostrophes).
    """
    golds = [_vqa_form(gold) for gold in item.answers]
    best = Score(0.0, "", "no_answer")
    for part in _regions(span):
        said = _vqa_form(part)
        matches, count = golds.count(said), len(golds)
        if not said:
            continue
        # Of the N ways to leave one out, `matches` leave out one that matches.
        spared = matches * min(1.0, (matches - 1) / 3) + (count - matches) * min(1.0, matches / 3)
        value = spared / count if count > 1 else float(matches)
        if value > best.value or best.status == "no_answer":
            best = Score(value, said[:200], "ok")
    return best


def anls(span: Span, item: Item) -> Score:
    """1 - edit distance / length of the longer, and 0 below one half; the best gold counts.

    Reference: ST-VQA, arXiv:1905.13648, section 3.1.
    """
    golds = [_spaced(gold) for gold in item.answers]
    said = [one for part in _regions(span) if (one := _spaced(part))]
    if not said:
        return Score(0.0, "", "no_answer")
    value, best = max((max(_similarity(one, gold) for gold in golds), one) for one in said)
    return Score(value, best[:200], "ok")


def contains(span: Span, item: Item) -> Score:
    """A gold stands in the answer, case and line ends aside (OCRBench).

    Only the first 100 characters of the answer count, or four times the gold's length if that is
    more, so that listing everything does not pay. In a formula, blanks are dropped and case counts.
    """
    said = [part for part in _regions(span) if plain(part)]
    if not said:
        return Score(0.0, "", "no_answer")
    for part in said:
        if any(_contains(part, normal(gold)) for gold in item.answers):
            return Score(1.0, part[:200], "ok")
    return Score(0.0, said[0][:200], "ok")


def plain(text: str) -> str:
    """Lower-case, single spaces, no punctuation at the edges."""
    return " ".join(text.lower().split()).strip(_EDGE)


def _regions(span: Span) -> Iterator[str]:
    """Where a reply's words may be its answer: the clause after the last cue, and the whole."""
    if not span.marked and (clause := next(clauses(span.text), None)) is not None:
        yield clause
    yield span.text


def _loose(text: str) -> str:
    text = plain(plain_latex(normal(text)))
    return " ".join(word for word in text.split() if word not in _ARTICLES)


def _spaced(text: str) -> str:
    return " ".join(normal(text).lower().split())


def _vqa_form(text: str) -> str:
    text = normal(text[:500]).lower().replace("\n", " ").replace("'", "").replace("’", "")
    text = re.sub(r"(?<=\d),(?=\d)", "", text)
    for mark in _PUNCTUATION:
        text = text.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = (_NUMBER_WORDS.get(word, word) for word in text.split())
    return " ".join(word for word in words if word not in _ARTICLES)


def _contains(part: str, gold: str) -> bool:
    part = part[: max(_CONTAINS_CAP, 4 * len(gold))]
    if gold.lower().replace("\n", " ") in part.lower().replace("\n", " "):
        return True
    formula = any(mark in gold for mark in "\\=^_+{")
    return formula and "".join(gold.split()) in "".join(part.split())


def _similarity(said: str, gold: str) -> float:
    longest = max(len(said), len(gold))
    if min(len(said), len(gold)) < _ANLS_THRESHOLD * longest:
        return 0.0  # so many edits at least; also keeps a long reply cheap
    value = 1 - _distance(said, gold) / longest
    return value if value >= _ANLS_THRESHOLD else 0.0


def _distance(a: str, b: str) -> int:
    """Levenshtein distance, in len(a) * len(b) steps."""
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (one != other))
    return row[-1]
