"""Scoring labels by their log-probabilities instead of asking for an answer in words.

For an item with labels (the letters of a choice, yes and no) an engine looks at one position, the
first token of an answer, and reads off how likely each label is there. That is exact only where a
label is one token, so others are refused. Smoother than a generated answer (every item says how
sure the model is), cheaper (nothing is generated), and blind to models that reason in words first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mergefront.errors import EngineError
from mergefront.records import Answer, Item

Tokens = tuple[tuple[int, ...], ...]
"""For each label of an item, the tokens that say it."""


class LabelTokens:
    """Finds the tokens of labels, once for each set of labels and ending of a prompt.

    A label may be said in several ways: as it is or capitalised, with a space before it or none.
    Every spelling counts that adds exactly one known token to the prompt.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._found: dict[tuple[tuple[str, ...], str], Tokens] = {}

    def of(self, item: Item, prompt: str) -> Tokens:
        """The tokens of each label behind a chat prompt.

        Raises:
            EngineError: a label is never one token, or two labels share one; names both.
        """
        end = prompt[prompt.rfind(item.question) + len(item.question) :] or prompt
        key = (item.labels, end)
        if key not in self._found:
            tokens = tuple(self._tokens(item, label, end) for label in item.labels)
            _check_apart(item, tokens)
            self._found[key] = tokens
        return self._found[key]

    def _tokens(self, item: Item, label: str, end: str) -> tuple[int, ...]:
        before = self._encode(end)
        ways = {space + text for text in (label, label.capitalize()) for space in ("", " ")}
        after = [self._encode(end + way) for way in sorted(ways)]
        single = {ids[-1] for ids in after if ids[:-1] == before}
        single.discard(self._tokenizer.unk_token_id)
        if not single:
            n = min(len(ids) for ids in after) - len(before)
            raise EngineError(
                f"item {item.id}: its label {label!r} is no single token of this model (it takes "
                f"{n}, or is unknown)",
                hint="log-probabilities of labels are exact for single tokens only: let the model "
                "answer in words (mode: generate)",
            )
        return tuple(sorted(single))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


def _check_apart(item: Item, tokens: Tokens) -> None:
    owners: dict[int, str] = {}
    for label, ids in zip(item.labels, tokens, strict=True):
        for token in ids:
            owner = owners.setdefault(token, label)
            if owner != label:
                raise EngineError(
                    f"item {item.id}: its labels {owner!r} and {label!r} are one token of this "
                    "model",
                    hint="give labels that differ in more than their case",
                )


def label_answer(item: Item, tokens: Tokens, logprobs: Mapping[int, float]) -> Answer:
    """The likeliest label as the answer; none where two are equally likely, for none leads.

    Args:
        tokens: of each label; the probabilities of a label's spellings are added.
        logprobs: token -> natural logarithm of its probability among all tokens.
    """
    scores = tuple(_log_sum([logprobs[token] for token in ids]) for ids in tokens)
    best = max(scores)
    leads = scores.count(best) == 1
    return Answer(item.labels[scores.index(best)] if leads else "", 1, True, scores)


def _log_sum(values: list[float]) -> float:
    top = max(values)
    if not math.isfinite(top):
        return top
    return top + math.log(sum(math.exp(value - top) for value in values))
