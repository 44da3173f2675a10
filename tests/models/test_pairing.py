"""What is particular about single families: fused projections, layers between, stored twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures_families import FAMILIES, make_donor, named, write
from fixtures_families.merges import bytes_of, export, paired, read, recipe_of
from fixtures_models import rewrite, tensors_of
from mergefront.errors import PairingError
from mergefront.models.anatomy import language_groups


@pytest.fixture(scope="module")
def donors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("donors")
    kinds = ("llama", "phi3", "deepseek_v2")
    return {kind: make_donor(root / kind, kind, seed=1) for kind in kinds}


def test_fused_and_split_projections_are_not_guessed_at(
    donors: dict[str, Path], tmp_path: Path
) -> None:
    """The same weights in another layout are told from another backbone."""
    receiver = FAMILIES["Phi-3.5-Vision"].make(tmp_path / "phi", "original", seed=2)
    with pytest.raises(PairingError, match=r"no counterpart of '.*gate_up_proj\.weight'") as caught:
        paired(receiver, donors["llama"])
    assert (
        "0.mlp has as many values there, but is stored as mlp.down_proj.weight, "
        "mlp.gate_proj.weight, mlp.up_proj.weight, here as mlp.down_proj.weight, "
        "mlp.gate_up_proj.weight: convert the donor"
    ) in caught.value.hint
    receiver = FAMILIES["InternVL2 (InternLM2)"].make(tmp_path / "intern", "original", seed=2)
    with pytest.raises(PairingError) as caught:
        paired(receiver, donors["llama"])
    assert "here as attention.wo.weight, attention.wqkv.weight" in caught.value.hint
    receiver = FAMILIES["Qwen3-VL"].make(tmp_path / "qwen", "transformers 5", seed=2)
    with pytest.raises(PairingError, match=r"no counterpart of '.*k_norm\.weight'") as caught:
        paired(receiver, donors["llama"])
    assert caught.value.hint == "a donor must have the receiver's language backbone, bias for bias"


def test_cross_attention_layers_are_those_of_the_config(tmp_path: Path) -> None:
    receiver = FAMILIES["Llama 3.2 Vision"].make(tmp_path / "receiver", "transformers 5", seed=2)
    checkpoint, anatomy = read(receiver)
    assert anatomy.language_tower.layers == (0, 2, 4)
    assert [
        g.tensors[0] for g in language_groups(anatomy, checkpoint) if g.name == "1.attention"
    ] == ["language_model.model.layers.2.self_attn.k_proj.weight"]
    config = {"text_config": checkpoint.config["text_config"] | {"cross_attention_layers": [1]}}
    other = rewrite(receiver, tmp_path / "other", tensors_of(receiver), config)
    with pytest.raises(
        PairingError,
        match=r"config says that layers \[1\] attend to the image .* it is \[1, 3\]",
    ):
        read(other)


def test_an_embedding_that_is_stored_twice_is_merged_twice(
    donors: dict[str, Path], tmp_path: Path
) -> None:
    both = {"model.embed_tokens.weight", "model.vision_embed_tokens.wte.weight"}
    receiver = write(tmp_path / "receiver", *named.phi3_v(seed=2, tied=False, copy=True))
    checkpoint, anatomy = read(receiver)
    assert set(language_groups(anatomy, checkpoint)[0].tensors) == both
    export(recipe_of(receiver, donors["phi3"], "embedding"), tmp_path / "out")
    made = bytes_of(tmp_path / "out")
    assert {made[name] for name in both} == {bytes_of(donors["phi3"])["model.embed_tokens.weight"]}

    tensors = tensors_of(receiver)
    tensors["model.vision_embed_tokens.wte.weight"] += 1
    other = read(rewrite(receiver, tmp_path / "other", tensors))[1]
    assert other.places["model.vision_embed_tokens.wte.weight"].tower == "vision"


def test_a_routers_balancing_bias_is_the_receivers(donors: dict[str, Path], tmp_path: Path) -> None:
    """It is set by the load, not by the gradient, and may have another dtype than its layer."""
    made = named.deepseek_vl2(seed=2, tied=False, balanced=True)
    made[0].update({n: t.bfloat16() for n, t in made[0].items() if "e_score" not in n})
    checkpoint, anatomy = read(write(tmp_path / "receiver", *made))
    (bias,) = (name for name in checkpoint.headers if "e_score" in name)
    assert anatomy.places[bias].part == "other"
    assert {group.dtype for group in language_groups(anatomy, checkpoint)} == {"BF16"}
    assert bias not in paired(tmp_path / "receiver", donors["deepseek_v2"])
    routers = [n for n in anatomy.mergeable_tensors() if n.endswith("mlp.gate.weight")]
    assert [anatomy.places[name].part for name in routers] == ["mlp"]
