"""Receivers whose class transformers has: tiny random models made by the class itself.

Every language tower is 2 text layers of width 64 with head_dim 32 (Llama 3.2 Vision has 3 text
layers between 2 of cross-attention). The vision towers have the language tower's depth and width
where the family allows it: neither may be what tells them apart.
"""

from __future__ import annotations

from typing import Any

import transformers as hf

HIDDEN, HEAD_DIM, LAYERS, VOCAB, SIDE = 128, 32, 2, 64, 32
CROSS_LAYERS = [1, 3]
IMAGE_TOKEN = 4


def text(model_type: str, *, tied: bool = False, **more: Any) -> dict[str, Any]:
    """Values of a text config of that type."""
    return {
        "model_type": model_type,
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HIDDEN // HEAD_DIM,
        "num_key_value_heads": 1,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": tied,
    } | more


def vision(model_type: str, **more: Any) -> dict[str, Any]:
    """Values of a vision config of that type: 32 x 32 pixels in patches of 8."""
    return {
        "model_type": model_type,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 8,
        "initializer_range": 0.2,
    } | more


def llava_15(tied: bool) -> hf.PreTrainedModel:
    return _llava(vision("clip_vision_model", projection_dim=32), text("llama", tied=tied), tied)


def pixtral(tied: bool) -> hf.PreTrainedModel:
    """Pixtral in transformers is a LLaVA with a Pixtral tower and a Mistral."""
    tower = vision("pixtral", head_dim=32)
    return _llava(tower, text("mistral", tied=tied), tied, vision_feature_layer=-1)


def _llava(
    tower: dict[str, Any], words: dict[str, Any], tied: bool, **more: Any
) -> hf.PreTrainedModel:
    config = hf.LlavaConfig(
        vision_config=tower,
        text_config=words,
        image_token_index=IMAGE_TOKEN,
        image_seq_length=16,
        tie_word_embeddings=tied,
        **more,
    )
    return hf.LlavaForConditionalGeneration(config)


def llava_next(words: dict[str, Any], tied: bool) -> hf.PreTrainedModel:
    config = hf.LlavaNextConfig(
        vision_config=vision("clip_vision_model", projection_dim=32),
        text_config=words,
        image_token_index=IMAGE_TOKEN,
        image_seq_length=16,
        image_grid_pinpoints=[[SIDE, SIDE], [SIDE, 2 * SIDE]],
        tie_word_embeddings=tied,
    )
    return hf.LlavaNextForConditionalGeneration(config)


def llava_onevision(tied: bool) -> hf.PreTrainedModel:
    config = hf.LlavaOnevisionConfig(
        vision_config=vision("siglip_vision_model", vision_use_head=False),
        text_config=text("qwen2", tied=tied),
        image_token_index=IMAGE_TOKEN,
        video_token_index=5,
        image_grid_pinpoints=[[SIDE, SIDE], [SIDE, 2 * SIDE]],
        tie_word_embeddings=tied,
    )
    return hf.LlavaOnevisionForConditionalGeneration(config)


def idefics2(tied: bool) -> hf.PreTrainedModel:
    config = hf.Idefics2Config(
        vision_config=vision("idefics2_vision"),
        perceiver_config={
            "model_type": "idefics2_perceiver",
            "hidden_size": HIDDEN,
            "resampler_n_latents": 4,
            "resampler_depth": LAYERS,
            "resampler_n_heads": 2,
            "resampler_head_dim": 32,
            "num_key_value_heads": 1,
        },
        text_config=text("mistral", tied=tied),
        image_token_id=IMAGE_TOKEN,
        tie_word_embeddings=tied,
    )
    return hf.Idefics2ForConditionalGeneration(config)


def idefics3(tied: bool) -> hf.PreTrainedModel:
    config = hf.Idefics3Config(
        vision_config=vision("idefics3_vision"),
        text_config=text("llama", tied=tied),
        image_token_id=IMAGE_TOKEN,
        scale_factor=2,
        pad_token_id=0,
        tie_word_embeddings=tied,
    )
    return hf.Idefics3ForConditionalGeneration(config)


def smolvlm(tied: bool) -> hf.PreTrainedModel:
    config = hf.SmolVLMConfig(
        vision_config=vision("smolvlm_vision"),
        text_config=text("llama", tied=tied),
        image_token_id=IMAGE_TOKEN,
        scale_factor=2,
        pad_token_id=0,
        tie_word_embeddings=tied,
    )
    return hf.SmolVLMForConditionalGeneration(config)


MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}


