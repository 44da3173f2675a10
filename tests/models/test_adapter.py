"""Adapters as donors: PEFT is the oracle, bits do not depend on threads, the rest is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from fixtures_adapters import make_adapter
from fixtures_models import tensors_of, tiny_idefics3, tiny_llama
from mergefront.config import Donor, EngineConfig
from mergefront.engine.transformers import TransformersEngine
from mergefront.errors import CheckpointError, PairingError
from mergefront.jobs.export import merge
from mergefront.merging import build
from mergefront.merging.plan import plan_of
from mergefront.merging.recipe import Recipe
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.exact_product import LowRankUpdate, exact_product
from mergefront.models.locate import DonorFolders, ModelFolders, ModelNames, locate_models
from mergefront.models.sources import Sources

Q = "model.layers.{}.self_attn.q_proj"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("zoo")
    return {
        "receiver": tiny_idefics3(root / "receiver", seed=1),
        "base": tiny_llama(root / "base", seed=0),
        "bf16": tiny_llama(root / "bf16", seed=0, dtype=torch.bfloat16),
        "tied": tiny_llama(root / "tied", seed=0, tied=True),
    }


def merged_by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """PEFT's own merge, all in fp64."""
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float64)
    merged = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False)
    merged = merged.to(torch.float64).merge_and_unload()
    return dict(merged.state_dict())


def opened(zoo: dict[str, Path], adapter: Path, model: str = "base", **names: Any) -> Sources:
    donor = DonorFolders(str(zoo[model]), adapter=str(adapter))
    return Sources.open(ModelFolders(str(zoo["receiver"]), names.get("base"), {"x": donor}))


@pytest.mark.parametrize("model", ["base", "bf16"])
@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 21),
        ({"use_rslora": True}, 21),
        ({"rank_pattern": {"layers.1.self_attn.q_proj": 7, ".*up_proj": 2}}, 21),
        ({"rank_pattern": {"q_proj": 6}, "alpha_pattern": {r"layers.\d.mlp.down_proj": 3.5}}, 21),
        ({"use_dora": True}, 21),
        ({"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}, 5),
        ({"target_modules": ["embed_tokens", "q_proj"]}, 4),
        ({"target_modules": r".*layers\.[02].*up_proj", "lora_alpha": 1}, 2),
    ],
    ids=["plain", "rslora", "ranks", "alphas", "dora", "whole tensors", "embedding", "some"],
)
def test_a_donor_is_what_peft_makes_of_it(
    zoo: dict[str, Path], tmp_path: Path, settings: dict[str, Any], count: int, model: str
) -> None:
    adapter = make_adapter(zoo[model], tmp_path / "adapter", **settings)
    wanted = merged_by_peft(zoo[model], adapter)
    before = tensors_of(zoo[model])
    sources = opened(zoo, adapter, model)
    sources.check_finite()
    adapter_of_x = sources.models["x"].adapter
    assert adapter_of_x is not None
    changed = 0
    for name, own in sources.models["x"].pairs.items():
        found = sources.tensor("x", name)
        if torch.equal(wanted[own].float(), before[own].float()):
            assert torch.equal(found, before[own])
            assert found.dtype == before[own].dtype
            continue
        changed += 1
        exact = wanted[own]
        if own in adapter_of_x.changed:
            assert found.dtype == torch.float32
        error = (found.double() - exact).abs()
        assert bool((error <= exact.abs() * 2**-23 + 1e-12).all()), own  # fp64 noise of peft's sum
        assert float((found != exact.float()).double().mean()) < 1e-3, own
    assert changed == count


def test_a_bias_of_b_shifts_the_models(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", seed=0)
    config = json.loads((base / "config.json").read_text()) | {"attention_bias": True}
    (base / "config.json").write_text(json.dumps(config))
    tensors = tensors_of(base)
    for layer in range(3):
        for module in ("q_proj", "k_proj", "v_proj", "o_proj"):
            weight = tensors[f"model.layers.{layer}.self_attn.{module}.weight"]
            tensors[f"model.layers.{layer}.self_attn.{module}.bias"] = torch.randn(len(weight))
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], lora_bias=True)
    wanted = merged_by_peft(base, adapter)
    sources = Sources.open(
        ModelFolders(str(base), None, {"x": DonorFolders(str(base), None, str(adapter))})
    )
    for layer in range(3):
        name = f"{Q.format(layer)}.bias"
        assert torch.allclose(sources.tensor("x", name).double(), wanted[name], rtol=1e-7)
        assert not torch.equal(sources.tensor("x", name), tensors[name])


