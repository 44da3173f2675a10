"""One tiny random checkpoint for every receiver family, in each layout that is in use on disk.

A `Family` makes its receivers in the layouts listed; `make_donor` makes the text models. Layouts:
- "transformers 5": what `save_pretrained` of transformers 5 writes;
- "modules": the same under the names of the modules in memory (`save_original_format=False`, and
  what transformers 4.52 to 4.57 wrote for some families);
- "transformers 4": as on the hub since the family appeared;
- "original": as in the family's own repository.

Reading order: here, `native` (made by transformers' classes), `donors`, `named` (by names).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import save_file
from transformers.core_model_loading import revert_weight_conversion

from . import named, native
from .donors import KINDS as DONORS
from .donors import Tensors, language_model, stir

__all__ = ["CASES", "DONORS", "FAMILIES", "Family", "make_donor", "write"]

Renames = tuple[tuple[str, str], ...]
CLIP4: Renames = ((r"^vision_tower\.", "vision_tower.vision_model."),)
"""CLIP and SigLIP towers had one level more before transformers 5."""
LLAVA: Renames = (
    (r"^language_model\.", ""),
    (r"^vision_tower\.", "model.vision_tower.vision_tower.vision_model."),
    (r"^multi_modal_projector\.linear_1", "model.mm_projector.0"),
    (r"^multi_modal_projector\.linear_2", "model.mm_projector.2"),
    (r"^image_newline", "model.image_newline"),
)
"""The LLaVA repositories' own names (liuhaotian, lmms-lab)."""


@dataclass(frozen=True)
class Family:
    """A receiver family: how to make it, the donor that fits, and its layouts on disk.

    `native` builds transformers' class (given whether the head is tied), `named` builds tensors
    and config by name (given seed and tied head); `renames` lead from the layout "transformers 5"
    to others. `ties` tells whether the family knows tied heads, `tied` whether all its members
    have one.
    """

    donor: str
    native: Callable[[bool], hf.PreTrainedModel] | None = None
    named: Callable[..., tuple[Tensors, dict[str, Any]]] | None = None
    renames: Mapping[str, Renames] = field(default_factory=dict)
    modules: bool = True
    ties: bool = True
    tied: bool = False

    @property
    def layouts(self) -> tuple[str, ...]:
        if self.named is not None:
            return ("original",)
        return ("transformers 5", *(("modules",) if self.modules else ()), *self.renames)

    def loads(self, layout: str) -> bool:
        """Whether transformers has a class that reads this layout."""
        return self.native is not None and layout != "original"

    def make(self, folder: Path, layout: str, *, seed: int, tied: bool = False) -> Path:
        """Write a random receiver of this family, weights and config."""
        if self.named is not None:
            return write(folder, *self.named(seed=seed, tied=tied))
        assert self.native is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.native(tied)
            stir(dict(model.named_parameters()))
        tensors = dict(model.state_dict())
        if layout != "modules":
            tensors = revert_weight_conversion(model, tensors)
        tensors = {_renamed(n, self.renames.get(layout, ())): t for n, t in tensors.items()}
        if tied:
            tensors = {n: t for n, t in tensors.items() if not n.endswith("lm_head.weight")}
        config = model.config.to_dict() | {"architectures": [type(model).__name__]}
        if layout == "original":
            config = config["text_config"] | {"model_type": "llava_llama", "mm_hidden_size": 64}
        return write(folder, tensors, config)


def _words(kind: str) -> Callable[[bool], dict[str, Any]]:
    return lambda tied: native.text(kind, tied=tied)


def _next(kind: str, **more: Any) -> Family:
    words = _words(kind)
    renames = {"transformers 4": CLIP4, "original": LLAVA}
    return Family(kind, lambda tied: native.llava_next(words(tied), tied), renames=renames, **more)


def _internvl(kind: str) -> Family:
    words = _words(kind)
    return Family(kind, lambda tied: native.internvl(words(tied), tied))


def _chat(kind: str) -> Family:
    return Family(kind, named=lambda **how: named.internvl_chat(kind, **how))


def _clip(donor: str, build: Callable[[bool], hf.PreTrainedModel], **more: Renames) -> Family:
    renames = {"transformers 4": CLIP4} | more
    return Family(donor, build, renames=renames, tied=donor.startswith("gemma"))


FAMILIES: dict[str, Family] = {
    "LLaVA-1.5": _clip("llama", native.llava_15, original=LLAVA),
    "LLaVA-NeXT (Llama 3, Vicuna)": _next("llama"),
    "LLaVA-NeXT (Mistral)": _next("mistral"),
    "LLaVA-NeXT (Qwen)": _next("qwen2"),
    "LLaVA-OneVision": _clip("qwen2", native.llava_onevision),
    "Idefics2": Family("mistral", native.idefics2, modules=False),
    "Idefics3": Family("llama", native.idefics3, modules=False),
    "SmolVLM": Family("llama", native.smolvlm, modules=False),
    "Qwen2-VL": Family("qwen2", native.qwen2_vl),
    "Qwen2.5-VL": Family("qwen2", native.qwen2_5_vl),
    "Qwen3-VL": Family("qwen3", native.qwen3_vl, modules=False),
    "InternVL (transformers, Qwen2)": _internvl("qwen2"),
    "InternVL (transformers, Llama)": _internvl("llama"),
    "InternVL2 (InternLM2)": _chat("internlm2"),
    "InternVL2 (Llama 3)": _chat("llama"),
    "InternVL2.5, InternVL3 (Qwen2)": _chat("qwen2"),
    "InternVL3.5 (Qwen3)": _chat("qwen3"),
    "PaliGemma": _clip("gemma", lambda tied: native.paligemma("gemma", tied)),
    "PaliGemma 2": _clip("gemma2", lambda tied: native.paligemma("gemma2", tied)),
    "Gemma 3": _clip("gemma3_text", native.gemma3),
    "Pixtral": Family("mistral", native.pixtral),
    "Mistral 3": Family("mistral", native.mistral3),
    "Llama 3.2 Vision": Family("mllama", native.mllama, ties=False),
    "Phi-3.5-Vision": Family("phi3", named=named.phi3_v),
    "MiniCPM-V 2.5 (Llama 3)": Family(
        "llama", named=lambda **how: named.minicpm_v("llama", 2.5, **how)
    ),
    "MiniCPM-V 2.6 (Qwen2)": Family(
        "qwen2", named=lambda **how: named.minicpm_v("qwen2", 2.6, **how)
    ),
    "DeepSeek-VL2": Family("deepseek_v2", named=named.deepseek_vl2),
}
CASES = [(name, layout) for name, family in FAMILIES.items() for layout in family.layouts]
"""Every family in every layout."""


def make_donor(
    folder: Path, kind: str, *, seed: int, tied: bool = False, vocab: int = 64, files: int = 1
) -> Path:
    """Write a text model in one file or several."""
    return write(folder, *language_model(kind, seed=seed, tied=tied, vocab=vocab), files=files)


def write(folder: Path, tensors: Tensors, config: dict[str, Any], *, files: int = 1) -> Path:
    """Write a checkpoint, in one file or in shards with their index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, default=str))
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    if files == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number in range(files):
        shard = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        own = {name: tensors[name] for name in names[number::files]}
        save_file(own, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(own, shard)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    return folder


def _renamed(name: str, renames: Renames) -> str:
    for pattern, substitute in renames:
        name = re.sub(pattern, substitute, name)
    return name