def qwen2_vl(tied: bool) -> hf.PreTrainedModel:
    words = text("qwen2_vl_text", tied=tied, rope_parameters=MROPE)
    words.pop("head_dim")
    config = hf.Qwen2VLConfig(
        vision_config={"depth": LAYERS, "embed_dim": HIDDEN, "hidden_size": HIDDEN, "num_heads": 2},
        text_config=words,
        tie_word_embeddings=tied,
        **_QWEN_TOKENS,
    )
    return hf.Qwen2VLForConditionalGeneration(config)


def qwen2_5_vl(tied: bool) -> hf.PreTrainedModel:
    words = text("qwen2_5_vl_text", tied=tied, rope_parameters=MROPE)
    words.pop("head_dim")
    config = hf.Qwen2_5_VLConfig(
        vision_config={
            "depth": LAYERS,
            "hidden_size": HIDDEN,
            "out_hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_heads": 2,
            "fullatt_block_indexes": [1],
        },
        text_config=words,
        tie_word_embeddings=tied,
        **_QWEN_TOKENS,
    )
    return hf.Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl(tied: bool) -> hf.PreTrainedModel:
    config = hf.Qwen3VLConfig(
        vision_config={
            "depth": LAYERS,
            "hidden_size": HIDDEN,
            "out_hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_heads": 2,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        text_config=text(
            "qwen3_vl_text", tied=tied, rope_parameters=MROPE | {"mrope_interleaved": True}
        ),
        tie_word_embeddings=tied,
        **_QWEN_TOKENS,
    )
    return hf.Qwen3VLForConditionalGeneration(config)


_QWEN_TOKENS = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": 5,
    "vision_start_token_id": 6,
    "vision_end_token_id": 7,
}


def internvl(words: dict[str, Any], tied: bool) -> hf.PreTrainedModel:
    config = hf.InternVLConfig(
        vision_config=vision("internvl_vision", image_size=[SIDE, SIDE], patch_size=[8, 8]),
        text_config=words,
        image_token_id=IMAGE_TOKEN,
        image_seq_length=4,
        tie_word_embeddings=tied,
    )
    return hf.InternVLForConditionalGeneration(config)


def paligemma(model_type: str, tied: bool) -> hf.PreTrainedModel:
    """PaliGemma has a Gemma, PaliGemma 2 a Gemma 2."""
    more = {"query_pre_attn_scalar": HEAD_DIM} if model_type == "gemma2" else {}
    config = hf.PaliGemmaConfig(
        vision_config=vision("siglip_vision_model", vision_use_head=False, projection_dim=HIDDEN),
        text_config=text(model_type, tied=tied, **more),
        image_token_index=IMAGE_TOKEN,
        projection_dim=HIDDEN,
        hidden_size=HIDDEN,
        tie_word_embeddings=tied,
    )
    return hf.PaliGemmaForConditionalGeneration(config)


def gemma3(tied: bool) -> hf.PreTrainedModel:
    config = hf.Gemma3Config(
        vision_config=vision("siglip_vision_model", vision_use_head=False),
        text_config=text("gemma3_text", tied=tied, query_pre_attn_scalar=HEAD_DIM),
        mm_tokens_per_image=4,
        image_token_index=IMAGE_TOKEN,
        boi_token_index=5,
        eoi_token_index=6,
        tie_word_embeddings=tied,
    )
    return hf.Gemma3ForConditionalGeneration(config)


def mistral3(tied: bool) -> hf.PreTrainedModel:
    config = hf.Mistral3Config(
        vision_config=vision("pixtral", head_dim=32),
        text_config=text("mistral", tied=tied),
        image_token_index=IMAGE_TOKEN,
        spatial_merge_size=2,
        vision_feature_layer=-1,
        tie_word_embeddings=tied,
    )
    return hf.Mistral3ForConditionalGeneration(config)


def mllama(tied: bool) -> hf.PreTrainedModel:
    """Llama 3.2 Vision: layers 1 and 3 of 5 attend to the image and have no counterpart."""
    words = text(
        "mllama_text_model",
        tied=tied,
        num_hidden_layers=5,
        cross_attention_layers=CROSS_LAYERS,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        hidden_act="silu",
    )
    words.pop("head_dim")
    config = hf.MllamaConfig(
        vision_config={
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 8,
            "vision_output_dim": 2 * HIDDEN,
            "intermediate_layers_indices": [0],
            "max_num_tiles": 2,
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
            "initializer_range": 0.2,
        },
        text_config=words,
        image_token_index=VOCAB,
        tie_word_embeddings=tied,
    )
    return hf.MllamaForConditionalGeneration(config)