def test_the_delta_of_an_adapter_is_from_its_own_model_unless_a_base_is_named(
    zoo: dict[str, Path], tmp_path: Path
) -> None:
    adapter = make_adapter(zoo["base"], tmp_path / "adapter", target_modules=["q_proj"])
    alone = opened(zoo, adapter)
    own, other = "model.text_model.layers.0.self_attn.q_proj.weight", "lm_head.weight"
    delta = alone.tensor("x", own) - alone.tensor("base:x", own)
    factors = load_file(adapter / "adapter_model.safetensors")
    prefix = f"base_model.model.{Q.format(0)}.lora_"
    exact = 3.0 * factors[f"{prefix}B.weight"].double() @ factors[f"{prefix}A.weight"].double()
    assert torch.allclose(delta.double(), exact, atol=2e-7, rtol=0)
    assert torch.equal(alone.tensor("x", other), alone.tensor("base:x", other))
    named = opened(zoo, adapter, base=str(zoo["tied"]))
    assert str(named.models["base:x"].checkpoint.folder) == str(zoo["tied"])


def test_export_merges_an_adapter_as_it_would_its_merged_model(
    zoo: dict[str, Path], tmp_path: Path
) -> None:
    """The folder that PEFT would save, in fp32, gives the same checkpoint but for last bits."""
    adapter = make_adapter(zoo["base"], tmp_path / "adapter")
    folder = shutil.copytree(zoo["base"], tmp_path / "folder")
    wanted = {n: t.float() for n, t in merged_by_peft(zoo["base"], adapter).items()}
    save_file(wanted, folder / "model.safetensors", metadata={"format": "pt"})

    def made(donor: Donor) -> dict[str, torch.Tensor]:
        models = ModelNames(
            receiver=str(zoo["receiver"]), base=str(zoo["base"]), donors={"x": donor}
        )
        recipe = Recipe("task_arithmetic", models, {"x": {"*": 0.3}})
        sources = Sources.open(locate_models(recipe.models))
        out = tmp_path / f"out-{donor.adapter is None}"
        out.mkdir()
        build.write(sources, recipe, out)
        return tensors_of(out)

    mine = made(Donor(model=str(zoo["base"]), adapter=str(adapter)))
    theirs = made(Donor(model=str(folder)))
    assert any(not torch.equal(mine[n], t) for n, t in tensors_of(zoo["receiver"]).items())
    for name, tensor in mine.items():
        assert torch.allclose(tensor, theirs[name], rtol=1e-6, atol=1e-7), name


def test_engine_and_export_agree_bit_for_bit(zoo: dict[str, Path], tmp_path: Path) -> None:
    """An adapter and rows by token, in a receiver of another dtype."""
    receiver = tiny_idefics3(tmp_path / "receiver", seed=1, dtype=torch.bfloat16)
    adapter = make_adapter(
        zoo["base"], tmp_path / "adapter", target_modules=["q_proj", "embed_tokens"]
    )
    (adapter / "README.md").write_text("---\nlicense: mit\n---\n")
    models = ModelNames(
        receiver=str(receiver),
        base=str(zoo["base"]),
        donors={"x": Donor(model=str(zoo["base"]), adapter=str(adapter))},
        vocabulary="by_token",
    )
    for method, table in [
        ("task_arithmetic", {"x": {"*": 0.7, "embedding": 0.4, "head": 0.3}}),
        ("linear", {"x": {"*": 0.3, "1.attention": 1.0, "embedding": 1.0}}),
    ]:
        recipe = Recipe(method, models, table)
        sources = Sources.open(locate_models(models))
        engine = TransformersEngine(EngineConfig(), sources.folders)
        engine.load(plan_of(recipe, sources))
        merge(recipe, sources, tmp_path / method)
        fresh = TransformersEngine(EngineConfig(), tmp_path / method)
        assert engine.parameter_hashes() == fresh.parameter_hashes()
        assert engine.parameter_hashes() != _hashes(receiver, sources)
        provenance = json.loads((tmp_path / method / "provenance.json").read_text())
        assert provenance["vocabulary"]["matched_in_all"] == 64
        assert "adapter/adapter_model.safetensors" in provenance["sources"]["x"]
        card = (tmp_path / method / "README.md").read_text()
        assert f"- {adapter}\n" in card
        assert "adapter of x: mit" in card


