"""From what a model said to a score in [0, 1]: the same reply always gets the same score.

A reply without an answer scores zero. No rule guesses, and none takes the nearest option: such
habits have given models that refuse to answer up to forty points.

Reading order: `mark` (the rules by name, what their golds look like, and answers marked by them),
`answer_span` (the part of a reply that counts), one file a kind of answer (`choices`, `numbers`,
`texts`, `formulas`), `formula_pool` and `formula_worker` (processes that compare formulas),
`background` (marking while the engine still generates).
"""

from __future__ import annotations

from mergefront.tasks.scoring.answer_span import answer_text
from mergefront.tasks.scoring.background import BackgroundScorer
from mergefront.tasks.scoring.mark import (
    RULES,
    SCORER_VERSION,
    expected_gold,
    normalised_gold,
    score,
    score_all,
)

__all__ = [
    "RULES",
    "SCORER_VERSION",
    "BackgroundScorer",
    "answer_text",
    "expected_gold",
    "normalised_gold",
    "score",
    "score_all",
]
