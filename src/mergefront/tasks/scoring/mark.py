"""The scoring rules by name, and answers marked by them; docs/scoring.md states each rule.

A rule is a function of the part of a reply that counts (`answer_span`) and the item. It looks for
an answer of its own kind. Where there is none, the status is `no_answer`; where there is one that
cannot be read, it is `parse_error`.

`number`, `float`, `list` and `math` read the `digits`, `absolute` and `relative` of an item's rule;
`relaxed` reads `absolute` and `relative`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mergefront.records import Answer, Item, RuleName, Score
from mergefront.tasks.scoring import choices, formulas, numbers, texts
from mergefront.tasks.scoring.answer_span import AnswerSpan, find_answer_span

SCORER_VERSION = 2
"""Raised whenever any score can change; recorded with every run and checked on resume."""

RULES: Mapping[RuleName, Callable[[AnswerSpan, Item], Score]] = {
    "exact": texts.exact,
    "text": texts.text,
    "number": numbers.number,
    "integer": numbers.integer,
    "float": numbers.number,
    "relaxed": texts.relaxed,
    "list": numbers.number_list,
    "math": formulas.math,
    "choice": choices.choice,
    "choices": choices.choices,
    "yes_no": choices.yes_no,
    "vqa": texts.vqa,
    "anls": texts.anls,
    "contains": texts.contains,
}


def score(item: Item, answer: Answer) -> Score:
    """Mark one answer by the item's rule, against golds as `normalised_gold` gives them.

    The status is `truncated` for a wrong answer that was cut off at its token limit, `no_answer`
    where the rule finds nothing to mark, and `parse_error` where what it finds cannot be read or
    takes too long to compare.
    """
    return _mark(find_answer_span(answer.text, finished=answer.finished), item)


def score_all(items: Sequence[Item], answers: Sequence[Answer]) -> list[Score]:
    """Mark N answers, in input order, with the scores of `score`.

    Formulas are compared in parallel worker processes. A pair of formulas that takes more than two
    seconds of processor time has the status `parse_error`, and no other item suffers.

    Raises:
        ValueError: there are not as many answers as items.
    """
    spans = [find_answer_span(answer.text, finished=answer.finished) for answer in answers]
    spans_and_items = list(zip(spans, items, strict=True))
    formulas.compare_in_workers(
        pair
        for span, item in spans_and_items
        if item.rule.name == "math"
        for pair in formulas.pairs_to_compare(span, item)
    )
    return [_mark(span, item) for span, item in spans_and_items]


def _mark(span: AnswerSpan, item: Item) -> Score:
    mark = RULES[item.rule.name](span, item)
    if mark.value == 0.0 and not span.finished:
        return Score(0.0, mark.extracted, "truncated")
    return mark