def _hashes(folder: Path, sources: Sources) -> dict[str, str]:
    engine = TransformersEngine(EngineConfig(), folder)
    return engine.parameter_hashes()


# --- arithmetic ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 3, 16, 100, 256])
def test_a_product_has_the_same_bits_in_any_order_and_with_any_threads(rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    spread = torch.exp(3 * torch.randn(rank, 300, generator=generator))
    left = torch.randn(257, rank, generator=generator)
    right = torch.randn(rank, 300, generator=generator) * spread
    order = torch.randperm(rank, generator=generator)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(exact_product(left, right))
            found.append(exact_product(left[:, order], right[order]))
            found.append(
                torch.cat([exact_product(left[:100], right), exact_product(left[100:], right)])
            )
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, found[0]) for one in found)
    exact = left.double() @ right.double()
    bound = left.abs().amax(1)[:, None].double() * right.abs().amax(0).double() * rank
    assert float(((found[0] - exact).abs() / bound).max()) < 2.0**-41
    if rank > 1:  # the plain product's own bits do depend on the order
        assert not torch.equal(left[:, order].double() @ right[order].double(), exact)


@pytest.mark.parametrize("dora", [False, True])
def test_an_update_depends_neither_on_chunks_nor_on_which_rows_are_asked(
    dora: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(65, 33, generator=generator).bfloat16()
    left, right = torch.randn(65, 4, generator=generator), torch.randn(4, 33, generator=generator)
    size = torch.rand(65, generator=generator) if dora else None
    update = LowRankUpdate(left, right, 0.75, size)
    whole = update.apply(weight)
    rows = slice(7, 40)
    assert torch.equal(update.apply(weight[rows], rows), whole[rows])
    monkeypatch.setattr("mergefront.models.exact_product.CHUNK", 40)
    assert torch.equal(update.apply(weight), whole)
    if not dora:
        assert torch.equal(LowRankUpdate(left * 0, right, 0.75).apply(weight), weight.float())


def test_scaling_the_factors_scales_the_product() -> None:
    left, right = torch.randn(20, 8), torch.randn(8, 30)
    assert torch.equal(
        exact_product(left * 2.0**-90, right * 2.0**70), exact_product(left, right) * 2.0**-20
    )
    assert not exact_product(torch.zeros(2, 3), torch.ones(3, 4)).any()


# --- what is refused ----------------------------------------------------------------------------


def edited(adapter: Path, to: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    shutil.copytree(adapter, to)
    tensors = load_file(to / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, to / "adapter_model.safetensors")
    return to


@pytest.fixture(scope="module")
def plain(zoo: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(zoo["base"], tmp_path_factory.mktemp("plain") / "adapter")


def move(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if old in name]:
            tensors[name.replace(old, new)] = tensors.pop(name)

    return change


def first_to(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        key = f"base_model.model.{name}"
        tensors[key] = make(tensors[key]).contiguous()

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            move("model.layers.2.", "model.visual.blocks.2."),
            r"'base_model\.model\.model\.visual\.blocks\.2\.\S+' is for .* has no such tensor",
        ),
        (
            move("layers.2.", "layers.9."),
            r"layers\.9\.\S+, and the language tower of .*base has no",
        ),
        (move("q_proj", "qkv_proj"), r"qkv_proj\.weight', and the language tower"),
        (
            first_to(f"{Q.format(1)}.lora_A.weight", lambda t: t[:, :60]),
            r"layers\.1\.self_attn\.q_proj\.lora_A\.weight' is \[4, 60\] .* does not fit",
        ),
        (
            first_to(f"{Q.format(1)}.lora_A.weight", lambda t: t[:3]),
            r"lora_A\.weight' is \[3, 64\] and .*\[64, 4\]: their product does not fit",
        ),
        (first_to(f"{Q.format(1)}.lora_A.weight", lambda t: t.to(torch.int8)), "has dtype I8"),
        (
            lambda t: t.pop(f"base_model.model.{Q.format(0)}.lora_B.weight"),
            r"q_proj\.lora_A\.weight' has no counterpart",
        ),
        (
            lambda t: t.update({"base_model.model.model.extra.weight": torch.ones(3)}),
            r"'base_model\.model\.model\.extra\.weight' is for",
        ),
        (
            lambda t: t.update({"base_model.model.model.norm.weight": torch.ones(3)}),
            r"norm\.weight' is \[3\], the model's 'model\.norm\.weight' \[64\]",
        ),
    ],
    ids=["vision", "layer", "fused", "width", "rank", "int", "alone", "stranger", "whole"],
)
def test_an_adapter_for_other_modules_is_named(
    zoo: dict[str, Path],
    plain: Path,
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], None],
    words: str,
) -> None:
    with pytest.raises(PairingError, match=r"adapter .*broken: tensor .*" + words):
        opened(zoo, edited(plain, tmp_path / "broken", change))


