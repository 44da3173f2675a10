"""From what a model said to a score in [0, 1]: the same verdict every time.

No answer is wrong: never random, never the nearest option (facts that cost other harnesses up to
forty points on refusing models). `score` marks one answer, `score_all` many, `Beside` while others
are still being written.

Reading order: `marking`, `spans` (the part of a reply that counts), `rules` (the rules by name),
`choices`, `numbers`, `words`, `expressions` (one file a kind of answer), `pool` and `worker`
(where formulas are compared), `golds` (what a gold must be).
"""

from __future__ import annotations

from mergefront.tasks.scoring.golds import expected, normal_gold
from mergefront.tasks.scoring.mark import RULES, SCORER_VERSION, score, score_all
from mergefront.tasks.scoring.spans import final_span
from mergefront.tasks.scoring.while_generating import Beside

__all__ = [
    "RULES",
    "SCORER_VERSION",
    "Beside",
    "expected",
    "final_span",
    "normal_gold",
    "score",
    "score_all",
]
