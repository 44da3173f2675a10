"""The models of a merge, opened, dissected and paired: every tensor by the receiver's name.

Not here: which tensors get merged how (`plan`). `ModelRefs` (from `models`) is plain values, made
to cross process boundaries; `Sources` is opened from it on either side.

A source is named "receiver", "base" (the common ancestor), a donor's alias, or "base:<alias>"
(that donor's own base, or the common one if it names none, or an adapter's own model if there is
neither).

An adapter donor's tensor is its model's plus the update, in fp32 where the adapter changes it (see
`adapter`). With `vocabulary: by_token` embedding and head come in the receiver's rows (see
`vocabulary`).

One model of a merge, opened: its checkpoint, its adapter if it has one, and how it pairs.

Not here: the models of a merge together (`sources`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from mergefront.errors import CheckpointError, PairingError, UserError
from mergefront.files import Kind
from mergefront.models.adapter import Adapter
from mergefront.models.anatomy import Anatomy, GroupIndex, dissect, groups
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.pairing import pair
from mergefront.models.refs import DonorRef, ModelRefs
from mergefront.models.vocabulary import Alignment, Vocabulary, align, read_tokens
from mergefront.records import Group

__all__ = [
    "DonorRef",
    "ModelRefs",
    "Opened",
    "Sources",
    "check_heads",
    "is_finite",
    "match_tokens",
]


@dataclass(frozen=True, eq=False)
class Sources:
    """Receiver, base and donors, opened and paired. Tensors are memory-mapped: read only."""

    refs: ModelRefs
    receiver: Checkpoint
    anatomy: Anatomy
    groups: tuple[Group, ...]
    models: Mapping[str, Opened]
    vocabulary: Alignment | None = None
    _finite: set[tuple[str, str]] = field(default_factory=set, repr=False)

    @classmethod
    def open(cls, refs: ModelRefs) -> Sources:
        """Open every model's headers and pair the donors and bases with the receiver.

        Raises:
            CheckpointError: if a folder is incomplete or damaged.
            PairingError: if a tensor cannot be classified or has no counterpart.
        """
        receiver = Checkpoint.open(Path(refs.receiver))
        anatomy = dissect(receiver)
        itself = Opened("receiver", receiver, anatomy, {name: name for name in anatomy.language()})
        known: dict[tuple[str, str | None], Opened] = {}
        models = {"receiver": itself}
        for source, label, folder, adapter in _named(refs):
            if (folder, adapter) not in known:
                known[folder, adapter] = open_model(itself, label, folder, adapter)
            models[source] = known[folder, adapter]
        vocabulary = None
        if refs.vocabulary == "by_token":
            found = {one.label: with_every_row(itself, one) for one in known.values()}
            models = {source: found.get(one.label, one) for source, one in models.items()}
            vocabulary = match_tokens(itself, found.values())
        return cls(refs, receiver, anatomy, groups(anatomy, receiver), models, vocabulary)

    @property
    def donors(self) -> tuple[str, ...]:
        """The donors' aliases, in the order in which they are summed."""
        return tuple(self.refs.donors)

    @cached_property
    def group_index(self) -> GroupIndex:
        """The groups by name, layer and part."""
        return GroupIndex(self.groups)

    def tensor(self, source: str, name: str, *, checked: bool = True) -> Tensor:
        """Return a source's tensor by the RECEIVER's tensor name; read it, never write into it.

        Raises:
            UserError: if there is no such source, for example a base that was not named.
            PairingError: if that source has no counterpart of the tensor.
            CheckpointError: if the tensor is `checked` and holds NaN or infinity.
        """
        model = self.model(source)
        own = name if model.checkpoint is self.receiver else model.pairs.get(name)
        if own is None:
            raise PairingError(
                f"{model.label} {model.checkpoint.folder} has nothing to pair with {name!r}: "
                "its vocabulary differs from the receiver's",
                hint="freeze embedding and head, or use models with one vocabulary",
            )
        tensor = self._finite_tensor(model, own) if checked else model.checkpoint.tensor(own)
        if model.adapter is not None:
            tensor = model.adapter.apply(own, tensor)
        by_token = self.vocabulary is not None and self.anatomy.places[name].part in BY_TOKEN
        if self.vocabulary is not None and by_token and model.checkpoint is not self.receiver:
            tensor = self.vocabulary.aligned(model.label, tensor, self.receiver.tensor(name))
        return tensor

    def rows(self, source: str, name: str, rows: slice) -> Tensor:
        """Return some rows (along the first dimension) of a tensor of attention or MLP.

        For looks at a sample: cheap for an adapter as well, and NaN passes.

        Raises:
            UserError: if there is no such source.
        """
        model = self.model(source)
        own = model.pairs[name]
        sample = model.checkpoint.rows(own, rows)
        return sample if model.adapter is None else model.adapter.apply(own, sample, rows)

    def check_finite(self) -> None:
        """Read every tensor that can be merged, of every model, and refuse NaN and infinity.

        Raises:
            CheckpointError: naming model and tensor.
        """
        for model in self.models.values():
            if model.adapter is not None:
                model.adapter.check_finite()
            for own in model.pairs.values():
                self._finite_tensor(model, own)

    def file_hashes(self, kind: Kind = "xxh3") -> dict[str, dict[str, str]]:
        """Return source -> file -> hash of all that decides answers."""
        return {name: model.file_hashes(kind) for name, model in self.models.items()}

    def model(self, source: str) -> Opened:
        """Return a source's model.

        Raises:
            UserError: if there is no such source, for example a base that was not named.
        """
        model = self.models.get(source)
        if model is not None:
            return model
        if source == "base" or source.removeprefix("base:") in self.refs.donors:
            what = "the models name no base"
            if source != "base":
                what = f"donor {source.removeprefix('base:')!r} has no base, its own or common"
            raise UserError(
                f"{what}, which its delta is taken from",
                hint="name the common ancestor under `base`, or use anchor receiver or linear",
            )
        raise UserError(f"no source {source!r}; there are: {', '.join(self.models)}")

    def _finite_tensor(self, model: Opened, own: str) -> Tensor:
        tensor = model.checkpoint.tensor(own)
        key = model.label, own
        if key not in self._finite:
            if not is_finite(tensor):
                raise CheckpointError(
                    f"{model.label} {model.checkpoint.folder}: tensor {own!r} holds NaN or "
                    f"infinity (in {model.checkpoint.headers[own].file.name})",
                    hint="the checkpoint is damaged or its training diverged",
                )
            self._finite.add(key)
        return tensor


