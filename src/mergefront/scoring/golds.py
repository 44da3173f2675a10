"""What a gold must be, so that its rule can ever call an answer right; checked when items load."""

from __future__ import annotations

import unicodedata

from mergefront.records import RuleName
from mergefront.scoring.rules import fraction, letters_of, plain


def normal_gold(rule: RuleName, gold: str, choices: tuple[str, ...]) -> str | None:
    """The gold as its rule compares it, or None if no answer could ever equal it.

    `choice` turns the text of one of the row's options into that option's letter.
    """
    match rule:
        case "exact":
            return gold if plain(gold) else None
        case "number":
            text = unicodedata.normalize("NFKC", gold).replace("\N{MINUS SIGN}", "-").strip()
            return text if fraction(text) is not None else None
        case "choice":
            return _letter(gold.strip(), choices)
        case "yes_no":
            return plain(gold) if plain(gold) in {"yes", "no"} else None


def expected(rule: RuleName, choices: tuple[str, ...]) -> str:
    """What golds of a rule look like, in words for an error message."""
    match rule:
        case "exact":
            return "a word or number, not punctuation alone"
        case "number":
            return "one number without a unit, such as 3, -1.5, 1/2 or 1,234"
        case "choice":
            letters = letters_of(choices)
            options = f", or the text of one option: {' | '.join(choices)}" if choices else ""
            return f"a letter from {letters[0]} to {letters[-1]}{options}"
        case "yes_no":
            return "yes or no"


def _letter(gold: str, choices: tuple[str, ...]) -> str | None:
    letters = letters_of(choices)
    if len(gold) == 1 and gold in letters:
        return gold
    same = [letter for letter, text in zip(letters, choices, strict=False) if text.strip() == gold]
    if len(same) == 1:
        return same[0]
    bare = gold.strip("(). ").upper()
    return bare if len(bare) == 1 and bare in letters else None
