"""Rows of embedding and head matched by token string, where models number their tokens differently.

A row of the receiver has a counterpart in another model if the same string is a token there. If a
row lacks a counterpart in any model (its token is missing there, or it is a padding row), it is the
receiver's in all models, so that every delta is zero there. Strings are compared as the tokenizers
store them: a byte-level and a sentencepiece vocabulary share few.

Not here: whether embedding and head may be merged at all (`sources.check_heads`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mergefront.errors import CheckpointError
from mergefront.json_file import LARGEST_INDEX, parse_json

EXAMPLES: Final = 8
"""How many unmatched tokens a report names."""
_OTHER_FORMATS: Final = ("vocab.json", "tokenizer.model")


@dataclass(frozen=True)
class Vocabulary:
    """A model's tokens: string -> row. `rows` counts rows of the smaller of embedding and head."""

    folder: str
    tokens: Mapping[str, int]
    rows: int


@dataclass(frozen=True)
class TokenMatch:
    """How one model's tokens match the receiver's, in numbers; `unmatched` are some that do not."""

    tokens: int
    rows: int
    matched: int
    moved: int
    unmatched: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class VocabularyAlignment:
    """The receiver's rows in every other model.

    `index[label]` is (R,) int64: the row of that model, -1 where it has none; `common` (R,) bool
    tells the rows that all models have; `matches[label]` is the report.
    """

    receiver: Vocabulary
    index: Mapping[str, Tensor]
    common: Tensor
    matches: Mapping[str, TokenMatch]

    def aligned(self, label: str, tensor: Tensor, receiver: Tensor) -> Tensor:
        """Return a model's embedding or head (rows first) in the receiver's rows and order.

        The result has the narrowest dtype that holds both exactly. It is `tensor` itself if no row
        moves.
        """
        count = len(receiver)
        index, common = self.index[label][:count], self.common[:count]
        if len(tensor) == count and common.all() and torch.equal(index, torch.arange(count)):
            return tensor
        dtype = torch.promote_types(tensor.dtype, receiver.dtype)
        aligned = receiver.to(dtype, copy=True)
        matched_rows = common.nonzero()[:, 0]
        aligned[matched_rows] = tensor[index[matched_rows]].to(dtype)
        return aligned

    def report(self) -> dict[str, Any]:
        """Return plain values for provenance and --json."""
        return {
            "rows": len(self.common),
            "tokens": len(self.receiver.tokens),
            "matched_in_all": int(self.common.sum()),
            "models": {label: asdict(match) for label, match in self.matches.items()},
        }

    def lines(self) -> list[str]:
        """Return lines for people on what matched: in all models first, then in each."""
        lines = [
            f"vocabulary by token: {int(self.common.sum())} of the receiver's {len(self.common)} "
            "rows are a token of all models; the others stay the receiver's"
        ]
        for label, match in self.matches.items():
            examples = f"; missing, e.g. {' '.join(match.unmatched)}" if match.unmatched else ""
            lines.append(
                f"  {label}: {match.matched} of {len(self.receiver.tokens)} tokens, {match.moved} "
                f"of them under another id{examples}"
            )
        return lines


def align_rows(
    receiver: Vocabulary, rows: int, models: Mapping[str, Vocabulary]
) -> VocabularyAlignment:
    """Match the receiver's `rows` rows with those of the other models (label -> vocabulary)."""
    row_token: dict[int, str] = {}
    for token, row in sorted(receiver.tokens.items()):
        if row < receiver.rows:  # a tokenizer may know more tokens than the matrix has rows
            row_token.setdefault(row, token)
    common = torch.zeros(rows, dtype=torch.bool)
    common[list(row_token)] = True
    index: dict[str, Tensor] = {}
    matches: dict[str, TokenMatch] = {}
    for label, vocabulary in models.items():
        model_rows = torch.full((rows,), -1, dtype=torch.int64)
        for row, token in row_token.items():
            model_row = vocabulary.tokens.get(token, -1)
            if model_row < vocabulary.rows:
                model_rows[row] = model_row
        index[label] = model_rows
        common &= model_rows >= 0
        row_numbers = model_rows.tolist()
        unmatched = [token for row, token in sorted(row_token.items()) if row_numbers[row] < 0]
        matches[label] = TokenMatch(
            tokens=len(vocabulary.tokens),
            rows=vocabulary.rows,
            matched=len(row_token) - len(unmatched),
            moved=sum(row_numbers[row] not in (row, -1) for row in row_token),
            unmatched=tuple(unmatched[:EXAMPLES]),
        )
    return VocabularyAlignment(receiver, index, common, matches)


def read_tokens(*folders: Path) -> dict[str, int] | None:
    """Return token -> row of the first folder that has a tokenizer, or None if none has.

    tokenizer.json is read as it is; other formats (vocab.json, tokenizer.model) by transformers.

    Raises:
        CheckpointError: if a tokenizer cannot be read.
    """
    for folder in folders:
        try:
            tokens = _from_json(folder / "tokenizer.json")
            if tokens is None and any((folder / name).is_file() for name in _OTHER_FORMATS):
                from transformers import AutoTokenizer

                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                tokens = dict(tokenizer.get_vocab())
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as problem:
            raise CheckpointError(
                f"{folder}: its tokenizer cannot be read: {problem}",
                hint="download tokenizer.json again, or put that of the same model there",
            ) from problem
        if tokens is not None:
            return tokens
    return None


def _from_json(file: Path) -> dict[str, int] | None:
    if not file.is_file():
        return None
    content = parse_json(file.read_bytes(), LARGEST_INDEX, strict=False)
    vocabulary = content["model"].get("vocab")
    if isinstance(vocabulary, list):  # unigram: [token, score] in order
        vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
    if not isinstance(vocabulary, dict):
        raise ValueError("tokenizer.json has no model.vocab")
    return vocabulary | {token["content"]: token["id"] for token in content.get("added_tokens", [])}
