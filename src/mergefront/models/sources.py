"""The models of a merge, opened and paired: every tensor by the receiver's name.

A source is named "receiver", "base" (the common ancestor), a donor's alias, or "base:<alias>": that
donor's own base, or else the common one, or else, for an adapter, the model that it was trained on.

An adapter donor's tensor is its model's plus the update, in fp32 where the adapter changes it (see
`adapter`). With `vocabulary: by_token` embedding and head come in the receiver's rows (see
`vocabulary`).

Not here: which tensors are merged, and how (`merging.plan`). `Sources` may be opened from the same
`ModelFolders` in several processes.
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
from mergefront.models.adapter import Adapter
from mergefront.models.anatomy import Anatomy, GroupIndex, dissect, language_groups
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.locate import ModelFolders
from mergefront.models.pairing import pair_tensors
from mergefront.models.vocabulary import Vocabulary, VocabularyAlignment, align_rows, read_tokens
from mergefront.records import Group, Part

TOKEN_PARTS: Final[tuple[Part, ...]] = ("embedding", "head")
"""The parts whose rows belong to tokens."""


@dataclass(frozen=True)
class SourceModel:
    """One opened model: `pairs` maps the receiver's tensor names to the model's.

    `label` is its name in messages; no two models have the same. With an adapter, `checkpoint` has
    the adapter's whole tensors, but not its updates.
    """

    label: str
    checkpoint: Checkpoint
    anatomy: Anatomy
    pairs: Mapping[str, str]
    adapter: Adapter | None = None

    def file_hashes(self) -> dict[str, str]:
        """Return the hash of each file that answers depend on; those of an adapter as adapter/*."""
        hashes = self.checkpoint.file_hashes()
        if self.adapter is not None:
            adapter_hashes = self.adapter.file_hashes()
            hashes |= {f"adapter/{name}": digest for name, digest in adapter_hashes.items()}
        return hashes

    def vocabulary(self) -> Vocabulary | None:
        """Return the model's tokens, by preference the adapter's; None without a tokenizer.

        Raises:
            CheckpointError: a tokenizer cannot be read.
        """
        folders = [self.checkpoint.folder]
        if self.adapter is not None:
            folders.insert(0, self.adapter.folder)
        tokens = read_tokens(*folders)
        if tokens is None:
            return None
        rows = [
            self.checkpoint.headers[name].shape[0]
            for name in self.anatomy.mergeable_tensors(TOKEN_PARTS)
        ]
        return Vocabulary(str(folders[0]), tokens, min(rows))


def open_model(receiver: SourceModel, label: str, folder: str, adapter: str | None) -> SourceModel:
    """Open a model, and an adapter on it, and pair it with the receiver.

    Raises:
        CheckpointError: if a folder is incomplete, damaged or not read.
        PairingError: if a tensor cannot be classified or has no counterpart.
    """
    checkpoint = Checkpoint.open(Path(folder))
    anatomy = dissect(checkpoint)
    opened_adapter = None
    if adapter is not None:
        opened_adapter = Adapter.open(Path(adapter), checkpoint, anatomy)
        checkpoint = opened_adapter.model
        anatomy = dissect(checkpoint)
    pairs = pair_tensors(receiver.anatomy, anatomy, receiver.checkpoint, checkpoint)
    return SourceModel(label, checkpoint, anatomy, pairs, opened_adapter)


def pair_token_rows(receiver: SourceModel, model: SourceModel) -> SourceModel:
    """Return the model with embedding and head paired also if only their numbers of rows differ."""
    name_by_key = model.anatomy.names_by_key()
    token_pairs = {
        name: name_by_key[receiver.anatomy.prefix_free_key(name)]
        for name in receiver.pairs
        if name not in model.pairs
    }
    return replace(model, pairs={**model.pairs, **token_pairs})


def align_vocabularies(
    receiver: SourceModel, models: Collection[SourceModel]
) -> VocabularyAlignment:
    """Match the receiver's embedding rows with those of other models, by token string.

    Raises:
        UserError: if a model has no tokenizer.
    """
    vocabularies = {}
    for model in (receiver, *models):
        vocabulary = model.vocabulary()
        if vocabulary is None:
            raise UserError(
                f"vocabulary by_token: {model.label} {model.checkpoint.folder} has no tokenizer "
                "(no tokenizer.json, vocab.json or tokenizer.model)",
                hint="put the tokenizer's files there, or use `vocabulary: receiver`",
            )
        vocabularies[model.label] = vocabulary
    rows = receiver.checkpoint.headers[receiver.anatomy.language_tower.embedding].shape[0]
    return align_rows(vocabularies.pop("receiver"), rows, vocabularies)


@dataclass(frozen=True, eq=False)
class Sources:
    """Receiver, base and donors, opened and paired. Tensors are memory-mapped: read only."""

    folders: ModelFolders
    receiver: Checkpoint
    anatomy: Anatomy
    groups: tuple[Group, ...]
    models: Mapping[str, SourceModel]
    vocabulary: VocabularyAlignment | None = None
    _finite: set[tuple[str, str]] = field(default_factory=set, repr=False)

    @classmethod
    def open(cls, folders: ModelFolders) -> Sources:
        """Open every model's headers and pair the donors and bases with the receiver.

        Raises:
            CheckpointError: if a folder is incomplete or damaged.
            PairingError: if a tensor cannot be classified or has no counterpart.
        """
        receiver = Checkpoint.open(Path(folders.receiver))
        anatomy = dissect(receiver)
        own_pairs = {name: name for name in anatomy.mergeable_tensors()}
        receiver_model = SourceModel("receiver", receiver, anatomy, own_pairs)
        opened: dict[tuple[str, str | None], SourceModel] = {}
        models = {"receiver": receiver_model}
        for source, label, folder, adapter in _list_sources(folders):
            if (folder, adapter) not in opened:  # one model may be several sources
                opened[folder, adapter] = open_model(receiver_model, label, folder, adapter)
            models[source] = opened[folder, adapter]
        vocabulary = None
        if folders.vocabulary == "by_token":
            paired = {
                model.label: pair_token_rows(receiver_model, model) for model in opened.values()
            }
            models = {source: paired.get(model.label, model) for source, model in models.items()}
            vocabulary = align_vocabularies(receiver_model, paired.values())
        return cls(
            folders, receiver, anatomy, language_groups(anatomy, receiver), models, vocabulary
        )

    @property
    def donors(self) -> tuple[str, ...]:
        """The donors' aliases, in the order in which they are summed."""
        return tuple(self.folders.donors)

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
        model_name = name if model.checkpoint is self.receiver else model.pairs.get(name)
        if model_name is None:
            raise PairingError(
                f"{model.label} {model.checkpoint.folder} has nothing to pair with {name!r}: "
                "its vocabulary differs from the receiver's",
                hint="freeze embedding and head, or use models with one vocabulary",
            )
        if checked:
            tensor = self._finite_tensor(model, model_name)
        else:
            tensor = model.checkpoint.tensor(model_name)
        if model.adapter is not None:
            tensor = model.adapter.apply(model_name, tensor)
        by_token = self.vocabulary is not None and self.anatomy.places[name].part in TOKEN_PARTS
        if self.vocabulary is not None and by_token and model.checkpoint is not self.receiver:
            tensor = self.vocabulary.aligned(model.label, tensor, self.receiver.tensor(name))
        return tensor

    def rows(self, source: str, name: str, rows: slice) -> Tensor:
        """Return some rows (along the first dimension) of a tensor of attention or MLP.

        For samples: cheap for an adapter as well, and without a check for NaN.

        Raises:
            UserError: if there is no such source.
        """
        model = self.model(source)
        model_name = model.pairs[name]
        sample = model.checkpoint.rows(model_name, rows)
        return sample if model.adapter is None else model.adapter.apply(model_name, sample, rows)

    def check_finite(self) -> None:
        """Read every tensor that can be merged, of every model, and refuse NaN and infinity.

        Raises:
            CheckpointError: naming model and tensor.
        """
        for model in self.models.values():
            if model.adapter is not None:
                model.adapter.check_finite()
            for model_name in model.pairs.values():
                self._finite_tensor(model, model_name)

    def file_hashes(self) -> dict[str, dict[str, str]]:
        """Return source -> file -> hash, for all files that answers depend on."""
        return {name: model.file_hashes() for name, model in self.models.items()}

    def model(self, source: str) -> SourceModel:
        """Return a source's model.

        Raises:
            UserError: if there is no such source, for example a base that was not named.
        """
        model = self.models.get(source)
        if model is not None:
            return model
        if source == "base" or source.removeprefix("base:") in self.folders.donors:
            problem = "the models name no base"
            if source != "base":
                problem = f"donor {source.removeprefix('base:')!r} has no base, its own or common"
            raise UserError(
                f"{problem}, so that there is nothing to take a delta from",
                hint="name the common ancestor under `base`, or use anchor receiver or linear",
            )
        raise UserError(f"no source {source!r}; there are: {', '.join(self.models)}")

    def _finite_tensor(self, model: SourceModel, model_name: str) -> Tensor:
        tensor = model.checkpoint.tensor(model_name)
        key = model.label, model_name
        if key not in self._finite:
            if not is_finite(tensor):
                raise CheckpointError(
                    f"{model.label} {model.checkpoint.folder}: tensor {model_name!r} holds NaN or "
                    f"infinity (in {model.checkpoint.headers[model_name].file.name})",
                    hint="the checkpoint is damaged or its training diverged",
                )
            self._finite.add(key)
        return tensor


def _list_sources(folders: ModelFolders) -> Iterator[tuple[str, str, str, str | None]]:
    """Yield (source, label for messages, folder, adapter) of every model but the receiver."""
    if folders.base is not None:
        yield "base", "base", folders.base, None
    for alias, donor in folders.donors.items():
        yield alias, f"donor {alias!r}", donor.model, donor.adapter
        base = donor.base or folders.base or (donor.model if donor.adapter else None)
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
    hint = "freeze embedding and head: `frozen: [embedding, head]`"
    touched = [part for part in TOKEN_PARTS if part in touched_parts]
    names = sources.anatomy.mergeable_tensors(touched)
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
