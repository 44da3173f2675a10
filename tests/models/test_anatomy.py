"""Every tensor has its place, in every layout; donors pair, or one clear error says why not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fixtures_models import (
    rewrite,
    tensors_of,
    tiny_idefics3,
    tiny_llama,
    tiny_llava,
    tiny_qwen2,
    tiny_qwen2_vl,
)
from mergefront.errors import PairingError
from mergefront.models.anatomy import Anatomy, dissect, language_groups
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.pairing import pair_tensors

Opened = tuple[Checkpoint, Anatomy]


def read(folder: Path) -> Opened:
    checkpoint = Checkpoint.open(folder)
    return checkpoint, dissect(checkpoint)


def paired(receiver: Opened, donor: Opened) -> dict[str, str]:
    return pair_tensors(receiver[1], donor[1], receiver[0], donor[0])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "llama": tiny_llama(root / "llama", seed=0),
        "llama tied": tiny_llama(root / "llama-tied", seed=1, tied=True),
        "idefics3": tiny_idefics3(root / "idefics3", seed=2),
        "idefics3 tied": tiny_idefics3(root / "idefics3-tied", seed=3, tied=True),
        "llava": tiny_llava(root / "llava", seed=4),
        "qwen2-vl": tiny_qwen2_vl(root / "qwen2-vl", seed=5),
        "qwen2-vl tied": tiny_qwen2_vl(root / "qwen2-vl-tied", seed=6, tied=True),
        "qwen2": tiny_qwen2(root / "qwen2", seed=7),
    }


LLAMA = {"attention": 12, "mlp": 9, "norm": 7, "embedding": 1, "head": 1}
QWEN2 = LLAMA | {"attention": 21}
KINDS = {
    "llama": (LLAMA, 0, 0),
    "llama tied": (LLAMA | {"head": 0}, 0, 0),
    "idefics3": (LLAMA, 53, 1),
    "idefics3 tied": (LLAMA | {"head": 0}, 53, 1),
    "llava": (LLAMA, 55, 4),
    "qwen2-vl": (QWEN2, 25, 6),
    "qwen2-vl tied": (QWEN2 | {"head": 0}, 25, 6),
    "qwen2": (QWEN2, 0, 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_has_its_place(made: dict[str, Path], kind: str) -> None:
    checkpoint, anatomy = read(made[kind])
    language, vision, connector = KINDS[kind]
    found = Counter((place.tower, place.part) for place in anatomy.places.values())
    wanted = {("language", part): n for part, n in language.items()}
    wanted |= {("vision", "other"): vision, ("connector", "other"): connector}
    assert found == +Counter(wanted)
    assert set(anatomy.places) == set(checkpoint.headers)
    assert anatomy.n_layers == 3
    assert anatomy.tied_head == kind.endswith("tied")
    for name, place in anatomy.places.items():
        if place.layer is not None:
            assert place.tower == "language"
            assert f".{place.layer}." in name


@pytest.mark.parametrize("kind", KINDS)
def test_groups_partition_what_can_be_merged(made: dict[str, Path], kind: str) -> None:
    checkpoint, anatomy = read(made[kind])
    found = language_groups(anatomy, checkpoint)
    members = [name for group in found for name in group.tensors]
    assert sorted(members) == sorted(anatomy.mergeable_tensors())
    assert len(set(members)) == len(members)
    layers = [f"{layer}.{part}" for layer in range(3) for part in ("attention", "mlp", "norm")]
    head = [] if anatomy.tied_head else ["head"]
    assert [group.name for group in found] == ["embedding", *layers, "final.norm", *head]
    for group in found:
        for name in group.tensors:
            place = anatomy.places[name]
            assert (place.layer, place.part) == (group.layer, group.part)
            assert checkpoint.headers[name].dtype == group.dtype


RECEIVERS = ["idefics3", "llava", "qwen2-vl"]
LAYOUTS: dict[str, list[list[tuple[str, str]]]] = {
    # regular expressions that lead from the layout on disk to the others that are in use
    "idefics3": [[]],
    "llava": [
        [],
        [
            (r"^language_model\.model\.", "model.language_model."),
            (r"^language_model\.lm_head", "lm_head"),
            (r"^(vision_tower|multi_modal_projector)", r"model.\1"),
        ],
        [
            (r"^language_model\.model\.", "model."),
            (r"^language_model\.lm_head", "lm_head"),
            (r"^vision_tower", "model.vision_tower.vision_tower"),
            (r"^multi_modal_projector\.linear_1", "model.mm_projector.0"),
            (r"^multi_modal_projector\.linear_2", "model.mm_projector.2"),
        ],
    ],
    "qwen2-vl": [[], [(r"^model\.", "model.language_model."), (r"^visual", "model.visual")]],
}


@pytest.mark.parametrize(
    ("kind", "layout"), [(kind, n) for kind in RECEIVERS for n in range(len(LAYOUTS[kind]))]
)
def test_layouts_are_read_alike(
    made: dict[str, Path], tmp_path: Path, kind: str, layout: int
) -> None:
    checkpoint, anatomy = read(made[kind])
    renamed = {}
    for name in checkpoint.headers:
        new = name
        for pattern, substitute in LAYOUTS[kind][layout]:
            new = re.sub(pattern, substitute, new)
        renamed[name] = new
    tensors = tensors_of(made[kind])
    folder = rewrite(made[kind], tmp_path / "new", {renamed[n]: t for n, t in tensors.items()})
    other = read(folder)
    assert {n: other[1].places[new] for n, new in renamed.items()} == dict(anatomy.places)
    donor = read(made["qwen2" if kind == "qwen2-vl" else "llama"])
    assert paired(other, donor) == {
        renamed[n]: d for n, d in paired((checkpoint, anatomy), donor).items()
    }


def test_pairs_are_namesakes(made: dict[str, Path]) -> None:
    pairs = paired(read(made["idefics3"]), read(made["llama"]))
    assert len(pairs) == 30
    for mine, theirs in pairs.items():
        assert mine.replace("model.text_model.", "model.") == theirs


@pytest.mark.parametrize(
    ("receiver", "donor", "size"),
    [
        ("llava", "llama", 30),
        ("qwen2-vl", "qwen2", 39),
        ("qwen2-vl tied", "qwen2", 38),  # the donor's own head has no counterpart and is ignored
        ("idefics3 tied", "llama tied", 29),
        ("qwen2", "qwen2-vl", 39),  # a VLM as donor: its tower is no matter
        ("idefics3", "idefics3 tied", 30),
    ],
)
def test_who_pairs_with_whom(made: dict[str, Path], receiver: str, donor: str, size: int) -> None:
    assert len(paired(read(made[receiver]), read(made[donor]))) == size


def test_a_tied_donors_embedding_is_its_head(made: dict[str, Path]) -> None:
    pairs = paired(read(made["idefics3"]), read(made["llama tied"]))
    assert pairs["lm_head.weight"] == "model.embed_tokens.weight"


def change(
    made: dict[str, Path],
    tmp_path: Path,
    act: Callable[[dict[str, torch.Tensor]], object],
    config: dict[str, object] | None = None,
    kind: str = "llama",
) -> Path:
    tensors = tensors_of(made[kind])
    act(tensors)
    return rewrite(made[kind], tmp_path / "changed", tensors, config)


def test_other_vocabularies_leave_embedding_and_head_out(
    made: dict[str, Path], tmp_path: Path
) -> None:
    donor = read(tiny_llama(tmp_path / "wide", seed=8, vocab=80))
    pairs = paired(read(made["idefics3"]), donor)
    assert len(pairs) == 28
    assert not any("embed" in name or "head" in name for name in pairs)


def test_other_depth(made: dict[str, Path], tmp_path: Path) -> None:
    donor = read(tiny_llama(tmp_path / "deep", seed=8, layers=4))
    with pytest.raises(
        PairingError,
        match=r"deep has layers 4 \(model\.layers\.\*\), receiver .* has 3 "
        r"\(model\.text_model\.layers\.\*\)",
    ):
        paired(read(made["idefics3"]), donor)


def test_other_width(made: dict[str, Path], tmp_path: Path) -> None:
    donor = read(tiny_llama(tmp_path / "wide", seed=8, hidden=128))
    with pytest.raises(
        PairingError, match=r"has width 128 \(model\.embed_tokens\.weight\), receiver .* has 64"
    ):
        paired(read(made["idefics3"]), donor)


def test_other_shape_of_one_tensor(made: dict[str, Path], tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    donor = change(made, tmp_path, lambda t: t.update({name: torch.ones(99, 64)}))
    with pytest.raises(
        PairingError,
        match=r"'model\.layers\.1\.mlp\.up_proj\.weight' is \[99, 64\], the receiver's "
        r"'model\.text_model\.layers\.1\.mlp\.up_proj\.weight' is \[128, 64\]",
    ):
        paired(read(made["idefics3"]), read(donor))


def test_biases_on_one_side_only(made: dict[str, Path]) -> None:
    with pytest.raises(PairingError, match=r"nothing there fits the donor's '.*\S+_proj\.bias'"):
        paired(read(made["llava"]), read(made["qwen2"]))
    with pytest.raises(PairingError, match=r"it has no counterpart of '.*k_proj\.bias'"):
        paired(read(made["qwen2-vl"]), read(made["llama"]))


def test_a_donors_extra_tensor(made: dict[str, Path], tmp_path: Path) -> None:
    name = "model.layers.2.self_attn.q_norm.weight"
    donor = read(change(made, tmp_path, lambda t: t.update({name: torch.ones(32)})))
    assert donor[1].places[name].part == "norm"
    with pytest.raises(PairingError, match=rf"nothing there fits the donor's '{re.escape(name)}'"):
        paired(read(made["idefics3"]), donor)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("self_attn.q_norm.weight", "norm"),
        ("self_attn.o_proj.bias", "attention"),
        ("attention.wqkv.weight", "attention"),
        ("linear_attn.in_proj.weight", "attention"),
        ("feed_forward.w1.weight", "mlp"),
        ("mlp.experts.3.gate_proj.weight", "mlp"),
        ("block_sparse_moe.gate.weight", "mlp"),
        ("pre_feedforward_layernorm.weight", "norm"),
        ("ffn_norm.weight", "norm"),
        ("ln_1.bias", "norm"),
        ("self_attn.rotary_emb.inv_freq", "other"),
    ],
)
def test_names_inside_a_layer(made: dict[str, Path], tmp_path: Path, name: str, part: str) -> None:
    full = f"model.layers.1.{name}"
    _, anatomy = read(change(made, tmp_path, lambda t: t.update({full: torch.ones(2, 2)})))
    assert anatomy.places[full].part == part
    assert anatomy.places[full].layer == 1
    assert (full in anatomy.mergeable_tensors()) == (part != "other")


@pytest.mark.parametrize(
    "name", ["model.layers.1.mystery.weight", "model.mystery.weight", "score.weight"]
)
def test_what_cannot_be_told_is_named(made: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = change(made, tmp_path, lambda t: t.update({name: torch.ones(2)}))
    with pytest.raises(PairingError, match=f"cannot tell what '{re.escape(name)}' is"):
        read(folder)


def test_no_prefix_at_all(made: dict[str, Path], tmp_path: Path) -> None:
    tensors = {n.removeprefix("model."): t for n, t in tensors_of(made["llama"]).items()}
    donor = read(rewrite(made["llama"], tmp_path / "bare", tensors))
    assert donor[1].language_tower.prefix == ""
    assert len(paired(read(made["idefics3"]), donor)) == 30


def test_layers_must_be_those_of_the_config(made: dict[str, Path], tmp_path: Path) -> None:
    folder = change(made, tmp_path, lambda t: None, {"num_hidden_layers": 5})
    with pytest.raises(
        PairingError, match=r"config says 5 language layers, the tensors model\.layers\.\* have 3"
    ):
        read(folder)


def test_a_gap_in_the_layers(made: dict[str, Path], tmp_path: Path) -> None:
    def act(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".layers.1." in name]:
            del tensors[name]

    with pytest.raises(PairingError, match=r"model\.layers\.1 has no tensors, a layer is missing"):
        read(change(made, tmp_path, act))


def test_width_must_be_that_of_the_config(made: dict[str, Path], tmp_path: Path) -> None:
    folder = change(made, tmp_path, lambda t: None, {"hidden_size": 96})
    with pytest.raises(PairingError, match=r"config says width 96, but '.*' is \[64, 64\]"):
        read(folder)


def test_a_config_without_sizes_is_enough(made: dict[str, Path], tmp_path: Path) -> None:
    """As in llava-hf's older checkpoints: the text config lists only what is no default."""
    config: dict[str, object] = {"text_config": {"model_type": "llama", "vocab_size": 64}}
    folder = change(made, tmp_path, lambda t: None, config, kind="llava")
    assert read(folder)[1].n_layers == 3


