"""Every tensor name -> (tower, layer, part), receiver tensor -> donor tensor: total, or an error.

The language tower is found from the tensors' own names and shapes, checked against the config:
it is the numbered stack whose owner also holds the word embedding. Model families, class names
and paths play no role, so both layouts that transformers has used for VLMs are read alike
(`language_model.model.layers.0...` and `model.language_model.layers.0...`).

How a language tensor gets its part:
- `norm`: every normalisation, wherever it sits (`input_layernorm`, `q_norm`, the final norm): a
  vector that scales, unlike the matrices of attention and MLP.
- `attention`, `mlp`: the rest of the layer's attention and feed-forward modules, with biases.
- `embedding`, `head`: the word embedding and the output projection (layer None). A tied head
  has no tensor, or one equal to the embedding, which then shares the embedding's part.
- `other`: buffers that are no weights (rotary frequencies, masks): always the receiver's own.

Outside the language tower a tensor belongs to the connector if its name says so (projector,
merger, newline, ...), else to vision if it lies in a numbered stack or its name says so.
Neither is ever merged from a text donor.

Reading order: `dissect`, `pair`, `groups`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mergefront.checkpoint import Checkpoint, TensorHeader
from mergefront.errors import PairingError
from mergefront.records import PARTS, Group, Part, Tower
from mergefront.tower import (
    CONNECTOR,
    VISION,
    LanguageTower,
    find_language_tower,
    stacks,
    text_config,
)

__all__ = [
    "Anatomy",
    "Place",
    "dissect",
    "group_name",
    "groups",
    "pair",
    "text_config",
]

_NORM: Final = re.compile(r"norm|(?:^|_)ln(?:_|$)", re.IGNORECASE)
_BUFFER: Final = re.compile(r"inv_freq$|masked_bias$|rotary_emb\.")
_ATTENTION: Final = re.compile(r"attn|attention", re.IGNORECASE)
_MLP: Final = re.compile(r"mlp|feed_forward|ffn|moe|experts", re.IGNORECASE)
_FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})
_BACKBONE: Final = "a donor must have the receiver's language backbone, bias for bias"


@dataclass(frozen=True)
class Place:
    """Where a tensor sits; `layer` counts language layers from 0 and is None outside the stack."""

    tower: Tower
    layer: int | None
    part: Part


@dataclass(frozen=True)
class Anatomy:
    """Every tensor's place; `landmarks` are the language tower's stack, embedding and head."""

    places: Mapping[str, Place]
    landmarks: LanguageTower

    @property
    def n_layers(self) -> int:
        """Number of language layers."""
        return self.landmarks.n_layers

    @property
    def language_prefix(self) -> str:
        """What the names of language layers and embedding begin with: ends in a dot, or empty."""
        return self.landmarks.prefix

    @property
    def tied_head(self) -> bool:
        """Whether the head is the embedding."""
        return self.landmarks.tied_head

    def key(self, name: str) -> tuple[int | None, str]:
        """Name a language tensor independently of the prefix: (layer, rest of the name)."""
        place = self.places[name]
        if place.layer is not None:
            return place.layer, name.removeprefix(f"{self.landmarks.stack}.{place.layer}.")
        if name in self.landmarks.head:
            return None, "head." + name.rpartition(".")[2]
        if name == self.landmarks.embedding:
            return None, "embedding"
        return None, name.removeprefix(self.landmarks.prefix)

    def language(self) -> tuple[str, ...]:
        """Names of the language tower's tensors that can be merged (all but `other`)."""
        return tuple(
            name
            for name, place in self.places.items()
            if place.tower == "language" and place.part != "other"
        )


def dissect(checkpoint: Checkpoint) -> Anatomy:
    """Classify every tensor of a checkpoint.

    Raises:
        PairingError: if no language tower is found, it does not have the config's number of
            layers or width, a tensor cannot be classified, or language weights are quantised.
    """
    tower = find_language_tower(checkpoint)
    others = tuple(
        f"{other}."
        for other in stacks(checkpoint.headers)
        if not f"{other}.".startswith(f"{tower.stack}.")
    )
    places: dict[str, Place] = {}
    for name, header in checkpoint.headers.items():
        if name == tower.embedding:
            place = Place("language", None, "embedding")
        elif name in tower.head:
            place = Place("language", None, "embedding" if tower.tied_head else "head")
        elif name.startswith(f"{tower.stack}."):
            place = _inside_layer(checkpoint, name, tower.stack)
        else:
            place = _outside_layers(checkpoint, name, tower.prefix, others)
        _check_dtype(header, place)
        places[name] = place
    return Anatomy(MappingProxyType(places), tower)


def groups(anatomy: Anatomy, checkpoint: Checkpoint) -> tuple[Group, ...]:
    """Return the language groups in order: embedding, 0.attention, 0.mlp, ..., final.norm, head.

    Every mergeable language tensor is in exactly one group; a tied head has none.

    Raises:
        PairingError: if the tensors of one group have several dtypes.
    """
    members: dict[tuple[int | None, Part], list[str]] = {}
    for name in anatomy.language():
        place = anatomy.places[name]
        members.setdefault((place.layer, place.part), []).append(name)
    order: list[tuple[int | None, Part]] = [(None, "embedding")]
    order += [(layer, part) for layer in range(anatomy.n_layers) for part in PARTS]
    order += [(None, "norm"), (None, "head")]
    assert set(members) <= set(order), "a language tensor outside every group"
    found = []
    for layer, part in order:
        names = members.get((layer, part))
        if names is None:
            continue
        dtypes = {checkpoint.headers[name].dtype for name in names}
        if len(dtypes) > 1:
            raise PairingError(
                f"{checkpoint.folder}: {names[0]!r} and its fellows have several dtypes, "
                f"{', '.join(sorted(dtypes))}"
            )
        found.append(Group(group_name(layer, part), layer, part, tuple(names), dtypes.pop()))
    return tuple(found)


