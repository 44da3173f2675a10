"""From what a model said to a score in [0, 1]: pure functions, the same verdict every time.

No answer is wrong: never random, never the nearest option (facts that cost other harnesses up to
forty points on refusing models). `score` marks, `rules` holds one function a
rule, `golds` says what a gold must be.
"""

from __future__ import annotations

from mergefront.records import Answer, Item, Score
from mergefront.scoring.golds import expected, normal_gold
from mergefront.scoring.rules import RULES, final_span

SCORER_VERSION = 1
"""Raised whenever any verdict can change; recorded with every run and checked on resume."""


def score(item: Item, answer: Answer) -> Score:
    """Mark one answer by the item's rule.

    A wrong verdict on an answer that was cut off at its token limit has the status `truncated`;
    an answer in which the rule finds nothing to mark has `no_answer`.
    """
    span = final_span(answer.text)
    verdict = RULES[item.rule.name](span, item)
    if verdict.value == 0.0 and not answer.finished:
        return Score(0.0, verdict.extracted, "truncated")
    return verdict


__all__ = [
    "RULES",
    "SCORER_VERSION",
    "expected",
    "final_span",
    "normal_gold",
    "score",
]