def test_no_language_model(made: dict[str, Path], tmp_path: Path) -> None:
    folder = change(made, tmp_path, lambda t: t.pop("model.embed_tokens.weight"))
    with pytest.raises(PairingError, match="one numbered layer stack beside a word embedding"):
        read(folder)


def test_two_language_models(made: dict[str, Path], tmp_path: Path) -> None:
    def act(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {f"twin.{name}": tensor.clone() for name, tensor in tensors.items()}

    with pytest.raises(PairingError, match=r"found model\.layers\.\*, twin\.model\.layers\.\*"):
        read(change(made, tmp_path, act))


def test_quantised_weights(made: dict[str, Path], tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    folder = change(
        made, tmp_path, lambda t: t.update({name: torch.ones(128, 64, dtype=torch.int8)})
    )
    with pytest.raises(PairingError, match=r"'.*up_proj\.weight' has dtype I8; only BF16"):
        read(folder)


def test_several_dtypes_in_a_group(made: dict[str, Path], tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    folder = change(made, tmp_path, lambda t: t.update({name: t[name].bfloat16()}))
    checkpoint, anatomy = read(folder)
    with pytest.raises(
        PairingError, match=r"group 0\.mlp has several dtypes, BF16 \(.*up_proj.*\) and F32 "
    ):
        language_groups(anatomy, checkpoint)


def test_heads(made: dict[str, Path], tmp_path: Path) -> None:
    """A head is tied by the config and equal bytes; without tensor and tie it is missing."""
    embedding = tensors_of(made["llama"])["model.embed_tokens.weight"]
    equal = {"lm_head.weight": embedding.clone()}
    tied = change(made, tmp_path / "a", lambda t: t.update(equal), {"tie_word_embeddings": True})
    checkpoint, anatomy = read(tied)
    assert anatomy.tied_head
    first, *_, last = language_groups(anatomy, checkpoint)
    assert set(first.tensors) == {"model.embed_tokens.weight", "lm_head.weight"}
    assert last.name == "final.norm"
    pairs = paired((checkpoint, anatomy), read(made["llama tied"]))
    assert pairs["lm_head.weight"] == pairs["model.embed_tokens.weight"]

    differs = change(made, tmp_path / "b", lambda t: None, {"tie_word_embeddings": True})
    assert not read(differs)[1].tied_head
    untied = change(made, tmp_path / "c", lambda t: t.update(equal))
    assert not read(untied)[1].tied_head
    lost = change(made, tmp_path / "d", lambda t: t.pop("lm_head.weight"))
    with pytest.raises(PairingError, match=r"no lm_head\.weight, though the config says"):
        read(lost)