def group_name(layer: int | None, part: Part) -> str:
    """Name a group: `3.mlp`, `embedding`, `head`, `final.norm`."""
    if layer is not None:
        return f"{layer}.{part}"
    return "final.norm" if part == "norm" else part


def pair(
    receiver: Anatomy, donor: Anatomy, receiver_ckpt: Checkpoint, donor_ckpt: Checkpoint
) -> dict[str, str]:
    """Map every mergeable language tensor of the receiver to the donor's.

    Embedding and head are left out where only their numbers of rows differ (another vocabulary);
    a tied donor's embedding also serves as its head. A donor's other towers play no role.

    Raises:
        PairingError: depths, widths or a tensor's shape differ; a tensor lacks its counterpart on
            either side.
    """
    _check_sizes(receiver, donor, receiver_ckpt, donor_ckpt)
    where = f"donor {donor_ckpt.folder} does not fit receiver {receiver_ckpt.folder}"
    theirs = {donor.key(name): name for name in donor.language()}
    if donor.tied_head:
        theirs.setdefault((None, "head.weight"), donor.landmarks.embedding)
    pairs: dict[str, str] = {}
    for name in receiver.language():
        other = theirs.pop(receiver.key(name), None)
        if other is None:
            raise PairingError(f"{where}: it has no counterpart of {name!r}", hint=_BACKBONE)
        mine, found = receiver_ckpt.headers[name].shape, donor_ckpt.headers[other].shape
        if mine == found:
            pairs[name] = other
        elif receiver.places[name].part not in ("embedding", "head") or mine[1:] != found[1:]:
            raise PairingError(
                f"{where}: {other!r} is {list(found)}, the receiver's {name!r} is {list(mine)}",
                hint=_BACKBONE,
            )
    theirs.pop((None, "head.weight"), None)  # an untied donor of a tied receiver: see check_heads
    for other in theirs.values():
        raise PairingError(f"{where}: nothing there fits the donor's {other!r}", hint=_BACKBONE)
    return pairs


def _check_sizes(
    receiver: Anatomy, donor: Anatomy, receiver_ckpt: Checkpoint, donor_ckpt: Checkpoint
) -> None:
    """Refuse other depths and widths before any single tensor is looked at."""
    for what, of in (("layers", _depth_of), ("width", _width_of)):
        mine, found = of(receiver), of(donor)
        if mine[0] != found[0]:
            raise PairingError(
                f"donor {donor_ckpt.folder} has {what} {found[0]} ({found[1]}), "
                f"receiver {receiver_ckpt.folder} has {mine[0]} ({mine[1]})",
                hint=_BACKBONE,
            )


def _depth_of(anatomy: Anatomy) -> tuple[int, str]:
    return anatomy.n_layers, f"{anatomy.landmarks.stack}.*"


def _width_of(anatomy: Anatomy) -> tuple[int, str]:
    return anatomy.landmarks.hidden, anatomy.landmarks.embedding


def _inside_layer(checkpoint: Checkpoint, name: str, stack: str) -> Place:
    number, _, rest = name.removeprefix(f"{stack}.").partition(".")
    layer = int(number)
    module = rest.rpartition(".")[0] or rest
    first = rest.partition(".")[0]
    if _BUFFER.search(rest):
        return Place("language", layer, "other")
    if _NORM.search(module.rpartition(".")[2]):
        return Place("language", layer, "norm")
    if _ATTENTION.search(first):
        return Place("language", layer, "attention")
    if _MLP.search(first):
        return Place("language", layer, "mlp")
    raise PairingError(
        f"{checkpoint.folder}: cannot tell what {name!r} is: neither attention, MLP nor norm"
    )


def _outside_layers(
    checkpoint: Checkpoint, name: str, prefix: str, others: Collection[str]
) -> Place:
    """Place a tensor outside the language layers; `others` are prefixes of other stacks."""
    own = name.removeprefix(prefix) if name.startswith(prefix) else ""
    if own.count(".") == 1 and _NORM.search(own.partition(".")[0]):
        return Place("language", None, "norm")
    if own and _BUFFER.search(own):
        return Place("language", None, "other")
    if CONNECTOR.search(name):
        return Place("connector", None, "other")
    if VISION.search(name) or name.startswith(tuple(others)):
        return Place("vision", None, "other")
    if others and (not own or not prefix):
        return Place("connector", None, "other")
    raise PairingError(
        f"{checkpoint.folder}: cannot tell what {name!r} is: outside the layers of the language "
        "tower, neither embedding, head nor norm, and of no vision tower"
    )


def _check_dtype(header: TensorHeader, place: Place) -> None:
    mergeable = place.tower == "language" and place.part != "other"
    if mergeable and header.dtype not in _FLOATS:
        raise PairingError(
            f"{header.file}: tensor {header.name!r} has dtype {header.dtype}; "
            f"only {', '.join(sorted(_FLOATS))} can be merged",
            hint="use the unquantised checkpoint",
        )