def _named(refs: ModelRefs) -> Iterator[tuple[str, str, str, str | None]]:
    """Yield (source, label for messages, folder, adapter) of every model but the receiver."""
    if refs.base is not None:
        yield "base", "base", refs.base, None
    for alias, donor in refs.donors.items():
        yield alias, f"donor {alias!r}", donor.model, donor.adapter
        base = donor.base or refs.base or (donor.model if donor.adapter else None)
        if base is not None:
            yield f"base:{alias}", f"base of donor {alias!r}", base, None


def is_finite(tensor: Tensor) -> bool:
    """Tell whether a tensor has neither NaN nor infinity, in one pass without copies."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) and torch.isfinite(high))


def check_heads(sources: Sources, touched_parts: Collection[str]) -> None:
    """Refuse to merge embedding or head where the models' vocabularies or tying do not allow it.

    `touched_parts` are the parts that any candidate may change. Nothing is checked if neither
    embedding nor head is among them.

    Raises:
        PairingError: the receiver's head is tied and a donor's or base's is not; or a model's
            vocabulary has another size.
    """
    touched = {"embedding", "head"} & set(touched_parts)
    hint = "freeze embedding and head: `frozen: [embedding, head]`"
    names = [
        name for name in sources.anatomy.language() if sources.anatomy.places[name].part in touched
    ]
    for model in sources.models.values():
        where = f"{model.label} {model.checkpoint.folder}"
        if names and sources.anatomy.tied_head and not model.anatomy.tied_head:
            raise PairingError(
                f"the receiver's head is tied to its embedding, but that of {where} is not: "
                "one matrix cannot take two deltas",
                hint=hint,
            )
        for name in names:
            if name not in model.pairs:
                raise PairingError(
                    f"{name!r} cannot be merged: the receiver's is "
                    f"{list(sources.receiver.headers[name].shape)}, the vocabulary of {where} "
                    "has another size",
                    hint=f"{hint}, or match rows by token: `vocabulary: by_token`",
                )


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
