"""The language tower of a checkpoint: its numbered layer stack, its word embedding and its head.

It is found by the tensors' names and shapes, which must agree with the config. Not here: what each
tensor of the tower is (`anatomy`).

A stack is the language model's if its layers hold attention and its owner holds a word embedding,
directly (`model.layers.0...` and `model.embed_tokens`) or in one of its modules (Phi-3.5-V:
`model.vision_embed_tokens.wte`). Layers of that stack that attend to the image only (the
cross-attention layers of Llama 3.2 Vision) are no text layers: a text model has no counterpart of
them, and text layers are numbered without them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from mergefront.errors import PairingError
from mergefront.models.checkpoint import Checkpoint

CONNECTOR: Final = re.compile(
    r"projector|connector|merger|newline|resampler|perceiver|aligner|modality|qformer|view_sep"
    r"|(?:^|[._])(?:mlp1|abstractor|adapter|multi_modal|(?:vision|img)_proj(?:ection)?)(?:[._]|$)",
    re.IGNORECASE,
)
VISION: Final = re.compile(
    r"vision|visual|image|patch|pixel|(?:^|[._])(?:vit|vpm|img|sam|clip|siglip)(?:[._]|$)",
    re.IGNORECASE,
)
NORM: Final = re.compile(r"norm|(?:^|_)ln(?:_|$)", re.IGNORECASE)
ATTENTION: Final = re.compile(r"attn|attention", re.IGNORECASE)
_CROSS: Final = re.compile(r"cross_?att|encoder_att", re.IGNORECASE)
_NUMBERED: Final = re.compile(r"(?:^|\.)(\d+)\.")
_EMBEDDING: Final = re.compile(
    r"(?:^|\.)(?:embed_tokens|tok_embeddings|word_embeddings|wte|embed_in)\.(?:weight|embedding)$"
)
_HEAD: Final = re.compile(r"(?:^|\.)(?:lm_head|output|output_layer|embed_out)\.(?:weight|bias)$")
_NESTED: Final = ("text_config", "language_config", "llm_config", "language_model_config")
_DEPTHS: Final = ("num_hidden_layers", "n_layer", "num_layers")
_WIDTHS: Final = ("hidden_size", "n_embd", "d_model")


@dataclass(frozen=True)
class LanguageTower:
    """The language tower's landmarks.

    `stack` is the layers' name without the number (`model.layers`), `prefix` that of its owner,
    with its dot (or empty). `layers` are the numbers of the text layers in the stack, in order:
    0, 1, 2, ... unless there are cross-attention layers between them. `copies` are further tensors
    that hold the embedding again. `head` names the head's tensors; a tied head has none, or one
    that equals the embedding.
    """

    stack: str
    prefix: str
    embedding: str
    layers: tuple[int, ...]
    hidden: int
    head: frozenset[str]
    tied_head: bool
    copies: frozenset[str] = frozenset()


def find_language_tower(checkpoint: Checkpoint) -> LanguageTower:
    """Find the numbered stack beside a word embedding.

    Raises:
        PairingError: if there is none or more than one, or its depth or width is not the config's.
    """
    text = text_config(checkpoint.config)
    stack, embedding = _stack_and_embedding(checkpoint, text)
    shape = checkpoint.headers[embedding].shape
    width = _first(text, _WIDTHS)
    if width is not None and width != shape[1]:
        raise PairingError(
            f"{checkpoint.folder}: config says width {width}, but {embedding!r} is {list(shape)}"
        )
    layers = _text_layers(checkpoint, stack, text)
    tied, head = _find_head(checkpoint, embedding)
    owner = stack.rpartition(".")[0]
    prefix = f"{owner}." if owner else ""
    copies = _copies(checkpoint, prefix, embedding)
    return LanguageTower(stack, prefix, embedding, layers, shape[1], head, tied, copies)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the language model's part of a config, or the config itself if it is a text model."""
    for key in _NESTED:
        nested = config.get(key)
        if isinstance(nested, Mapping):
            return nested
    return config


def numbered_stacks(names: Iterable[str]) -> dict[str, set[int]]:
    """Return every prefix that a number follows, with its numbers."""
    numbers: dict[str, set[int]] = {}
    for name in names:
        for match in _NUMBERED.finditer(name):
            numbers.setdefault(name[: match.start()], set()).add(int(match[1]))
    return numbers


def _first(config: Mapping[str, Any], keys: Iterable[str]) -> int | None:
    return next((config[key] for key in keys if isinstance(config.get(key), int)), None)


