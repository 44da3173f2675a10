"""Text models, the donors: by transformers' own classes, and InternLM2 by its tensors' names.

`language_model` returns the tensors as the class writes them (`model.layers.0...`, experts one by
one) and its config; the receivers that transformers lacks are put together from them.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from transformers.core_model_loading import revert_weight_conversion

from .native import HEAD_DIM, HIDDEN, text

Tensors = dict[str, torch.Tensor]

MORE: dict[str, dict[str, Any]] = {
    "gemma2": {"query_pre_attn_scalar": HEAD_DIM},
    "gemma3_text": {"query_pre_attn_scalar": HEAD_DIM},
    "mllama": {"num_hidden_layers": 3},
    "deepseek_v2": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "num_key_value_heads": 2,
        "kv_lora_rank": 512,
        "q_lora_rank": None,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 64,
        "v_head_dim": 32,
        "n_group": 1,
        "topk_group": 1,
        "aux_loss_alpha": 0.0,
    },
}
"""What a kind needs beyond `native.text`; "mllama" is a Llama as deep as its text layers."""
WITHOUT_HEAD_DIM = ("qwen2", "phi3", "deepseek_v2")
KINDS = (
    *("llama", "mllama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3"),
    *("deepseek_v2", "internlm2"),
)


def language_model(
    kind: str, *, seed: int, tied: bool = False, vocab: int = 64
) -> tuple[Tensors, dict[str, Any]]:
    """Tensors, by their names on disk, and the config of a text model."""
    if kind == "internlm2":
        return _internlm2(seed=seed, tied=tied, vocab=vocab)
    values = text(
        "llama" if kind == "mllama" else kind, tied=tied, vocab_size=vocab, **MORE.get(kind, {})
    )
    if kind in WITHOUT_HEAD_DIM:
        values.pop("head_dim")
    config = hf.AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = hf.AutoModelForCausalLM.from_config(config)
        stir(dict(model.named_parameters()))
    tensors = revert_weight_conversion(model, dict(model.state_dict()))
    if tied:
        tensors.pop("lm_head.weight")
    saved = config.to_dict() | {"architectures": [type(model).__name__]}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}, saved


def stir(tensors: Tensors) -> None:
    """Make norms, gates and biases random too, in place, so that merging them shows."""
    with torch.no_grad():
        for tensor in tensors.values():
            if tensor.is_floating_point() and (tensor.dim() < 2 or tensor.std() == 0):
                tensor.add_(torch.randn_like(tensor), alpha=0.2)


def _internlm2(*, seed: int, tied: bool, vocab: int) -> tuple[Tensors, dict[str, Any]]:
    """InternLM2: query, key and value are one matrix, interleaved by key-value head."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    values = text("internlm2", tied=tied, vocab_size=vocab)
    heads, kv_heads = values["num_attention_heads"], values["num_key_value_heads"]
    inner = values["intermediate_size"]
    tensors = {"model.tok_embeddings.weight": random(vocab, HIDDEN)}
    for layer in range(values["num_hidden_layers"]):
        shapes = {
            "attention.wqkv": (HEAD_DIM * (heads + 2 * kv_heads), HIDDEN),
            "attention.wo": (HIDDEN, HEAD_DIM * heads),
            "feed_forward.w1": (inner, HIDDEN),
            "feed_forward.w3": (inner, HIDDEN),
            "feed_forward.w2": (HIDDEN, inner),
            "attention_norm": (HIDDEN,),
            "ffn_norm": (HIDDEN,),
        }
        tensors |= {f"model.layers.{layer}.{n}.weight": random(*s) for n, s in shapes.items()}
    tensors["model.norm.weight"] = random(HIDDEN)
    if not tied:
        tensors["output.weight"] = random(vocab, HIDDEN)
    rest = {"architectures": ["InternLM2ForCausalLM"], "hidden_act": "silu", "bias": False}
    return tensors, values | rest | {"rope_theta": 10000.0}
