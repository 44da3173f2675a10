"""The tower, layer and part of every tensor of a checkpoint; a tensor without one is an error.

The language tower is found from the tensors' names and shapes, checked against the config:
it is the numbered stack whose owner also holds the word embedding. Model families, class names
and paths play no role, so both layouts that transformers has used for VLMs are read alike
(`language_model.model.layers.0...` and `model.language_model.layers.0...`).

How a language tensor gets its part:
- `norm`: every normalisation, wherever it stands (`input_layernorm`, `q_norm`, the final norm): a
  vector that scales, unlike the matrices of attention and MLP.
- `attention`, `mlp`: the rest of the layer's attention and feed-forward modules, with biases.
- `embedding`, `head`: the word embedding and the output projection (layer None). A tied head
  has no tensor, or one equal to the embedding, which then shares the embedding's part.
- `other`: buffers that are no weights (rotary frequencies, masks, the load-balancing bias of a
  router): never merged, always the receiver's.

Layers are numbered as text layers, 0 to n - 1. Where cross-attention layers stand between them
(Llama 3.2 Vision), layer 3 of the receiver is layer 3 of the donor though its name says 4; the
cross-attention layers themselves have no counterpart and belong to the connector.

Outside the language tower a tensor belongs to the connector if its name says so (projector,
merger, newline, ...), else to vision if it lies in a numbered stack or its name says so.
Neither is ever merged from a text donor.

Not here: which tensor of a donor fits which of the receiver (`pairing`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mergefront.errors import PairingError
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.safetensors import FLOATS, TensorHeader
from mergefront.models.tower import (
    ATTENTION,
    CONNECTOR,
    NORM,
    VISION,
    LanguageTower,
    find_language_tower,
    numbered_stacks,
)
from mergefront.records import PARTS, Group, Part, Tower

_BUFFER: Final = re.compile(r"inv_freq$|masked_bias$|rotary_emb\.|e_score_correction_bias$")
_MLP: Final = re.compile(r"mlp|feed_forward|ffn|moe|experts", re.IGNORECASE)


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor belongs; `layer` counts text layers from 0 and is None outside the stack."""

    tower: Tower
    layer: int | None
    part: Part


@dataclass(frozen=True)
class Anatomy:
    """Every tensor's place; `landmarks` are the language tower's stack, embedding and head."""

    places: Mapping[str, TensorPlace]
    language_tower: LanguageTower

    @property
    def n_layers(self) -> int:
        """Number of language layers."""
        return len(self.language_tower.layers)

    @property
    def tied_head(self) -> bool:
        """Whether the head is the embedding."""
        return self.language_tower.tied_head

    def prefix_free_key(self, name: str) -> tuple[int | None, str]:
        """Name a language tensor independently of the prefix: (layer, rest of the name)."""
        place = self.places[name]
        if place.layer is not None:
            number = self.language_tower.layers[place.layer]
            return place.layer, name.removeprefix(f"{self.language_tower.stack}.{number}.")
        if name in self.language_tower.head:
            return None, "head." + name.rpartition(".")[2]
        if name == self.language_tower.embedding or name in self.language_tower.copies:
            return None, "embedding"
        return None, name.removeprefix(self.language_tower.prefix)

    def mergeable_tensors(self, parts: Collection[Part] = PARTS) -> tuple[str, ...]:
        """Names of the language tower's tensors that can be merged (all but `other`), by part."""
        return tuple(
            name
            for name, place in self.places.items()
            if place.tower == "language" and place.part != "other" and place.part in parts
        )

    def names_by_key(self) -> dict[tuple[int | None, str], str]:
        """Name of each mergeable tensor by its `prefix_free_key`; a tied head is the embedding."""
        names = {self.prefix_free_key(name): name for name in self.mergeable_tensors()}
        if self.tied_head:
            names.setdefault((None, "head.weight"), self.language_tower.embedding)
        return names


def dissect(checkpoint: Checkpoint) -> Anatomy:
    """Classify every tensor of a checkpoint.

    Raises:
        PairingError: if no language tower is found, it does not have the config's number of
            layers or width, a tensor cannot be classified, or language weights are quantised.
    """
    tower = find_language_tower(checkpoint)
    other_stacks = tuple(
        f"{stack}."
        for stack in numbered_stacks(checkpoint.headers)
        if not f"{stack}.".startswith(f"{tower.stack}.")
    )
    places: dict[str, TensorPlace] = {}
    for name, header in checkpoint.headers.items():
        if name == tower.embedding or name in tower.copies:
            place = TensorPlace("language", None, "embedding")
        elif name in tower.head:
            place = TensorPlace("language", None, "embedding" if tower.tied_head else "head")
        elif name.startswith(f"{tower.stack}."):
            place = _inside_layer(checkpoint, name, tower)
        else:
            place = _outside_layers(checkpoint, name, tower.prefix, other_stacks)
        _check_dtype(header, place)
        places[name] = place
    return Anatomy(MappingProxyType(places), tower)


