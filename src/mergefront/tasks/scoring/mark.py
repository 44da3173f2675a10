"""One answer marked, and many: the spans that count, then the items' rules.
The scoring rules by name; docs/scoring.md states each rule's order of search.

A rule gets the part of a reply that counts (`spans`) and the item. It either finds an answer of its
type or says `no_answer`; what it finds but cannot read is a `parse_error`. It never guesses.

`number`, `float`, `list` and `math` read the rule's `digits`, `absolute` and `relative`; `relaxed`
reads `absolute` and `relative`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mergefront.records import Answer, Item, RuleName, Score
from mergefront.tasks.scoring import choices, expressions, numbers, words
from mergefront.tasks.scoring.expressions import pairs_of, settle
from mergefront.tasks.scoring.spans import Span, final

SCORER_VERSION = 2
"""Raised whenever any verdict can change; recorded with every run and checked on resume."""


def score(item: Item, answer: Answer) -> Score:
    """Mark one answer by the item's rule, against golds as `normal_gold` gives them.

    A wrong verdict on an answer that was cut off at its token limit has the status `truncated`;
    an answer in which the rule finds nothing to mark has `no_answer`; one that it finds but cannot
    read, or that takes too long to compare, has `parse_error`.
    """
    return _mark(final(answer.text, finished=answer.finished), item)


def score_all(items: Sequence[Item], answers: Sequence[Answer]) -> list[Score]:
    """Mark N answers, in input order, with the verdicts of `score`.

    Formulas are compared in parallel worker processes. A pair of formulas that takes more than two
    seconds of processor time has the status `parse_error`, and no other item suffers.

    Raises:
        ValueError: there are not as many answers as items.
    """
    spans = [final(answer.text, finished=answer.finished) for answer in answers]
    both = list(zip(spans, items, strict=True))
    settle(pair for span, item in both if item.rule.name == "math" for pair in pairs_of(span, item))
    return [_mark(span, item) for span, item in both]


def _mark(span: Span, item: Item) -> Score:
    verdict = RULES[item.rule.name](span, item)
    if verdict.value == 0.0 and not span.finished:
        return Score(0.0, verdict.extracted, "truncated")
    return verdict


RULES: Mapping[RuleName, Callable[[Span, Item], Score]] = {
    "exact": words.exact,
    "text": words.text,
    "number": numbers.number,
    "integer": numbers.integer,
    "float": numbers.number,
    "relaxed": words.relaxed,
    "list": numbers.listed,
    "math": expressions.math,
    "choice": choices.choice,
    "choices": choices.choices,
    "yes_no": choices.yes_no,
    "vqa": words.vqa,
    "anls": words.anls,
    "contains": words.contains,
}
