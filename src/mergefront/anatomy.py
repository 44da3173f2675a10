"""Every tensor name -> (tower, layer, part), and receiver tensor -> donor tensor: total, or an error.

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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch

from mergefront.checkpoint import Checkpoint, TensorHeader
from mergefront.errors import PairingError
from mergefront.records import PARTS, Group, Part, Tower

_NUMBERED: Final = re.compile(r"(?:^|\.)(\d+)\.")
_EMBEDDING: Final = re.compile(
    r"(?:embed_tokens|tok_embeddings|word_embeddings|wte|embed_in|embedding)(?:\.weight|\.embedding)?$"
)
_HEAD: Final = re.compile(r"(?:^|\.)(?:lm_head|output|output_layer|embed_out)\.(?:weight|bias)$")
_NORM: Final = re.compile(r"norm|(?:^|[._])ln(?:_\w+)?(?:[._]|$)", re.IGNORECASE)
_BUFFER: Final = re.compile(r"(?:inv_freq|masked_bias|rotary_emb\.\w+|attn\.bias)$")
_ATTENTION: Final = re.compile(r"attn|attention", re.IGNORECASE)
_MLP: Final = re.compile(r"mlp|feed_forward|ffn|moe|experts", re.IGNORECASE)
_CONNECTOR: Final = re.compile(
    r"projector|connector|merger|newline|resampler|perceiver|aligner|modality|qformer|view_sep"
    r"|(?:^|[._])(?:mlp1|abstractor|adapter|vision_proj|multi_modal)(?:[._]|$)",
    re.IGNORECASE,
)
_VISION: Final = re.compile(
    r"vision|visual|image|patch|pixel|(?:^|[._])(?:vit|vpm|img|sam|clip|siglip)(?:[._]|$)",
    re.IGNORECASE,
)
_FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})
_NESTED_CONFIGS: Final = ("text_config", "language_config", "llm_config", "language_model_config")


@dataclass(frozen=True)
class Place:
    """Where a tensor sits; `layer` counts language layers from 0 and is None outside the stack."""

    tower: Tower
    layer: int | None
    part: Part


@dataclass(frozen=True)
class Anatomy:
    """Every tensor's place. `language_prefix` ends with a dot, or is empty.

    `hidden` is the width of the language tower; `tied_head` says that the head is the embedding.
    """

    places: Mapping[str, Place]
    n_layers: int
    language_prefix: str
    tied_head: bool
    hidden: int = 0
    stack: str = ""

    def key(self, name: str) -> tuple[int | None, str]:
        """Name a language tensor independently of the prefix: (layer, rest of the name)."""
        place = self.places[name]
        if place.part == "head":
            return None, "head." + name.rsplit(".", 1)[1]
        if place.layer is not None:
            return place.layer, name.removeprefix(f"{self.stack}.{place.layer}.")
        if place.part == "embedding":
            return None, "embedding" if not _HEAD.search(name) else "head.weight"
        return None, name.removeprefix(self.language_prefix)

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
    headers = checkpoint.headers
    text = text_config(checkpoint.config)
    stack, embedding = _language_stack(checkpoint, text)
    owner = stack.rpartition(".")[0]
    prefix = f"{owner}." if owner else ""
    n_layers = _count_layers(checkpoint, stack, text)
    hidden = headers[embedding].shape[1]
    if text.get("hidden_size", hidden) != hidden:
        raise PairingError(
            f"{checkpoint.folder}: config says hidden_size {text['hidden_size']}, "
            f"but {embedding!r} is {list(headers[embedding].shape)}"
        )
    tied, head = _find_head(checkpoint, stack, embedding)
    sees = _sees(headers, stack, prefix)
    places: dict[str, Place] = {}
    for name in headers:
        if name == embedding:
            place = Place("language", None, "embedding")
        elif name in head:
            place = Place("language", None, "embedding" if tied else "head")
        elif name.startswith(f"{stack}."):
            place = _inside_layer(checkpoint, name, stack)
        else:
            place = _outside_layers(checkpoint, name, prefix, sees)
        _check_dtype(headers[name], place)
        places[name] = place
    return Anatomy(MappingProxyType(places), n_layers, prefix, tied, hidden, stack)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the language model's part of a config, or the config itself if it is a text model."""
    for key in _NESTED_CONFIGS:
        nested = config.get(key)
        if isinstance(nested, Mapping):
            return nested
    return config


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

    Embedding and head are left out where their shapes differ (another vocabulary); a tied
    donor's embedding also serves as its head.

    Raises:
        PairingError: depths, widths or a tensor's shape differ; a tensor lacks its counterpart on
            either side.
    """
    where = f"donor {donor_ckpt.folder} and receiver {receiver_ckpt.folder}"
    hint = "a donor must share the receiver's language backbone"
    if donor.n_layers != receiver.n_layers:
        raise PairingError(
            f"{where} differ in depth: {donor.n_layers} layers ({donor.stack}.*) "
            f"against the receiver's {receiver.n_layers} ({receiver.stack}.*)",
            hint=hint,
        )
    theirs = {donor.key(name): name for name in donor.language()}
    if donor.tied_head:
        theirs.setdefault((None, "head.weight"), theirs[None, "embedding"])
    pairs: dict[str, str] = {}
    for name in receiver.language():
        key = receiver.key(name)
        other = theirs.get(key)
        if other is None:
            raise PairingError(
                f"{where}: the donor has no counterpart of {name!r} ({key[1]}"
                f"{'' if key[0] is None else f' of layer {key[0]}'})",
                hint=hint,
            )
        mine, found = receiver_ckpt.headers[name].shape, donor_ckpt.headers[other].shape
        if mine == found:
            pairs[name] = other
        elif receiver.places[name].part not in ("embedding", "head") or mine[1:] != found[1:]:
            width = "" if donor.hidden == receiver.hidden else (
                f" differ in width, {donor.hidden} against {receiver.hidden}"
            )
            raise PairingError(
                f"{where}{width}: {other!r} is {list(found)}, "
                f"the receiver's {name!r} is {list(mine)}",
                hint=hint,
            )
    claimed = {receiver.key(name) for name in receiver.language()} | {(None, "head.weight")}
    for key, other in theirs.items():
        if key not in claimed:
            raise PairingError(
                f"{where}: the receiver has no counterpart of the donor's {other!r}", hint=hint
            )
    return pairs


def _stacks(names: Iterable[str]) -> dict[str, set[int]]:
    """Return every prefix that is followed by a number, with the numbers found."""
    found: dict[str, set[int]] = {}
    for name in names:
        for match in _NUMBERED.finditer(name):
            found.setdefault(name[: match.start()], set()).add(int(match[1]))
    return found


def _language_stack(checkpoint: Checkpoint, text: Mapping[str, Any]) -> tuple[str, str]:
    """Return (numbered stack, word embedding) of the language tower.

    The embedding is a matrix (vocabulary, hidden) that sits right beside the stack.
    """
    headers = checkpoint.headers
    embeddings: dict[str, str] = {}
    for name, header in headers.items():
        match = _EMBEDDING.search(name)
        if match is None or len(header.shape) != 2 or _NUMBERED.search(name):
            continue
        owner = name[: match.start()].removesuffix(".")
        if not _VISION.search(name[match.start() :]):
            embeddings[owner] = name
    found = []
    for stack in _stacks(headers):
        owner, _, _ = stack.rpartition(".")
        if owner in embeddings and stack and not _NUMBERED.search(f"{owner}."):
            found.append((stack, embeddings[owner]))
    vocabulary = text.get("vocab_size")
    if len(found) > 1 and vocabulary is not None:
        found = [one for one in found if headers[one[1]].shape[0] >= vocabulary] or found
    if len(found) == 1:
        return found[0]
    seen = ", ".join(stack for stack, _ in found) or "none"
    raise PairingError(
        f"{checkpoint.folder}: expected one numbered layer stack beside a word embedding "
        f"(as in model.layers.0... and model.embed_tokens.weight), found {seen}",
        hint="the checkpoint must hold a decoder language model",
    )


def _count_layers(checkpoint: Checkpoint, stack: str, text: Mapping[str, Any]) -> int:
    numbers = _stacks(checkpoint.headers)[stack]
    said = text.get("num_hidden_layers", len(numbers))
    if numbers != set(range(len(numbers))) or said != len(numbers):
        missing = sorted(set(range(max(said, *numbers) + 1)) - numbers)
        lacking = f"; {stack}.{missing[0]} has no tensors" if missing and missing[0] < said else ""
        raise PairingError(
            f"{checkpoint.folder}: config says {said} language layers, "
            f"the tensors {stack}.* have {len(numbers)}{lacking}"
        )
    return len(numbers)


def _find_head(checkpoint: Checkpoint, stack: str, embedding: str) -> tuple[bool, frozenset[str]]:
    """Return (tied, names of the head's tensors).

    Without a head tensor the head is tied. With one, it is tied if the config says so and both
    matrices are equal: this is how transformers 5 and vLLM read such a checkpoint.
    """
    headers = checkpoint.headers
    width = headers[embedding].shape[1]
    found = {
        name
        for name, header in headers.items()
        if _HEAD.search(name)
        and not name.startswith(f"{stack}.")
        and (len(header.shape) == 1 or header.shape[1:] == (width,))
        and not _NUMBERED.search(name)
        and not _VISION.search(name)
    }
    heads = {name for name in found if name.endswith("weight")}
    said = [
        config["tie_word_embeddings"]
        for config in (checkpoint.config, text_config(checkpoint.config))
        if "tie_word_embeddings" in config
    ]
    if len(heads) > 1:
        raise PairingError(f"{checkpoint.folder}: several heads: {', '.join(sorted(heads))}")
    if not heads:
        if said and not any(said):
            raise PairingError(
                f"{checkpoint.folder}: no lm_head.weight, though the config says that the head "
                "is not tied to the embedding (tie_word_embeddings false)",
                hint="a shard may be missing",
            )
        return True, frozenset()
    (head,) = heads
    same = any(said) and headers[head].shape == headers[embedding].shape
    tied = same and torch.equal(checkpoint.tensor(head), checkpoint.tensor(embedding))
    return tied, frozenset(found)


def _sees(headers: Mapping[str, TensorHeader], stack: str, prefix: str) -> frozenset[str]:
    """Return the prefixes of numbered stacks outside the language layers (vision towers)."""
    others = {
        other
        for other in _stacks(headers)
        if not f"{other}.".startswith(f"{stack}.") and not _CONNECTOR.search(other)
    }
    return frozenset(others - {prefix})


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
    checkpoint: Checkpoint, name: str, prefix: str, sees: frozenset[str]
) -> Place:
    """Place a tensor outside the language layers, the embedding and the head."""
    own = name.removeprefix(prefix) if name.startswith(prefix) else None
    if own is not None and own.count(".") <= 1 and _NORM.search(own.rpartition(".")[0]):
        return Place("language", None, "norm")
    if _BUFFER.search(name) and own is not None:
        return Place("language", None, "other")
    if _CONNECTOR.search(name):
        return Place("connector", None, "other")
    in_stack = any(name.startswith(f"{other}.") for other in sees)
    if in_stack or _VISION.search(name):
        return Place("vision", None, "other")
    if sees and (own is None or not prefix):
        return Place("connector", None, "other")
    raise PairingError(
        f"{checkpoint.folder}: cannot tell what {name!r} is: not in the language tower's layers "
        f"({prefix or 'top level'}) and of no vision tower"
    )


def _check_dtype(header: TensorHeader, place: Place) -> None:
    mergeable = place.tower == "language" and place.part != "other"
    if mergeable and header.dtype not in _FLOATS:
        raise PairingError(
            f"{header.file}: tensor {header.name!r} has dtype {header.dtype}; "
            f"only {', '.join(sorted(_FLOATS))} can be merged",
            hint="use the unquantised checkpoint",
        )
