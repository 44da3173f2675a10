"""Rows of embedding and head matched by token string, where models number their tokens differently.

A row of the receiver has a counterpart in another model if the same string is a token there. A row
that lacks one in any of the models (another token, a padding row) is the receiver's own in all of
them, so that every delta is zero there. Strings are compared as the tokenizers store them: a
byte-level and a sentencepiece vocabulary share few.

Not here: whether embedding and head may be merged at all (`merging.sources.check_heads`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mergefront.errors import CheckpointError

EXAMPLES: Final = 8
"""How many unmatched tokens a report names."""


@dataclass(frozen=True)
class Vocabulary:
    """A model's tokens: string -> row. `rows` is how many rows embedding and head both have."""

    folder: str
    tokens: Mapping[str, int]
    rows: int


@dataclass(frozen=True)
class TokenMatch:
    """One model's tokens beside the receiver's; `unmatched` are examples of the receiver's."""

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

    def aligned(self, label: str, own: Tensor, receiver: Tensor) -> Tensor:
        """Return a model's embedding or head (rows first) in the receiver's rows and order.

        The result has the narrowest dtype that holds both exactly; it is `own` itself if no row
        moves.
        """
        count = len(receiver)
        index, common = self.index[label][:count], self.common[:count]
        if len(own) == count and common.all() and torch.equal(index, torch.arange(count)):
            return own
        dtype = torch.promote_types(own.dtype, receiver.dtype)
        out = receiver.to(dtype, copy=True)
        there = common.nonzero()[:, 0]
        out[there] = own[index[there]].to(dtype)
        return out

    def report(self) -> dict[str, Any]:
        """Return plain values for provenance and --json."""
        return {
            "rows": len(self.common),
            "tokens": len(self.receiver.tokens),
            "matched_in_all": int(self.common.sum()),
            "models": {label: asdict(match) for label, match in self.matches.items()},
        }

    def lines(self) -> list[str]:
        """Say for a person what matched: all models first, then each."""
        made = [
            f"vocabulary by token: {int(self.common.sum())} of the receiver's {len(self.common)} "
            "rows are a token of all models; the others stay the receiver's"
        ]
        for label, match in self.matches.items():
            missing = f"; missing, e.g. {' '.join(match.unmatched)}" if match.unmatched else ""
            made.append(
                f"  {label}: {match.matched} of {len(self.receiver.tokens)} tokens, {match.moved} "
                f"of them under another id{missing}"
            )
        return made


def align_rows(
    receiver: Vocabulary, rows: int, others: Mapping[str, Vocabulary]
) -> VocabularyAlignment:
    """Match the receiver's `rows` rows with those of the others (label -> vocabulary)."""
    owner: dict[int, str] = {}
    for token, row in sorted(receiver.tokens.items()):
        if row < receiver.rows:
            owner.setdefault(row, token)
    common = torch.zeros(rows, dtype=torch.bool)
    common[list(owner)] = True
    index: dict[str, Tensor] = {}
    matches: dict[str, TokenMatch] = {}
    for label, other in others.items():
        mine = torch.full((rows,), -1, dtype=torch.int64)
        for row, token in owner.items():
            theirs = other.tokens.get(token, -1)
            if theirs < other.rows:
                mine[row] = theirs
        index[label] = mine
        common &= mine >= 0
        matches[label] = _match(owner, mine.tolist(), other)
    return VocabularyAlignment(receiver, index, common, matches)


def _match(owner: Mapping[int, str], rows: Sequence[int], other: Vocabulary) -> TokenMatch:
    missing = [token for row, token in sorted(owner.items()) if rows[row] < 0]
    return TokenMatch(
        tokens=len(other.tokens),
        rows=other.rows,
        matched=len(owner) - len(missing),
        moved=sum(rows[row] not in (row, -1) for row in owner),
        unmatched=tuple(missing[:EXAMPLES]),
    )


def read_tokens(*folders: Path) -> dict[str, int] | None:
    """Return token -> row of the first folder that has a tokenizer, or None if none has.

    tokenizer.json is read as it is; other formats (vocab.json, tokenizer.model) by transformers.

    Raises:
        CheckpointError: if a tokenizer is there but cannot be read.
    """
    for folder in folders:
        try:
            found = _from_json(folder / "tokenizer.json")
            if found is None and _has_tokenizer(folder):
                found = _by_transformers(folder)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as problem:
            raise CheckpointError(
                f"{folder}: its tokenizer cannot be read: {problem}",
                hint="download tokenizer.json again, or put that of the same model there",
            ) from problem
        if found is not None:
            return found
    return None


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("vocab.json", "tokenizer.model"))


def _from_json(file: Path) -> dict[str, int] | None:
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = content["model"].get("vocab")
    if isinstance(vocabulary, list):  # unigram: [token, score] in order
        vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
    if not isinstance(vocabulary, dict):
        raise ValueError("tokenizer.json has no model.vocab")
    return vocabulary | {token["content"]: token["id"] for token in content.get("added_tokens", [])}


def _by_transformers(folder: Path) -> dict[str, int]:
    from transformers import AutoTokenizer

    return dict(AutoTokenizer.from_pretrained(folder, local_files_only=True).get_vocab())