def _stack_and_embedding(checkpoint: Checkpoint, text: Mapping[str, Any]) -> tuple[str, str]:
    """Return (numbered stack, word embedding); the embedding is (V, hidden)."""
    numbers = numbered_stacks(checkpoint.headers)
    attending = {
        name[: match.start()]
        for name in checkpoint.headers
        for match in _NUMBERED.finditer(name)
        if ATTENTION.search(name, match.end())
    }
    owners = {stack: stack.rpartition(".")[0] for stack in numbers if stack and stack in attending}
    embeddings = _embeddings(checkpoint)
    candidates = [
        (stack, embeddings[owner]) for stack, owner in owners.items() if owner in embeddings
    ] or [
        (stack, name)
        for stack, owner in owners.items()
        for module, name in embeddings.items()
        if owner and module.startswith(f"{owner}.")
    ]
    depth = _first(text, _DEPTHS)
    if len(candidates) > 1 and depth is not None:
        candidates = [pair for pair in candidates if len(numbers[pair[0]]) == depth] or candidates
    if len(candidates) == 1:
        return candidates[0]
    stacks = ", ".join(f"{stack}.*" for stack, _ in candidates) or "none"
    raise PairingError(
        f"{checkpoint.folder}: expected one numbered layer stack beside a word embedding "
        f"(as in model.layers.0.* and model.embed_tokens.weight), found {stacks}",
        hint="the checkpoint must hold one decoder language model",
    )


def _embeddings(checkpoint: Checkpoint) -> dict[str, str]:
    """Return module -> name of every matrix that has the name of a word embedding."""
    return {
        name[: match.start()]: name
        for name, header in checkpoint.headers.items()
        if len(header.shape) == 2
        and not _NUMBERED.search(name)
        and (match := _EMBEDDING.search(name))
    }


def _copies(checkpoint: Checkpoint, prefix: str, embedding: str) -> frozenset[str]:
    """Return the tensors that repeat the language tower's embedding, byte for byte."""
    shape = checkpoint.headers[embedding].shape
    return frozenset(
        name
        for name in _embeddings(checkpoint).values()
        if name != embedding
        and name.startswith(prefix)
        and checkpoint.headers[name].shape == shape
        and torch.equal(checkpoint.tensor(name), checkpoint.tensor(embedding))
    )


def _text_layers(checkpoint: Checkpoint, stack: str, text: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the numbers of the layers that attend to the text, in order.

    The config's depth counts every layer of the stack; `cross_attention_layers` of a config names
    those that are no text layers.
    """
    numbers = numbered_stacks(checkpoint.headers)[stack]
    depth = _first(text, _DEPTHS)
    gap = next((number for number in range(max(numbers)) if number not in numbers), None)
    if gap is not None:
        raise PairingError(f"{checkpoint.folder}: {stack}.{gap} has no tensors, a layer is missing")
    if depth is not None and depth != len(numbers):
        raise PairingError(
            f"{checkpoint.folder}: config says {depth} language layers, "
            f"the tensors {stack}.* have {len(numbers)}"
        )
    crossing = _crossing(checkpoint, stack)
    listed = text.get("cross_attention_layers")
    if isinstance(listed, list) and set(listed) != crossing:
        raise PairingError(
            f"{checkpoint.folder}: config says that layers {sorted(listed)} attend to the image "
            f"(cross_attention_layers), by the tensors {stack}.* it is {sorted(crossing)}"
        )
    return tuple(number for number in sorted(numbers) if number not in crossing)


def _crossing(checkpoint: Checkpoint, stack: str) -> set[int]:
    """Return the numbers of the layers whose only attention is cross-attention."""
    kinds: dict[int, set[bool]] = {}
    for name in checkpoint.headers:
        if not name.startswith(f"{stack}."):
            continue
        number, _, rest = name.removeprefix(f"{stack}.").partition(".")
        module = rest.partition(".")[0]
        if ATTENTION.search(module) and not NORM.search(module):
            kinds.setdefault(int(number), set()).add(_CROSS.search(module) is not None)
    return {number for number, kind in kinds.items() if kind == {True}}


def _find_head(checkpoint: Checkpoint, embedding: str) -> tuple[bool, frozenset[str]]:
    """Return (tied, names of the head's tensors).

    Without a head tensor the head is tied. With one, it is tied if the config says so and both
    matrices are equal, which is how transformers 5 and vLLM read such a checkpoint.
    """
    headers = checkpoint.headers
    width = headers[embedding].shape[1]
    names = frozenset(
        name
        for name, header in headers.items()
        if _HEAD.search(name)
        and (len(header.shape) == 1 or header.shape[1:] == (width,))
        and not any(pattern.search(name) for pattern in (_NUMBERED, VISION, CONNECTOR))
    )
    matrices = sorted(name for name in names if name.endswith("weight"))
    if len(matrices) > 1:
        raise PairingError(f"{checkpoint.folder}: several heads: {', '.join(matrices)}")
    tie_settings = [
        config["tie_word_embeddings"]
        for config in (checkpoint.config, text_config(checkpoint.config))
        if "tie_word_embeddings" in config
    ]
    if not matrices:
        if tie_settings and not any(tie_settings):
            raise PairingError(
                f"{checkpoint.folder}: no lm_head.weight, though the config says that the head "
                "is not tied to the embedding (tie_word_embeddings is false)",
                hint="a weight file may be missing",
            )
        return True, names
    (head,) = matrices
    may_tie = any(tie_settings) and headers[head].shape == headers[embedding].shape
    tied = may_tie and torch.equal(checkpoint.tensor(head), checkpoint.tensor(embedding))
    return tied, names
