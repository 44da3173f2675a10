"""Receivers whose class transformers 5.19 lacks, put together by their tensors' names on the hub.

The language tensors are a real text model's under the family's prefix; towers and connectors have
the names and scaled-down shapes of the family's own modelling code (OpenGVLab/InternVL2-8B,
microsoft/Phi-3.5-vision-instruct, openbmb/MiniCPM-V-2_6, deepseek-ai/deepseek-vl2).
"""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

from .donors import Tensors, language_model
from .native import HIDDEN, LAYERS, SIDE, vision

Made = tuple[Tensors, dict[str, Any]]
C, P = HIDDEN, 8
"""Width and patch side of every vision tower here."""


def internvl_chat(kind: str, *, seed: int, tied: bool) -> Made:
    """InternVL2, 2.5 and 3 in their own repositories: `language_model.*`, `mlp1.*`."""
    language, config = language_model(kind, seed=seed, tied=tied)
    patches = (SIDE // P) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (1, 1, C),
        "vision_model.embeddings.position_embedding": (1, patches + 1, C),
        **_affine("vision_model.embeddings.patch_embedding", C, 3, P, P),
    }
    for layer in range(LAYERS):
        block = f"vision_model.encoder.layers.{layer}"
        shapes |= {f"{block}.ls1": (C,), f"{block}.ls2": (C,)}
        shapes |= _block(block)
    shapes |= _affine("mlp1.0", 4 * C) | _affine("mlp1.1", HIDDEN, 4 * C)
    shapes |= _affine("mlp1.3", HIDDEN, HIDDEN)
    tensors = {f"language_model.{name}": tensor for name, tensor in language.items()}
    tower = vision("intern_vit_6b", hidden_act="gelu", norm_type="layer_norm", qkv_bias=True)
    tower |= {"qk_normalization": False, "layer_norm_eps": 1e-6, "initializer_factor": 1.0}
    return tensors | random(shapes, seed), {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "llm_config": config,
        "vision_config": tower,
        "downsample_ratio": 0.5,
        "select_layer": -1,
        "ps_version": "v2",
        "template": "internlm2-chat",
        "force_image_size": SIDE,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 1,
        "use_thumbnail": False,
        "dynamic_image_size": False,
        "tie_word_embeddings": tied,
    }


def phi3_v(*, seed: int, tied: bool, copy: bool = False) -> Made:
    """Phi-3.5-Vision: the word embedding lies under `model.vision_embed_tokens`.

    With `copy` it is stored under its usual name as well.
    """
    language, config = language_model("phi3", seed=seed, tied=tied)
    embedding = language.pop("model.embed_tokens.weight")
    language["model.vision_embed_tokens.wte.weight"] = embedding
    if copy:
        language["model.embed_tokens.weight"] = embedding.clone()
    own = "model.vision_embed_tokens"
    shapes: dict[str, tuple[int, ...]] = {f"{own}.glb_GN": (1, 1, 4 * C)}
    shapes |= {f"{own}.sub_GN": (1, 1, 1, 4 * C)}
    shapes |= _affine(f"{own}.img_projection.0", HIDDEN, 4 * C)
    shapes |= _affine(f"{own}.img_projection.2", HIDDEN, HIDDEN)
    tower = _tower(hf.CLIPVisionModel, hf.CLIPVisionConfig(**vision("clip_vision_model")), seed)
    tower = {f"{own}.img_processor.vision_model.{name}": t for name, t in tower.items()}
    return language | tower | random(shapes, seed), config | {
        "model_type": "phi3_v",
        "architectures": ["Phi3VForCausalLM"],
        "img_processor": {
            "name": "clip_vision_model",
            "model_name": "openai/clip-vit-large-patch14-336",
            "image_dim_out": C,
            "num_img_tokens": 4,
            "layer_idx": -2,
            "type_feature": "patch",
        },
        "embd_layer": {
            "embedding_cls": "image",
            "hd_transform_order": "sub_glb",
            "projection_cls": "mlp",
            "use_hd_transform": True,
            "with_learnable_separator": True,
        },
    }