def language_groups(anatomy: Anatomy, checkpoint: Checkpoint) -> tuple[Group, ...]:
    """Return the language groups in order: embedding, 0.attention, 0.mlp, ..., final.norm, head.

    Every mergeable language tensor is in exactly one group; a tied head has none.

    Raises:
        PairingError: if the tensors of one group have several dtypes.
    """
    members: dict[tuple[int | None, Part], list[str]] = {}
    for name in anatomy.mergeable_tensors():
        place = anatomy.places[name]
        members.setdefault((place.layer, place.part), []).append(name)
    order: list[tuple[int | None, Part]] = [(None, "embedding")]
    order += [(layer, part) for layer in range(anatomy.n_layers) for part in PARTS]
    order += [(None, "norm"), (None, "head")]
    assert set(members) <= set(order), "a language tensor outside every group"
    groups = []
    for layer, part in order:
        names = members.get((layer, part))
        if names is None:
            continue
        dtypes = {checkpoint.headers[name].dtype for name in names}
        if len(dtypes) > 1:
            examples = {checkpoint.headers[name].dtype: name for name in reversed(names)}
            raise PairingError(
                f"{checkpoint.folder}: group {group_name(layer, part)} has several dtypes, "
                f"{' and '.join(f'{dtype} ({name})' for dtype, name in sorted(examples.items()))}",
                hint="save the receiver in one dtype: load it with transformers, save_pretrained",
            )
        groups.append(Group(group_name(layer, part), layer, part, tuple(names), dtypes.pop()))
    return tuple(groups)


class GroupIndex:
    """The names of a receiver's groups by layer and by part, in the order of the groups."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = tuple(groups)
        self.names = frozenset(group.name for group in groups)
        self.by_layer: dict[str, list[str]] = {}
        self.by_part: dict[str, list[str]] = {}
        for group in groups:
            if group.layer is not None:
                self.by_layer.setdefault(str(group.layer), []).append(group.name)
            self.by_part.setdefault(group.part, []).append(group.name)


def group_name(layer: int | None, part: Part) -> str:
    """Name a group: `3.mlp`, `embedding`, `head`, `final.norm`."""
    if layer is not None:
        return f"{layer}.{part}"
    return "final.norm" if part == "norm" else part


def _inside_layer(checkpoint: Checkpoint, name: str, tower: LanguageTower) -> TensorPlace:
    number, _, rest = name.removeprefix(f"{tower.stack}.").partition(".")
    if int(number) not in tower.layers:
        return TensorPlace("connector", None, "other")
    layer = tower.layers.index(int(number))
    module = rest.rpartition(".")[0] or rest
    first = rest.partition(".")[0]
    if _BUFFER.search(rest):
        return TensorPlace("language", layer, "other")
    if NORM.search(module.rpartition(".")[2]):
        return TensorPlace("language", layer, "norm")
    if ATTENTION.search(first):
        return TensorPlace("language", layer, "attention")
    if _MLP.search(first):
        return TensorPlace("language", layer, "mlp")
    raise PairingError(
        f"{checkpoint.folder}: cannot tell what {name!r} is: neither attention, MLP nor norm"
    )


def _outside_layers(
    checkpoint: Checkpoint, name: str, prefix: str, other_stacks: Collection[str]
) -> TensorPlace:
    """Return the place of a tensor outside the language layers; `other_stacks` are prefixes."""
    tower_name = name.removeprefix(prefix) if name.startswith(prefix) else ""
    if tower_name.count(".") == 1 and NORM.search(tower_name.partition(".")[0]):
        return TensorPlace("language", None, "norm")
    if tower_name and _BUFFER.search(tower_name):
        return TensorPlace("language", None, "other")
    if CONNECTOR.search(name):
        return TensorPlace("connector", None, "other")
    if VISION.search(name) or name.startswith(tuple(other_stacks)):
        return TensorPlace("vision", None, "other")
    if other_stacks and (not tower_name or not prefix):
        return TensorPlace("connector", None, "other")
    raise PairingError(
        f"{checkpoint.folder}: cannot tell what {name!r} is: outside the layers of the language "
        "tower, neither embedding, head nor norm, and of no vision tower"
    )


def _check_dtype(header: TensorHeader, place: TensorPlace) -> None:
    mergeable = place.tower == "language" and place.part != "other"
    if mergeable and header.dtype not in FLOATS:
        raise PairingError(
            f"{header.file}: tensor {header.name!r} has dtype {header.dtype}; "
            f"only {', '.join(sorted(FLOATS))} can be merged",
            hint="use the unquantised checkpoint",
        )
