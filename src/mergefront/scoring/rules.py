"""The scoring rules by name; docs/scoring.md states each rule's order of search.

A rule gets the part of a reply that counts (`spans`) and the item. It either finds an answer of its
type or says `no_answer`; what it finds but cannot read is a `parse_error`. It never guesses.

`number`, `float`, `list` and `math` read the rule's `digits`, `absolute` and `relative`; `relaxed`
reads `absolute` and `relative`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mergefront.records import Item, RuleName, Score
from mergefront.scoring import choices, expressions, numbers, words
from mergefront.scoring.spans import Span

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