def test_an_adapter_of_a_tied_head_and_of_another_width(
    zoo: dict[str, Path], tmp_path: Path
) -> None:
    adapter = make_adapter(zoo["base"], tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    with pytest.raises(PairingError, match=r"'lm_head\.weight', and the language tower of .*tied"):
        opened(zoo, adapter, "tied")
    narrow = tiny_llama(tmp_path / "narrow", seed=3, hidden=32)
    other = make_adapter(narrow, tmp_path / "other", target_modules=["q_proj"])
    with pytest.raises(PairingError, match=r"does not fit 'model\.layers\.0\.self_attn\.q_proj"):
        opened(zoo, other)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_type": "VERA"}, r"peft_type is 'VERA', expected LORA"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication is"),
        ({"target_parameters": ["experts.up"]}, "target_parameters is"),
        ({"r": 8}, r"has rank 4, but adapter_config\.json gives it r 8"),
        ({"lora_alpha": None}, r"gives it r 4 and lora_alpha None"),
        ({"use_dora": True}, "does not agree with use_dora"),
    ],
)
def test_what_the_config_says_is_refused(
    zoo: dict[str, Path], plain: Path, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "odd"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | fields))
    with pytest.raises((CheckpointError, PairingError), match=r"odd.*" + words):
        opened(zoo, folder)


def test_another_kind_of_peft_is_refused(zoo: dict[str, Path], tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(zoo["base"])
    get_peft_model(model, VeraConfig(target_modules=["q_proj"], r=2)).save_pretrained(
        str(tmp_path / "v")
    )
    with pytest.raises(CheckpointError, match="peft_type is 'VERA', expected LORA"):
        opened(zoo, tmp_path / "v")


def test_nan_pickles_and_missing_files(zoo: dict[str, Path], plain: Path, tmp_path: Path) -> None:
    name = f"{Q.format(2)}.lora_B.weight"
    broken = edited(plain, tmp_path / "nan", first_to(name, lambda t: t * torch.nan))
    sources = opened(zoo, broken)
    words = rf"adapter .*nan: tensor 'base_model\.model\.{name}' holds NaN or infinity"
    with pytest.raises(CheckpointError, match=words):
        sources.check_finite()
    with pytest.raises(CheckpointError, match=words):
        sources.tensor("x", "model.text_model.layers.2.self_attn.q_proj.weight")
    models = ModelNames(
        receiver=str(zoo["receiver"]),
        donors={"x": Donor(model=str(zoo["base"]), adapter=str(broken))},
    )
    with pytest.raises(CheckpointError, match=words):
        merge(Recipe("linear", models, {"x": {"*": 0.1}}), sources, tmp_path / "made" / "out")
    assert not list((tmp_path / "made").iterdir())
    (broken / "adapter_model.safetensors").rename(broken / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"only pickled weights \(adapter_model\.bin\)"):
        opened(zoo, broken)
    (broken / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is missing"):
        opened(zoo, broken)
    with pytest.raises(CheckpointError, match=r"base: adapter_config\.json is missing"):
        opened(zoo, zoo["base"])


def test_an_adapter_given_as_a_model_is_told_what_to_write(
    plain: Path, zoo: dict[str, Path]
) -> None:
    words = rf"holds an adapter \(adapter_model\.safetensors\), not a model\n.*model: {zoo['base']}"
    with pytest.raises(CheckpointError, match=words + rf", adapter: {plain}"):
        Checkpoint.open(plain)


def test_hashes_and_refs_know_the_adapter(zoo: dict[str, Path], plain: Path) -> None:
    sources = opened(zoo, plain)
    found = sources.file_hashes()["x"]
    assert {"model.safetensors", "adapter/adapter_model.safetensors"} <= set(found)
    assert "adapter/adapter_config.json" in found
    assert (
        ModelFolders.from_dict(json.loads(json.dumps(sources.folders.to_dict()))) == sources.folders
    )


def test_a_revision_needs_an_adapter() -> None:
    with pytest.raises(ValueError, match="adapter_revision is given, but no adapter"):
        Donor(model="x", adapter_revision="abc")
