"""The scoring rules by name, what their golds look like, and answers marked by them.

A rule is a function of the part of a reply that counts (`answer_span`) and the item. It looks for
an answer of its own kind. Where there is none, the status is `no_answer`; where there is one that
cannot be read, it is `parse_error`. docs/scoring.md states each rule.

`number`, `float`, `list` and `math` read the `digits`, `absolute` and `relative` of an item's rule;
`relaxed` reads `absolute` and `relative`. Golds are checked when items are loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from mergefront.records import Answer, Item, Rule, RuleName, Score
from mergefront.tasks.scoring import choices, formulas, numbers, texts
from mergefront.tasks.scoring.answer_span import AnswerSpan, find_answer_span, normalised_text
from mergefront.tasks.scoring.choices import ALPHABET, letters_of
from mergefront.tasks.scoring.formulas import LONGEST, gold_expression
from mergefront.tasks.scoring.numbers import numbers_in, value_of
from mergefront.tasks.scoring.texts import bare_words

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


def normalised_gold(rule: Rule, gold: str, choices: tuple[str, ...]) -> str | None:
    """Return the gold as its rule compares it, or None if no answer could ever equal it.

    For `choice`, the text of one of the row's options becomes that option's letter.
    """
    return _gold_and_expectation(rule, gold, choices)[0]


def expected_gold(rule: Rule, choices: tuple[str, ...]) -> str:
    """Return what golds of a rule look like, in words for an error message."""
    return _gold_and_expectation(rule, "", choices)[1]


def _gold_and_expectation(
    rule: Rule, gold: str, choices: tuple[str, ...]
) -> tuple[str | None, str]:
    letters = letters_of(choices)
    match rule.name:
        case "exact" | "text" | "relaxed" | "vqa" | "anls" | "contains":
            expectation = "a word or number, not punctuation alone"
            return gold if bare_words(gold) else None, expectation
        case "number" | "float" | "integer":
            text = normalised_text(gold).strip()
            expectation = "one number without a unit, such as 3, -1.5, 1/2 or 1,234"
            return text if value_of(text) is not None else None, expectation
        case "list":
            expectation = "numbers in square brackets, such as [2014, 2016]"
            return gold if numbers_in(gold) else None, expectation
        case "math":
            text = gold_expression(gold)
            expectation = f"a number or LaTeX expression of at most {LONGEST} characters"
            return text if 0 < len(text) <= LONGEST else None, expectation
        case "choice":
            options = f", or the text of one option: {' | '.join(choices)}" if choices else ""
            expectation = f"a letter from {letters[0]} to {letters[-1]}{options}"
            return _gold_letter(gold.strip(), choices), expectation
        case "choices":
            last = letters[-1] if choices else "Z"
            return _gold_letters(gold, choices), f"letters from A to {last}, such as A or B, D"
        case "yes_no":
            text = bare_words(gold)
            return text if text in {"yes", "no"} else None, "yes or no"


def _gold_letter(gold: str, choices: tuple[str, ...]) -> str | None:
    letters = letters_of(choices)
    if len(gold) == 1 and gold in letters:
        return gold
    same = [letter for letter, text in zip(letters, choices, strict=False) if text.strip() == gold]
    if same:
        return same[0]  # options with the same text are one
    bare = gold.strip("(). ").upper()
    return bare if len(bare) == 1 and bare in letters else None


def _gold_letters(gold: str, choices: tuple[str, ...]) -> str | None:
    letters = letters_of(choices) if choices else ALPHABET
    parts = [part for part in re.split(r"[\s,;&()]+|\band\b", gold.strip().upper()) if part]
    known = all(len(part) == 1 and part in letters for part in parts)
    return ", ".join(sorted(set(parts))) if parts and known else None
