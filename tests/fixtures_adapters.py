"""Adapters on tiny models, made by PEFT with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_adapter(base: Path, folder: Path, seed: int = 7, **settings: Any) -> Path:
    """A LoRA of PEFT's making on `base`, every trainable tensor random."""
    options: dict[str, Any] = {"r": 4, "lora_alpha": 12, "target_modules": LINEAR} | settings
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base), LoraConfig(**options))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.save_pretrained(str(folder))
    return folder
