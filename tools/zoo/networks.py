"""Shapes, tokenizer and processor of the zoo's models; how they are saved and loaded.

Everything is an ordinary Hugging Face checkpoint: `LlamaForCausalLM` for base and donors,
`Idefics3ForConditionalGeneration` for the receiver, whose language layers have base's names
and shapes. head_dim is 32, the smallest that vLLM runs on a CPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from mergefront.zoo import words
from mergefront.zoo.pictures import SIDE

PATCH: Final = 8
SCALE: Final = 4
IMAGE_TOKENS: Final = (SIDE // PATCH // SCALE) ** 2
TOWER_WIDTH: Final = 96
CONTEXT: Final = 128
_ID: Final = {word: index for index, word in enumerate(words.VOCABULARY)}


def token(word: str) -> int:
    """Return the id of a word of the vocabulary."""
    return _ID[word]


def tokenizer() -> PreTrainedTokenizerFast:
    """Build the word-level tokenizer: lower case, split at spaces and before ? . ,"""
    ids = {word: index for index, word in enumerate(words.VOCABULARY)}
    inner = Tokenizer(WordLevel(ids, unk_token=words.UNKNOWN))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            *(pre_tokenizers.Split(mark, "isolated") for mark in "?.,"),
        ]
    )
    inner.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=words.START,
        eos_token=words.END,
        pad_token=words.PAD,
        unk_token=words.UNKNOWN,
        extra_special_tokens=[
            words.USER,
            words.ASSISTANT,
            words.IMAGE,
            words.AROUND_IMAGE,
            words.GLOBAL_IMAGE,
        ],
        chat_template=words.CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        padding_side="left",
    )


def processor() -> Idefics3Processor:
    """Build the receiver's processor; pictures are 64x64 already and go in whole."""
    pictures = Idefics3ImageProcessorPil(
        do_image_splitting=False,
        do_resize=False,
        size={"longest_edge": SIDE},
        max_image_size={"longest_edge": SIDE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return Idefics3Processor(
        pictures, tokenizer(), image_seq_len=IMAGE_TOKENS, chat_template=words.CHAT_TEMPLATE
    )


def language_config() -> LlamaConfig:
    """Shape of every language model of the zoo."""
    return LlamaConfig(
        vocab_size=len(words.VOCABULARY),
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        initializer_range=0.1,  # near 1 / sqrt(hidden); 0.02 suits wide models, learns slowly here
        max_position_embeddings=CONTEXT,
        bos_token_id=token(words.START),
        eos_token_id=token(words.END),
        pad_token_id=token(words.PAD),
        tie_word_embeddings=False,
        dtype="float32",
    )


def language_model() -> LlamaForCausalLM:
    """A fresh language model; a cell's word starts as the sum of the words it is made of."""
    model = LlamaForCausalLM(language_config())
    rows = model.get_input_embeddings().weight.data
    for cell in words.CELLS:
        rows[token(cell)] = sum(rows[token(word)] for word in cell.split(":"))
    return model


def receiver_on(base: LlamaForCausalLM) -> Idefics3ForConditionalGeneration:
    """A receiver with a fresh tower and connector on a copy of base's language layers."""
    config = Idefics3Config(
        image_token_id=token(words.IMAGE),
        scale_factor=SCALE,
        tie_word_embeddings=False,
        pad_token_id=token(words.PAD),
        bos_token_id=token(words.START),
        eos_token_id=token(words.END),
        text_config=base.config.to_dict(),
        vision_config={
            "hidden_size": TOWER_WIDTH,
            "intermediate_size": 2 * TOWER_WIDTH,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        dtype="float32",
    )
    receiver = Idefics3ForConditionalGeneration(config)
    receiver.model.text_model.load_state_dict(base.model.state_dict())
    receiver.lm_head.load_state_dict(base.lm_head.state_dict())
    return receiver


def save(model: LlamaForCausalLM | Idefics3ForConditionalGeneration, folder: Path) -> None:
    """Write a complete checkpoint folder: weights, configs, tokenizer or whole processor."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        bos_token_id=token(words.START),
        eos_token_id=token(words.END),
        pad_token_id=token(words.PAD),
        max_new_tokens=4,
        do_sample=False,
    )
    model.save_pretrained(folder)
    _forget_origin(folder / "config.json")
    sees = isinstance(model, Idefics3ForConditionalGeneration)
    (processor() if sees else tokenizer()).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


@torch.no_grad()
def picture_tokens(
    receiver: Idefics3ForConditionalGeneration, pixels_BCHW: torch.Tensor
) -> torch.Tensor:
    """Encode pictures (values in [-1, 1]) into the (B, 4, hidden) vectors that the LM reads."""
    features = receiver.model.vision_model(pixel_values=pixels_BCHW).last_hidden_state
    vectors: torch.Tensor = receiver.model.connector(features)
    return vectors


def _forget_origin(config: Path) -> None:
    """Drop the folder that a part was loaded from: it means nothing on another machine."""
    data = json.loads(config.read_text())
    for part in (data, *(value for value in data.values() if isinstance(value, dict))):
        part.pop("_name_or_path", None)
    config.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")
