"""Tiny random checkpoints made by transformers' own classes: seconds, a few hundred kB each.

Every model has head_dim 32 (the smallest that vLLM runs on a CPU), one word-level tokenizer and,
by default, 3 layers of width 64. Norm weights are random too, so that merging them shows. The
vision tower of `tiny_idefics3` has the language layers' depth and width on purpose: neither may
be what tells them apart.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from mergefront.models.anatomy import dissect
from mergefront.models.checkpoint import Checkpoint

SPECIALS = (
    "<pad>",
    "<s>",
    "<end_of_utterance>",
    "<unk>",
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    "User:",
    "Assistant:",
)
TEMPLATE = (
    "{% for m in messages %}{{ m['role'].capitalize() }}: "
    "{% if m['content'] is string %}{{ m['content'] }} {% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endif %}"
    "<end_of_utterance> {% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
IMAGE_SIDE = 32
HEAD_DIM = 32


def words(vocab: int = 64) -> tuple[str, ...]:
    """The vocabulary: special tokens, then w0, w1, ..."""
    return SPECIALS + tuple(f"w{number}" for number in range(vocab - len(SPECIALS)))


def tiny_tokenizer(vocab: int = 64) -> PreTrainedTokenizerFast:
    """Split at spaces; every word of `words(vocab)` is a token."""
    ids = {word: index for index, word in enumerate(words(vocab))}
    inner = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="<end_of_utterance>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=["<image>", "<fake_token_around_image>", "<global-img>"],
        chat_template=TEMPLATE,
        model_max_length=256,
    )


def tiny_llama(
    folder: Path,
    *,
    seed: int,
    tied: bool = False,
    layers: int = 3,
    hidden: int = 64,
    vocab: int = 64,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A Llama language model with its tokenizer."""
    config = LlamaConfig(**_text(layers, hidden, vocab), tie_word_embeddings=tied)
    with _seeded(seed):
        _save(LlamaForCausalLM(config), folder, dtype)
    tiny_tokenizer(vocab).save_pretrained(folder)
    return folder


def tiny_idefics3(
    folder: Path,
    *,
    seed: int,
    tied: bool = False,
    layers: int = 3,
    hidden: int = 64,
    vocab: int = 64,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """An Idefics3 VLM that vLLM can serve: 32x32 images, 4 image tokens each."""
    patch, scale = 8, 2
    config = Idefics3Config(
        image_token_id=SPECIALS.index("<image>"),
        scale_factor=scale,
        tie_word_embeddings=tied,
        pad_token_id=0,
        text_config=_text(layers, hidden, vocab)
        | {"model_type": "llama", "tie_word_embeddings": tied},
        vision_config={
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // HEAD_DIM,
            "image_size": IMAGE_SIDE,
            "patch_size": patch,
            "initializer_range": 0.2,
        },
    )
    with _seeded(seed):
        _save(Idefics3ForConditionalGeneration(config), folder, dtype)
    pictures = Idefics3ImageProcessorPil(
        do_image_splitting=False,
        do_resize=False,
        size={"longest_edge": IMAGE_SIDE},
        max_image_size={"longest_edge": IMAGE_SIDE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    Idefics3Processor(
        pictures,
        tiny_tokenizer(vocab),
        image_seq_len=(IMAGE_SIDE // patch // scale) ** 2,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


def tiny_llava(folder: Path, *, seed: int, layers: int = 3, hidden: int = 64) -> Path:
    """A LLaVA with a CLIP tower and a Llama, weights and config only."""
    config = LlavaConfig(
        text_config=_text(layers, hidden, 64) | {"model_type": "llama"},
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "image_size": IMAGE_SIDE,
            "patch_size": 8,
            "projection_dim": 32,
        },
        image_token_index=4,
        tie_word_embeddings=False,
    )
    with _seeded(seed):
        _save(LlavaForConditionalGeneration(config), folder, torch.float32)
    return folder


def tiny_qwen2_vl(
    folder: Path, *, seed: int, tied: bool = False, layers: int = 3, hidden: int = 64
) -> Path:
    """A Qwen2-VL, weights and config only: biases on q, k and v."""
    text = _text(layers, hidden, 64) | {
        "model_type": "qwen2_vl_text",
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6], "rope_type": "default"},
    }
    text.pop("head_dim")
    config = Qwen2VLConfig(
        text_config=text,
        vision_config={"depth": 2, "embed_dim": 64, "hidden_size": hidden, "num_heads": 2},
        tie_word_embeddings=tied,
        image_token_id=4,
    )
    with _seeded(seed):
        _save(Qwen2VLForConditionalGeneration(config), folder, torch.float32)
    return folder


def tiny_qwen2(
    folder: Path, *, seed: int, tied: bool = False, layers: int = 3, hidden: int = 64
) -> Path:
    """A Qwen2 language model, weights and config only: biases on q, k and v."""
    text = _text(layers, hidden, 64)
    text.pop("head_dim")
    with _seeded(seed):
        _save(
            Qwen2ForCausalLM(Qwen2Config(**text, tie_word_embeddings=tied)), folder, torch.float32
        )
    return folder


def perturbed(
    src: Path,
    dst: Path,
    *,
    seed: int,
    scale: float,
    parts: Collection[str] = ("attention", "mlp", "norm"),
) -> Path:
    """A copy of `src` whose language tensors of `parts` got Gaussian noise of std `scale`."""
    checkpoint = Checkpoint.open(src)
    places = dissect(checkpoint).places
    generator = torch.Generator().manual_seed(seed)

    def changed(name: str, tensor: torch.Tensor) -> torch.Tensor:
        place = places[name]
        if place.tower != "language" or place.part not in parts:
            return tensor
        noise = torch.randn(tensor.shape, generator=generator) * scale
        return (tensor.float() + noise).to(tensor.dtype)

    tensors = {name: changed(name, tensor) for name, tensor in tensors_of(src).items()}
    shutil.copytree(src, dst)
    save_file(tensors, dst / "model.safetensors", metadata={"format": "pt"})
    return dst


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, in memory of their own."""
    checkpoint = Checkpoint.open(folder)
    return {name: checkpoint.tensor(name).clone() for name in checkpoint.headers}


def rewrite(
    src: Path,
    dst: Path,
    tensors: dict[str, torch.Tensor],
    config: dict[str, Any] | None = None,
) -> Path:
    """A copy of `src` with other tensors, and other values of its config."""
    shutil.copytree(src, dst)
    save_file(tensors, dst / "model.safetensors", metadata={"format": "pt"})
    content = json.loads((dst / "config.json").read_text()) | (config or {})
    (dst / "config.json").write_text(json.dumps(content))
    return dst


def _text(layers: int, hidden: int, vocab: int) -> dict[str, Any]:
    heads = hidden // HEAD_DIM
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2),
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _save(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    model.to(dtype).save_pretrained(folder)
