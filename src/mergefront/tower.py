"""Finding the language tower: its numbered layer stack, its word embedding and its head.

From the tensors' names and shapes, checked against the config. Not here: what each tensor of the
tower is (`anatomy`).

Reading order: `find_language_tower`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from mergefront.checkpoint import Checkpoint
from mergefront.errors import PairingError

CONNECTOR: Final = re.compile(
    r"projector|connector|merger|newline|resampler|perceiver|aligner|modality|qformer|view_sep"
    r"|(?:^|[._])(?:mlp1|abstractor|adapter|vision_proj|multi_modal)(?:[._]|$)",
    re.IGNORECASE,
)
VISION: Final = re.compile(
    r"vision|visual|image|patch|pixel|(?:^|[._])(?:vit|vpm|img|sam|clip|siglip)(?:[._]|$)",
    re.IGNORECASE,
)
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

    `stack` is the layers' name without the number (`model.layers`), `prefix` what stack and
    embedding share, with its dot (or empty). `head` names the head's tensors; a tied head has
    none, or one that equals the embedding.
    """

    stack: str
    prefix: str
    embedding: str
    n_layers: int
    hidden: int
    head: frozenset[str]
    tied_head: bool


def find_language_tower(checkpoint: Checkpoint) -> LanguageTower:
    """Find the numbered stack beside a word embedding.

    Raises:
        PairingError: if there is none or more than one, or its depth or width is not the config's.
    """
    text = text_config(checkpoint.config)
    stack, embedding = _stack_and_embedding(checkpoint, text)
    shape = checkpoint.headers[embedding].shape
    said = _first(text, _WIDTHS)
    if said is not None and said != shape[1]:
        raise PairingError(
            f"{checkpoint.folder}: config says width {said}, but {embedding!r} is {list(shape)}"
        )
    n_layers = _count_layers(checkpoint, stack, text)
    tied, head = _find_head(checkpoint, stack, embedding)
    owner = stack.rpartition(".")[0]
    prefix = f"{owner}." if owner else ""
    return LanguageTower(stack, prefix, embedding, n_layers, shape[1], head, tied)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the language model's part of a config, or the config itself if it is a text model."""
    for key in _NESTED:
        nested = config.get(key)
        if isinstance(nested, Mapping):
            return nested
    return config


def stacks(names: Iterable[str]) -> dict[str, set[int]]:
    """Return every prefix that is followed by a number, with the numbers found."""
    found: dict[str, set[int]] = {}
    for name in names:
        for match in _NUMBERED.finditer(name):
            found.setdefault(name[: match.start()], set()).add(int(match[1]))
    return found


def is_head(name: str) -> bool:
    """Tell whether a tensor's name is that of an output projection."""
    return _HEAD.search(name) is not None


def _first(config: Mapping[str, Any], keys: Iterable[str]) -> int | None:
    return next((config[key] for key in keys if isinstance(config.get(key), int)), None)


def _stack_and_embedding(checkpoint: Checkpoint, text: Mapping[str, Any]) -> tuple[str, str]:
    """Return (numbered stack, word embedding); the embedding (V, hidden) sits beside the stack."""
    headers = checkpoint.headers
    embeddings = {
        name[: match.start()]: name
        for name, header in headers.items()
        if len(header.shape) == 2 and (match := _EMBEDDING.search(name))
    }
    found = [
        (stack, embeddings[stack.rpartition(".")[0]])
        for stack in stacks(headers)
        if stack and stack.rpartition(".")[0] in embeddings
    ]
    depth = _first(text, _DEPTHS)
    if len(found) > 1 and depth is not None:
        counts = stacks(headers)
        found = [one for one in found if len(counts[one[0]]) == depth] or found
    if len(found) == 1:
        return found[0]
    seen = ", ".join(f"{stack}.*" for stack, _ in found) or "none"
    raise PairingError(
        f"{checkpoint.folder}: expected one numbered layer stack beside a word embedding "
        f"(as in model.layers.0.* and model.embed_tokens.weight), found {seen}",
        hint="the checkpoint must hold one decoder language model",
    )


def _count_layers(checkpoint: Checkpoint, stack: str, text: Mapping[str, Any]) -> int:
    numbers = stacks(checkpoint.headers)[stack]
    found = len(numbers)
    said = _first(text, _DEPTHS)
    gap = next((number for number in range(max(numbers)) if number not in numbers), None)
    if gap is not None:
        raise PairingError(f"{checkpoint.folder}: {stack}.{gap} has no tensors, a layer is missing")
    if said is not None and said != found:
        raise PairingError(
            f"{checkpoint.folder}: config says {said} language layers, "
            f"the tensors {stack}.* have {found}"
        )
    return found


def _find_head(checkpoint: Checkpoint, stack: str, embedding: str) -> tuple[bool, frozenset[str]]:
    """Return (tied, names of the head's tensors).

    Without a head tensor the head is tied. With one, it is tied if the config says so and both
    matrices are equal: this is how transformers 5 and vLLM read such a checkpoint.
    """
    headers = checkpoint.headers
    width = headers[embedding].shape[1]
    found = frozenset(
        name
        for name, header in headers.items()
        if is_head(name)
        and (len(header.shape) == 1 or header.shape[1:] == (width,))
        and not any(pattern.search(name) for pattern in (_NUMBERED, VISION, CONNECTOR))
    )
    matrices = sorted(name for name in found if name.endswith("weight"))
    if len(matrices) > 1:
        raise PairingError(f"{checkpoint.folder}: several heads: {', '.join(matrices)}")
    said = [
        config["tie_word_embeddings"]
        for config in (checkpoint.config, text_config(checkpoint.config))
        if "tie_word_embeddings" in config
    ]
    if not matrices:
        if said and not any(said):
            raise PairingError(
                f"{checkpoint.folder}: no lm_head.weight, though the config says that the head "
                "is not tied to the embedding (tie_word_embeddings is false)",
                hint="a weight file may be missing",
            )
        return True, found
    (head,) = matrices
    may_tie = any(said) and headers[head].shape == headers[embedding].shape
    tied = may_tie and torch.equal(checkpoint.tensor(head), checkpoint.tensor(embedding))
    return tied, found