def minicpm_v(kind: str, version: float, *, seed: int, tied: bool) -> Made:
    """MiniCPM-V 2.5 (Llama 3) and 2.6 (Qwen2): `llm.*`, `vpm.*`, `resampler.*`; a flat config."""
    language, config = language_model(kind, seed=seed, tied=tied)
    width = {"hidden_size": C // 2, "intermediate_size": C}
    values = vision("siglip_vision_model", vision_use_head=False, **width)
    tower = _tower(hf.SiglipVisionModel, hf.SiglipVisionConfig(**values), seed)
    shapes: dict[str, tuple[int, ...]] = {
        "resampler.query": (4, HIDDEN),
        "resampler.proj": (HIDDEN, HIDDEN),
        "resampler.kv_proj.weight": (HIDDEN, C // 2),
        "resampler.attn.in_proj_weight": (3 * HIDDEN, HIDDEN),
        "resampler.attn.in_proj_bias": (3 * HIDDEN,),
        **_affine("resampler.attn.out_proj", HIDDEN, HIDDEN),
    }
    for norm in ("ln_q", "ln_kv", "ln_post"):
        shapes |= _affine(f"resampler.{norm}", HIDDEN)
    tensors = {f"llm.{name}": tensor for name, tensor in language.items()}
    tensors |= {f"vpm.{name}": tensor for name, tensor in tower.items()}
    return tensors | random(shapes, seed), config | {
        "model_type": "minicpmv",
        "architectures": ["MiniCPMV"],
        "version": version,
        "vision_config": values,
        "image_size": SIDE,
        "patch_size": P,
        "query_num": 4,
        "slice_mode": False,
        "drop_vision_last_layer": False,
        "batch_vision_input": True,
        "use_image_id": True,
    }


def deepseek_vl2(*, seed: int, tied: bool, balanced: bool = False) -> Made:
    """DeepSeek-VL2: a mixture of experts with latent attention under `language.*`.

    With `balanced` its routers have the load-balancing bias of the largest model, in fp32.
    """
    language, config = language_model("deepseek_v2", seed=seed, tied=tied)
    if balanced:
        experts = config["n_routed_experts"]
        language["model.layers.1.mlp.gate.e_score_correction_bias"] = torch.randn(experts)
    patches = (SIDE // P) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "vision.pos_embed": (1, patches, C),
        **_affine("vision.patch_embed.proj", C, 3, P, P),
        **_affine("vision.norm", C),
        "vision.attn_pool.latent": (1, 1, C),
        **_affine("vision.attn_pool.q", C, C),
        **_affine("vision.attn_pool.kv", 2 * C, C),
        **_affine("vision.attn_pool.proj", C, C),
        **_affine("vision.attn_pool.norm", C),
        **_affine("vision.attn_pool.mlp.fc1", 2 * C, C),
        **_affine("vision.attn_pool.mlp.fc2", C, 2 * C),
        **_affine("projector.layers.0", HIDDEN, 4 * C),
        **_affine("projector.layers.2", HIDDEN, HIDDEN),
        "image_newline": (HIDDEN,),
        "view_seperator": (HIDDEN,),
    }
    for layer in range(LAYERS):
        shapes |= _block(f"vision.blocks.{layer}")
    tensors = {f"language.{name}": tensor for name, tensor in language.items()}
    return tensors | random(shapes, seed), {
        "model_type": "deepseek_vl_v2",
        "architectures": ["DeepseekVLV2ForCausalLM"],
        "language_config": config,
        "vision_config": {"model_type": "vision", "layers": LAYERS, "width": C, "patch_size": P},
        "projector_config": {"model_type": "mlp_projector", "input_dim": C, "n_embed": HIDDEN},
        "tile_tag": "2D",
        "global_view_pos": "head",
        "candidate_resolutions": [[SIDE, SIDE]],
    }


def random(shapes: dict[str, tuple[int, ...]], seed: int) -> Tensors:
    """Gaussian tensors of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


def _affine(module: str, *shape: int) -> dict[str, tuple[int, ...]]:
    """A weight of that shape and its bias."""
    return {f"{module}.weight": shape, f"{module}.bias": shape[:1]}


def _block(block: str) -> dict[str, tuple[int, ...]]:
    """A transformer layer of a ViT with fused query, key and value."""
    return {
        **_affine(f"{block}.norm1", C),
        **_affine(f"{block}.norm2", C),
        **_affine(f"{block}.attn.qkv", 3 * C, C),
        **_affine(f"{block}.attn.proj", C, C),
        **_affine(f"{block}.mlp.fc1", 2 * C, C),
        **_affine(f"{block}.mlp.fc2", C, 2 * C),
    }


def _tower(model: Any, config: hf.PreTrainedConfig, seed: int) -> Tensors:
    """A CLIP or SigLIP tower's tensors, named as before transformers 5."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tensors = model(config).state_dict()
    return {n.removeprefix("vision_model."): t.clone() for n, t in tensors.items()}
