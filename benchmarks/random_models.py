"""Random-weight language models of real shapes on disk: a base, and three that differ from it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = {  # hidden, intermediate, layers, heads
    "small": (512, 1408, 16, 8),
    "0.7b": (1536, 4096, 22, 12),
}
DONORS = ("first", "second")


def make_models(root: Path, size: str) -> dict[str, Path]:
    """Write a base and three models that differ from it, each 2 bytes a parameter."""
    hidden, intermediate, layers, heads = SHAPES[size]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=16_000,
        dtype="bfloat16",
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    found = {}
    for number, name in enumerate(("base", "receiver", *DONORS)):
        found[name] = root / name
        if number:
            generator = torch.Generator().manual_seed(number)
            with torch.no_grad():
                for parameter in model.parameters():
                    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                    parameter.add_((0.002 * noise).to(torch.bfloat16))
        model.save_pretrained(found[name], max_shard_size="600MB")
    return found
