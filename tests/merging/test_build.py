"""The weighted sum against step-by-step oracles, the methods' laws, and whole checkpoints."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import AutoModelForImageTextToText

from fixtures_models import perturbed, rewrite, tensors_of, tiny_idefics3, tiny_llama
from fixtures_slots import DictSlot, merged
from mergefront.config import Donor
from mergefront.errors import CheckpointError, ConfigError, PairingError, UserError
from mergefront.files import whole_folder
from mergefront.merging import build
from mergefront.merging.arithmetic import CPU_CHUNK, weighted_sum
from mergefront.merging.method import BASE_TERM, RECEIVER_TERM, Term
from mergefront.merging.methods import METHODS, method_of
from mergefront.merging.plan import COPY_RECEIVER, check_method, plan_of
from mergefront.merging.recipe import Override, Recipe, identity
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.locate import DonorFolders, ModelFolders, ModelNames, locate_models
from mergefront.models.sources import Sources, check_heads

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


# --- the weighted sum ---------------------------------------------------------------------------


def round_bf16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round finite fp32 to bf16, ties to even, by integer arithmetic on the bits."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


def step_by_step(
    terms: list[torch.Tensor], weights: list[float], dtype: torch.dtype
) -> NDArray[np.float32]:
    """The definition, one fp32 operation of numpy at a time; the result as fp32 values."""
    total: NDArray[np.float32] | None = None
    for term, weight in zip(terms, weights, strict=True):
        if np.float32(weight) == 0:
            continue
        product = term.float().numpy() * np.float32(weight)
        total = product if total is None else total + product
    if total is None:
        return np.zeros(terms[0].shape, np.float32)
    if dtype == torch.bfloat16:
        return round_bf16(total)
    return total.astype(np.float16).astype(np.float32) if dtype == torch.float16 else total


@st.composite
def sums(draw: st.DrawFn) -> tuple[list[torch.Tensor], list[float], torch.dtype]:
    n = draw(st.integers(1, 5))
    size = draw(st.integers(0, 70))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    scale = draw(st.sampled_from([1e-6, 1.0, 50.0]))
    terms = [
        (torch.randn(size, generator=generator) * scale).to(draw(st.sampled_from(DTYPES)))
        for _ in range(n)
    ]
    weight = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 1e-60]), st.floats(-2, 2))
    weights = draw(st.lists(weight, min_size=n, max_size=n))
    return terms, weights, draw(st.sampled_from(DTYPES))


@settings(max_examples=300, deadline=None)
@given(case=sums(), chunk=st.sampled_from([None, 1, 7, 64]))
def test_weighted_sum_is_the_definition(
    case: tuple[list[torch.Tensor], list[float], torch.dtype], chunk: int | None
) -> None:
    terms, weights, dtype = case
    out = torch.full_like(terms[0], math.nan, dtype=dtype)
    weighted_sum(terms, weights, dtype, out, chunk=chunk)
    wanted = torch.from_numpy(step_by_step(terms, weights, dtype)).to(dtype)
    assert torch.equal(out, wanted)


@settings(max_examples=100, deadline=None)
@given(case=sums(), engine=st.sampled_from(DTYPES))
def test_the_engines_dtype_gets_the_checkpoints_values(
    case: tuple[list[torch.Tensor], list[float], torch.dtype], engine: torch.dtype
) -> None:
    terms, weights, dtype = case
    exact, live = torch.empty_like(terms[0], dtype=dtype), torch.empty_like(terms[0], dtype=engine)
    weighted_sum(terms, weights, dtype, exact)
    weighted_sum(terms, weights, dtype, live)
    assert torch.equal(live, exact.to(engine))


def test_neither_chunks_nor_threads_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    terms = [torch.randn(3 * CPU_CHUNK + 5, generator=generator).bfloat16() for _ in range(3)]
    weights = [0.3, -0.7, 1.1]
    threads = torch.get_num_threads()
    results = []
    try:
        for chunk, n in itertools.product((None, 1000, 1 << 30), (1, 2)):
            torch.set_num_threads(n)
            out = torch.empty_like(terms[0])
            weighted_sum(terms, weights, torch.bfloat16, out, chunk=chunk)
            results.append(out)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(out, results[0]) for out in results)


def test_one_term_at_one_is_copied_bit_for_bit() -> None:
    odd = torch.tensor([0.0, -0.0, 1e-45, 3.0, -math.inf, math.nan])
    other = torch.full_like(odd, math.nan)
    out = torch.ones(6)
    weighted_sum([other, odd, other], [0.0, 1.0, 1e-300], torch.float32, out)
    assert torch.equal(out.view(torch.int32), odd.view(torch.int32))


def test_no_term_gives_zeros() -> None:
    out = torch.ones(3)
    weighted_sum([torch.full((3,), math.nan)], [0.0], torch.float32, out)
    assert torch.equal(out, torch.zeros(3))


def test_out_may_be_a_strided_view() -> None:
    terms = [torch.arange(6.0).reshape(2, 3), torch.ones(2, 3)]
    live = torch.zeros(3, 2)
    weighted_sum(terms, [2.0, 0.5], torch.float32, live.T)
    assert torch.equal(live.T, 2 * terms[0] + 0.5)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"term of shape \[2\] for out \[3\]"):
        weighted_sum([torch.ones(2)], [1.0], torch.float32, torch.ones(3))
    with pytest.raises(ValueError, match="1 terms but 2 weights"):
        weighted_sum([torch.ones(2)], [1.0, 1.0], torch.float32, torch.ones(2))


def test_bf16_results_are_nearly_all_correctly_rounded() -> None:
    """fp32 deltas and one rounding: unlike bf16 deltas, which miss one element in six."""
    generator = torch.Generator().manual_seed(1)
    receiver, donor, base = (
        (torch.randn(200_000, generator=generator) * 0.02).bfloat16() for _ in range(3)
    )
    weights = [1.0, 0.37]
    out = torch.empty_like(receiver)
    weighted_sum([receiver, donor.float() - base.float()], weights, torch.bfloat16, out)
    exact = receiver.double() + 0.37 * (donor.double() - base.double())
    correct = round_bf16(exact.numpy().astype(np.float32))
    share = float((out.float().numpy() != correct).mean())
    assert share < 2e-3


# --- methods ------------------------------------------------------------------------------------

DONORS = ("a", "b", "c")
COEFFICIENTS = st.dictionaries(st.sampled_from(DONORS), st.floats(-2, 2))


@pytest.mark.parametrize("name", ["linear", "task_arithmetic"])
@settings(deadline=None)
@given(coefficients=COEFFICIENTS)
def test_weights_fit_terms(name: str, coefficients: dict[str, float]) -> None:
    method = METHODS[name]
    mix = method.mix(coefficients, DONORS, {})
    order = method.terms(DONORS)
    assert [term for term in order if term in mix.terms] == list(mix.terms)
    zero = method.mix(dict.fromkeys(coefficients, 0.0), DONORS, {})
    assert (zero.terms, zero.weights) == ((RECEIVER_TERM,), (1.0,))


@settings(deadline=None)
@given(coefficients=COEFFICIENTS)
def test_linear_weights_sum_to_one(coefficients: dict[str, float]) -> None:
    weights = METHODS["linear"].mix(coefficients, DONORS, {}).weights
    assert math.fsum(weights) == pytest.approx(1.0, abs=1e-12)


@settings(deadline=None)
@given(coefficients=COEFFICIENTS)
def test_task_arithmetic_from_the_receiver_is_linear(coefficients: dict[str, float]) -> None:
    linear, other = method_of("linear"), method_of("task_arithmetic", {"anchor": "receiver"})
    assert other.terms(DONORS) == linear.terms(DONORS)
    assert other.mix(coefficients, DONORS, {}) == linear.mix(coefficients, DONORS, {})


def test_the_founding_papers_formula() -> None:
    """base + lambda tau_vlm + (1 - lambda) tau_reason, arXiv:2505.05464 section 2."""
    generator = torch.Generator().manual_seed(0)
    named = {name: torch.randn(50, generator=generator) for name in ("receiver", "base", "a")}
    named["base:a"] = named["base"]
    method = method_of("task_arithmetic", {"scale_receiver": True})
    terms = method.terms(("a",))
    assert [str(term) for term in terms] == ["receiver", "delta:receiver", "delta:a"]
    row = {"receiver": 0.9, "a": 0.1}
    out = merged(method, DictSlot(named), row, ("a",), torch.float32)
    vlm, base, donor = (named[name].double() for name in ("receiver", "base", "a"))
    wanted = base + 0.9 * (vlm - base) + 0.1 * (donor - base)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-6, atol=1e-6)
    linear = 0.9 * vlm + 0.1 * donor  # the base cancels where weights sum to one
    torch.testing.assert_close(wanted, linear, rtol=1e-12, atol=1e-12)


def test_which_base_a_delta_is_taken_from() -> None:
    method, delta = METHODS["task_arithmetic"], Term("delta", "a")
    assert method.reads(delta) == ("a", "base:a")
    assert method.of({"anchor": "base"}).reads(delta) == ("a", "base")
    assert method.reads(Term("delta", "receiver")) == ("receiver", "base")
    assert method.reads(BASE_TERM) == ("base",)


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("linear", {"anchor": "base"}, "method linear has no parameter 'anchor'; it has: none"),
        ("task_arithmetic", {"density": 1}, "no parameter 'density'; it has: anchor, scale_rec"),
        ("task_arithmetic", {"anchor": "moon"}, "anchor is 'moon', expected one of 'own', 'base'"),
        ("task_arithmetic", {"scale_receiver": 1}, "scale_receiver is 1, expected one of False"),
        (
            "task_arithmetic",
            {"scale_receiver": True, "anchor": "receiver"},
            "scale_receiver needs a base",
        ),
    ],
)
def test_illegal_parameters(name: str, parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        method_of(name, parameters)


@pytest.mark.parametrize("name", ["linear", "task_arithmetic"])
def test_a_receivers_coefficient_needs_scaling(name: str) -> None:
    with pytest.raises(ConfigError, match="receiver"):
        METHODS[name].check_row({"receiver": 0.5}, DONORS)


# --- sources ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("zoo")
    base = tiny_llama(root / "base", seed=0)
    every = ("attention", "mlp", "norm", "embedding", "head")
    return {
        "receiver": tiny_idefics3(root / "receiver", seed=1),
        "base": base,
        "a": perturbed(base, root / "a", seed=2, scale=0.1, parts=every),
        "b": perturbed(base, root / "b", seed=3, scale=0.1),
        "tied receiver": tiny_idefics3(root / "tied", seed=4, tied=True),
        "tied base": tiny_llama(root / "tied-base", seed=5, tied=True),
        "wide": tiny_llama(root / "wide", seed=6, vocab=80),
        "bf16": tiny_idefics3(root / "bf16", seed=1, dtype=torch.bfloat16),
    }


def models(
    zoo: dict[str, Path], receiver: str = "receiver", base: str | None = "base"
) -> ModelNames:
    donors = {alias: Donor(model=str(zoo[alias])) for alias in ("a", "b")}
    return ModelNames(receiver=str(zoo[receiver]), base=base and str(zoo[base]), donors=donors)


def opened(recipe: Recipe) -> Sources:
    return Sources.open(locate_models(recipe.models))


def refer(zoo: dict[str, Path], receiver: str, base: str | None, **donors: str) -> ModelFolders:
    return ModelFolders(
        str(zoo[receiver]),
        base and str(zoo[base]),
        {alias: DonorFolders(str(zoo[name])) for alias, name in donors.items()},
    )


def test_refs_survive_json(zoo: dict[str, Path]) -> None:
    found = locate_models(models(zoo))
    assert ModelFolders.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_sources_speak_the_receivers_names(zoo: dict[str, Path]) -> None:
    own = ModelFolders(
        str(zoo["receiver"]),
        str(zoo["base"]),
        {"a": DonorFolders(str(zoo["a"])), "b": DonorFolders(str(zoo["b"]), str(zoo["a"]))},
    )
    sources = Sources.open(own)
    sources.check_finite()
    mine, theirs = (
        "model.text_model.layers.2.mlp.up_proj.weight",
        "model.layers.2.mlp.up_proj.weight",
    )
    for source, folder, name in [
        ("receiver", "receiver", mine),
        ("a", "a", theirs),
        ("base", "base", theirs),
        ("base:a", "base", theirs),
        ("base:b", "a", theirs),
    ]:
        wanted = Checkpoint.open(zoo[folder]).tensor(name)
        assert torch.equal(sources.tensor(source, mine), wanted)
    with pytest.raises(UserError, match="no source 'c'"):
        sources.tensor("c", mine)


def test_a_method_that_needs_a_base(zoo: dict[str, Path]) -> None:
    sources = Sources.open(refer(zoo, "receiver", None, a="a"))
    check_method(sources, method_of("linear"))
    check_method(sources, method_of("task_arithmetic", {"anchor": "receiver"}))
    with pytest.raises(UserError, match="donor 'a' has no base, its own or common"):
        check_method(sources, method_of("task_arithmetic"))
    with pytest.raises(UserError, match="the models name no base"):
        check_method(sources, method_of("task_arithmetic", {"anchor": "base"}))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_donor_with_nan(zoo: dict[str, Path], tmp_path: Path, value: float) -> None:
    tensors = tensors_of(zoo["a"])
    tensors["model.layers.1.self_attn.k_proj.weight"][3, 4] = value
    broken = rewrite(zoo["a"], tmp_path / "broken", tensors)
    sources = Sources.open(refer({**zoo, "x": broken}, "receiver", "base", a="a", bad="x"))
    words = (
        r"donor 'bad' .*broken: tensor 'model\.layers\.1\.self_attn\.k_proj\.weight' "
        r"holds NaN or infinity \(in model\.safetensors\)"
    )
    with pytest.raises(CheckpointError, match=words):
        sources.check_finite()
    with pytest.raises(CheckpointError, match=words):
        sources.tensor("bad", "model.text_model.layers.1.self_attn.k_proj.weight")


def test_another_vocabulary(zoo: dict[str, Path]) -> None:
    sources = Sources.open(refer(zoo, "receiver", "base", wide="wide"))
    check_heads(sources, {"attention", "mlp", "norm"})
    with pytest.raises(PairingError, match=r"embed_tokens\.weight' cannot be merged: .*64, 64"):
        check_heads(sources, {"embedding"})
    with pytest.raises(PairingError, match=r"donor 'wide' .* has nothing to pair with 'lm_head"):
        sources.tensor("wide", "lm_head.weight")


def test_a_tied_receiver_and_untied_donors(zoo: dict[str, Path]) -> None:
    sources = Sources.open(refer(zoo, "tied receiver", "tied base", a="a"))
    check_heads(sources, {"mlp", "head"})  # a tied head claims nothing
    with pytest.raises(PairingError, match=r"head is tied to its embedding, but .* 'a' .* is not"):
        check_heads(sources, {"embedding"})
    check_heads(Sources.open(refer(zoo, "tied receiver", "tied base")), {"embedding", "head"})


# --- whole checkpoints --------------------------------------------------------------------------


def written(recipe: Recipe, out: Path, **options: Any) -> tuple[dict[str, Any], Sources]:
    sources = opened(recipe)
    with whole_folder(out) as folder:
        account = build.write(sources, recipe, folder, **options)
    return account, sources


@pytest.mark.parametrize("receiver", ["receiver", "tied receiver", "bf16"])
def test_the_identity_is_the_receiver_bit_for_bit(
    zoo: dict[str, Path], tmp_path: Path, receiver: str
) -> None:
    rows = {"a": {"*": 0.0, "1.mlp": -0.0}, "receiver": {"*": 1.0}}
    named = models(zoo, receiver)
    for number, recipe in enumerate([
        identity(named),
        Recipe("task_arithmetic", named, rows),
        Recipe("linear", named, rows),
    ]):  # fmt: skip
        account, _ = written(recipe, tmp_path / f"{number}")
        assert account["merged"] == []
        before, after = Checkpoint.open(zoo[receiver]), Checkpoint.open(tmp_path / f"{number}")
        assert dict(before.headers).keys() == dict(after.headers).keys()
        for name in before.headers:
            assert torch.equal(after.tensor(name), before.tensor(name))
            assert after.headers[name].dtype == before.headers[name].dtype
        for file in zoo[receiver].iterdir():
            if file.suffix != ".safetensors":
                assert (tmp_path / f"{number}" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_one_donor_at_one_is_that_donor_bit_for_bit(
    zoo: dict[str, Path], tmp_path: Path, method: str
) -> None:
    parameters = {"anchor": "receiver"} if method == "task_arithmetic" else {}
    table = {"a": {"*": 1.0, "embedding": 1.0, "head": 1.0}, "b": {"*": 0.0}}
    account, sources = written(
        Recipe(method, models(zoo), table, parameters), tmp_path / "out", shard_bytes=50_000
    )
    out, donor = Checkpoint.open(tmp_path / "out"), Checkpoint.open(zoo["a"])
    for mine, theirs in sources.models["a"].pairs.items():
        assert torch.equal(out.tensor(mine), donor.tensor(theirs))
    assert sorted(account["merged"]) == sorted(sources.anatomy.mergeable_tensors())


@pytest.mark.parametrize("receiver", ["receiver", "bf16"])
def test_merged_tensors_are_the_definition(
    zoo: dict[str, Path], tmp_path: Path, receiver: str
) -> None:
    table = {"b": {"*": 0.3, "*.mlp": -0.4}, "a": {"*": 0.7, "1.mlp": 1.25, "0.norm": 0.0}}
    recipe = Recipe("task_arithmetic", models(zoo, receiver), table)
    done: list[tuple[int, int]] = []
    account, sources = written(
        recipe, tmp_path / "out", shard_bytes=70_000, progress=lambda *at: done.append(at)
    )
    out = Checkpoint.open(tmp_path / "out")
    assert sorted(account["merged"] + account["copied"]) == sorted(sources.receiver.headers)
    assert [one for one, _ in done] == sorted({one for one, _ in done})
    assert done[-1] == (sources.receiver.written_bytes(),) * 2
    files = {alias: Checkpoint.open(zoo[alias]) for alias in ("base", "a", "b")}
    resolved = recipe.resolved(sources.group_index)
    group_of = {name: group.name for group in sources.groups for name in group.tensors}
    for name in out.headers:
        mine = sources.receiver.tensor(name)
        if name in account["copied"]:
            assert torch.equal(out.tensor(name), mine)
            continue
        other = sources.models["base"].pairs[name]
        base = files["base"].tensor(other).float()
        deltas = [files[alias].tensor(other).float() - base for alias in ("a", "b")]
        weights = [resolved[alias].get(group_of[name], 0.0) for alias in ("a", "b")]
        wanted = step_by_step([mine, *deltas], [1.0, *weights], mine.dtype)
        assert torch.equal(out.tensor(name).float(), torch.from_numpy(wanted))
    towers = {sources.anatomy.places[name].tower for name in account["merged"]}
    assert towers == {"language"}


@pytest.mark.parametrize("receiver", ["receiver", "tied receiver"])
def test_transformers_loads_what_was_written(
    zoo: dict[str, Path], tmp_path: Path, receiver: str
) -> None:
    written(
        Recipe("linear", models(zoo, receiver), {"a": {"*": 0.2}}),
        tmp_path / "out",
        shard_bytes=100_000,
    )
    _, info = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info.values())


def test_overrides_come_last(zoo: dict[str, Path]) -> None:
    overrides = (
        Override(groups=("*.attention", "2.mlp"), source="base"),
        Override(groups=("0.attention",), source="zero"),
        Override(groups=("1.mlp",), source="b"),
        Override(groups=("0.mlp",), source="receiver"),
    )
    recipe = Recipe("task_arithmetic", models(zoo), {"a": {"*": 0.5}}, overrides=overrides)
    sources = opened(recipe)
    plan = plan_of(recipe, sources)
    contents = plan.contents
    assert contents["1.attention"] == contents["2.mlp"] == "base"
    assert contents["0.attention"] == "zero"
    assert contents["0.mlp"] == contents["embedding"] == COPY_RECEIVER
    assert contents["0.norm"] == {"a": 0.5}
    name = "model.text_model.layers.{}.{}.weight"
    for layer, module, source in [(1, "self_attn.q_proj", "base"), (1, "mlp.up_proj", "b")]:
        tensor = name.format(layer, module)
        (copy,) = build.combined_pieces(sources, plan, tensor, source)
        assert torch.equal(copy, sources.tensor(source, tensor).reshape(-1))
    (zeros,) = build.combined_pieces(sources, plan, name.format(0, "self_attn.q_proj"), "zero")
    assert not zeros.any()


def test_an_override_by_a_base_that_is_not_there(zoo: dict[str, Path]) -> None:
    overrides = (Override(groups=("0.mlp",), source="base"),)
    recipe = Recipe("linear", models(zoo, base=None), overrides=overrides)
    with pytest.raises(UserError, match="the models name no base"):
        plan_of(recipe, opened(recipe))


def test_touched_parts(zoo: dict[str, Path]) -> None:
    table = {"a": {"*.mlp": 0.1, "embedding": 0.0, "final.norm": 1.0}}
    recipe = Recipe("linear", models(zoo), table)
    plan = plan_of(recipe, opened(recipe))
    assert plan.touched_parts == {"mlp", "norm"}
    assert not plan.untouched
    assert plan_of(identity(models(zoo)), opened(recipe)).untouched


def test_a_recipe_that_touches_what_cannot_be_merged(zoo: dict[str, Path], tmp_path: Path) -> None:
    named = ModelNames(
        receiver=str(zoo["receiver"]), donors={"wide": Donor(model=str(zoo["wide"]))}
    )
    with pytest.raises(PairingError, match=r"the vocabulary of donor 'wide'"):
        written(Recipe("linear", named, {"wide": {"embedding": 0.1}}), tmp_path / "out")
    assert not list(tmp_path.iterdir())
    written(Recipe("linear", named, {"wide": {"*": 0.1}}), tmp_path / "out")


def test_overflow_is_named(zoo: dict[str, Path], tmp_path: Path) -> None:
    half = {name: tensor.half() * 100 for name, tensor in tensors_of(zoo["receiver"]).items()}
    named = models({**zoo, "half": rewrite(zoo["receiver"], tmp_path / "half", half)}, "half")
    recipe = Recipe("task_arithmetic", named, {"a": {"1.mlp": 1e6}})
    with pytest.raises(
        CheckpointError,
        match=r"merged tensor 'model\.text_model\.layers\.1\.mlp\S+' overflows float16",
    ):
        written(recipe, tmp_path / "out")
