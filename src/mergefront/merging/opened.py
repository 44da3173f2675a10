"""One model of a merge, opened: its checkpoint, its adapter if it has one, and how it pairs.

Not here: the models of a merge together (`sources`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mergefront.adapter import Adapter
from mergefront.anatomy import Anatomy, dissect
from mergefront.checkpoint import Checkpoint
from mergefront.errors import UserError
from mergefront.file_hashes import Kind
from mergefront.pairing import pair
from mergefront.vocabulary import Alignment, Vocabulary, align, read_tokens

BY_TOKEN: Final = ("embedding", "head")
"""The parts whose rows belong to tokens."""


@dataclass(frozen=True)
class Opened:
    """One model: `pairs` maps the receiver's tensor names to its own.

    `label` is its name in messages, another for every model. With an adapter, `checkpoint` has the
    whole tensors that the adapter brings, but not its updates.
    """

    label: str
    checkpoint: Checkpoint
    anatomy: Anatomy
    pairs: Mapping[str, str]
    adapter: Adapter | None = None

    def file_hashes(self, kind: Kind = "xxh3") -> dict[str, str]:
        """Return the hash of all its files that decide answers; an adapter's as adapter/*."""
        found = self.checkpoint.file_hashes(kind)
        if self.adapter is not None:
            own = self.adapter.file_hashes(kind)
            found |= {f"adapter/{name}": one for name, one in own.items()}
        return found

    def vocabulary(self) -> Vocabulary | None:
        """Return its tokens, those of the adapter's folder first; None without a tokenizer.

        Raises:
            CheckpointError: a tokenizer is there but cannot be read.
        """
        folders = [self.checkpoint.folder]
        if self.adapter is not None:
            folders.insert(0, self.adapter.folder)
        tokens = read_tokens(*folders)
        if tokens is None:
            return None
        rows = [
            self.checkpoint.headers[name].shape[0]
            for name in self.anatomy.language()
            if self.anatomy.places[name].part in BY_TOKEN
        ]
        return Vocabulary(str(folders[0]), tokens, min(rows))


def open_model(receiver: Opened, label: str, folder: str, adapter: str | None) -> Opened:
    """Open a model, and an adapter on it, and pair it with the receiver.

    Raises:
        CheckpointError: if a folder is incomplete, damaged or not read.
        PairingError: if a tensor cannot be classified or has no counterpart.
    """
    checkpoint = Checkpoint.open(Path(folder))
    anatomy = dissect(checkpoint)
    on_top = None
    if adapter is not None:
        on_top = Adapter.open(Path(adapter), checkpoint, anatomy)
        checkpoint = on_top.model
        anatomy = dissect(checkpoint)
    pairs = pair(receiver.anatomy, anatomy, receiver.checkpoint, checkpoint)
    return Opened(label, checkpoint, anatomy, pairs, on_top)


def with_every_row(receiver: Opened, model: Opened) -> Opened:
    """Pair embedding and head as well where only their numbers of rows differ."""
    theirs = {model.anatomy.key(name): name for name in model.anatomy.language()}
    if model.anatomy.tied_head:
        theirs.setdefault((None, "head.weight"), model.anatomy.landmarks.embedding)
    more = {
        name: theirs[receiver.anatomy.key(name)]
        for name in receiver.pairs
        if name not in model.pairs
    }
    return replace(model, pairs={**model.pairs, **more})


def match_tokens(receiver: Opened, models: Collection[Opened]) -> Alignment:
    """Match the receiver's embedding rows with those of other models, by token string.

    Raises:
        UserError: if a model has no tokenizer.
    """
    found = {}
    for model in (receiver, *models):
        vocabulary = model.vocabulary()
        if vocabulary is None:
            raise UserError(
                f"vocabulary by_token: {model.label} {model.checkpoint.folder} has no tokenizer "
                "(no tokenizer.json, vocab.json or tokenizer.model)",
                hint="put the tokenizer's files there, or use `vocabulary: receiver`",
            )
        found[model.label] = vocabulary
    rows = receiver.checkpoint.headers[receiver.anatomy.landmarks.embedding].shape[0]
    return align(found.pop("receiver"), rows, found)
