"""Trimmed, dropped and sign-electing methods against mergekit and PEFT, deviations asserted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from peft.utils import merge_utils
from torch import Tensor

from agreement import agree, remember
from fixtures_deltas import NAME, RECEIVER, SHAPE, ours, sources
from fixtures_models import perturbed, tensors_of, tiny_llama
from mergefront.config import Donor
from mergefront.merging import build
from mergefront.merging.methods.dare import LEVELS, noise
from mergefront.merging.methods.della import TOP, ranks
from mergefront.merging.recipe import Recipe
from mergefront.models.locate import ModelNames, locate_models
from mergefront.models.sources import Sources
from oracles_mergekit import masks_from, mergekit

DROPPED = ("dare_linear", "dare_ties", "della_linear", "della")
ELECTING = ("ties", "breadcrumbs_ties", "dare_ties", "della")


# --- mergekit as a peer -------------------------------------------------------------------------


def theirs(method: str, named: Mapping[str, Tensor], **parameters: Any) -> Tensor:
    """mergekit's merge with the receiver as the base that deltas are taken from and added to."""
    tensors = {name: t for name, t in named.items() if len(name) == 1 or name == "receiver"}
    return mergekit(method, tensors, "receiver", **parameters)


PEERS: list[tuple[str, dict[str, Any]]] = [
    *[("ties", {"density": d}) for d in (0.1, 0.5, 0.9, 1.0)],
    *[
        ("breadcrumbs", {"density": d, "gamma": g})
        for d, g in [(0.5, 0.1), (0.9, 0.01), (0.9, 0.3)]
    ],
    *[("breadcrumbs_ties", {"density": d, "gamma": 0.1}) for d in (0.3, 0.7)],
    *[("dare_linear", {"density": d}) for d in (0.25, 0.5)],
    *[("dare_ties", {"density": d}) for d in (0.25, 0.5)],
    *[("della_linear", {"density": 0.5, "epsilon": e}) for e in (0.125, 0.25)],
    *[("della", {"density": 0.5, "epsilon": e}) for e in (0.125, 0.25)],
]


def drawn(named: Mapping[str, Tensor], seed: int = 0) -> list[Tensor]:
    return [noise(seed, alias, NAME, named[alias].shape) for alias in named if len(alias) == 1]


@pytest.mark.parametrize(("method", "parameters"), PEERS)
@pytest.mark.parametrize("donors", ["a", "ab", "abc"])
def test_mergekit_at_any_weights_with_sums(
    method: str, parameters: dict[str, Any], donors: str
) -> None:
    """Not normalized and not rescaled, mergekit's merge is ours; its masks are fed with ours.

    Its majority of an exact tie is positive, ours elects nobody: those entries are left out here
    and looked at below.
    """
    named = sources(2, donors, anchor="receiver")
    row = dict(zip(donors, (0.625, 0.375, 0.25), strict=False))
    extra = {"rescale": False} if method in DROPPED else {}
    more = {"normalize": False} if method in ELECTING else {}
    with masks_from(drawn(named) if method in DROPPED else [], LEVELS):
        wanted = theirs(method, named, weight=row, **parameters, normalize=False, rescale=False)
    found = ours(method, named, row, RECEIVER | parameters | more | extra)
    off = (found - wanted).abs() > 1e-5
    if method in ELECTING:
        cancelled = off & (found == named["receiver"])
        assert int(cancelled.sum()) <= 5e-3 * off.numel()
        off &= ~cancelled
    assert int(off.sum()) <= (2 if method.startswith("della") else 0)  # its ranks are not rounded
    same = (found - wanted).abs() <= 1e-5
    remember(method, "mergekit 0.1.5, entries of equal reading", found[same], wanted[same])


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_mergekits_normalized_ties_is_ours_at_equal_weights(weight: float) -> None:
    """Its division by the weights leaves lambda alone to say how strongly."""
    named = sources(3, "abc", anchor="receiver")
    wanted = theirs("ties", named, weight=1.0, density=0.5, lambda_=weight)
    found = ours("ties", named, dict.fromkeys("abc", weight), RECEIVER | {"density": 0.5})
    elsewhere = found != named["receiver"]
    agree("ties", "mergekit 0.1.5", found[elsewhere], wanted[elsewhere], rtol=1e-6, atol=1e-6)


def test_where_mergekits_normalized_ties_differs() -> None:
    """It takes a lone delta in full however small its weight; we take weight times delta."""
    named = {name: torch.tensor([value]) for name, value in [("receiver", 0.0), ("a", 1.0)]}
    named["b"] = torch.tensor([0.0])
    row = {"a": 0.25, "b": 1.0}
    assert theirs("ties", named, weight=row, density=1.0).item() == 1.0
    assert ours("ties", named, row, RECEIVER | {"density": 1.0}).item() == 0.25


def test_where_votes_cancel_mergekit_takes_the_positive_side() -> None:
    """sgn(0) = 0 in the paper: nobody is elected."""
    named = {"receiver": torch.zeros(2), "a": torch.tensor([1.0, -1.0])}
    named["b"] = -named["a"]
    row = {"a": 0.5, "b": 0.5}
    parameters = {"density": 1.0, "normalize": False}
    assert theirs("ties", named, weight=row, **parameters).tolist() == [0.5, 0.5]
    assert ours("ties", named, row, RECEIVER | parameters).tolist() == [0.0, 0.0]


def test_mergekit_breaks_ties_of_magnitude_where_we_keep_both() -> None:
    named = {"receiver": torch.zeros(4), "a": torch.tensor([2.0, 1.0, -1.0, 0.5])}
    assert int((theirs("ties", named, weight=1.0, density=0.5) != 0).sum()) == 2
    assert ours("ties", named, {"a": 1.0}, RECEIVER | {"density": 0.5}).tolist() == [2, 1, -1, 0]


@pytest.mark.parametrize("method", DROPPED)
def test_mergekit_rescales_to_the_l1_norm_and_we_by_the_probability(method: str) -> None:
    """Same masks: mergekit's dropped delta has its former L1 norm, ours its mean in expectation."""
    named = sources(4, "a", anchor="receiver")
    parameters = {"density": 0.5} | ({"epsilon": 0.25} if method.startswith("della") else {})
    delta = named["a"] - named["receiver"]
    with masks_from(drawn(named), LEVELS):
        peer = theirs(method, named, weight=1.0, **parameters, rescale=True, normalize=False)
    peer = peer - named["receiver"]
    mine = ours(method, named, {"a": 1.0}, RECEIVER | parameters) - named["receiver"]
    assert float(peer.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-4)
    kept = (mine != 0) & (peer != 0)
    scale = mine[kept] / delta[kept]
    if method.startswith("dare"):
        torch.testing.assert_close(scale, torch.full_like(scale, 2.0), rtol=1e-5, atol=0)
    else:
        keep = 0.25 + 0.5 * ranks(delta)[kept] / TOP
        torch.testing.assert_close(scale, 1 / keep, rtol=1e-4, atol=0)
    assert not torch.allclose(mine, peer, rtol=1e-3)


@pytest.mark.parametrize(
    ("method", "parameters", "peers"),
    [
        ("ties", {"density": 0.4}, {"lambda": 0.5, "weight": 1.0}),
        ("breadcrumbs_ties", {"density": 0.6, "gamma": 0.1, "normalize": False}, {"weight": 0.5}),
    ],
)
def test_whole_models_as_mergekit_writes_them(
    tmp_path: Path, method: str, parameters: dict[str, Any], peers: dict[str, Any]
) -> None:
    """Three tiny Llamas through mergekit's own planner, and through our writer."""
    base = tiny_llama(tmp_path / "base", seed=0)
    every = ("attention", "mlp", "norm", "embedding", "head")
    donors = {
        alias: perturbed(base, tmp_path / alias, seed=seed, scale=0.1, parts=every)
        for alias, seed in (("a", 1), ("b", 2))
    }
    config = {
        "merge_method": method,
        "base_model": str(base),
        "dtype": "float32",
        "parameters": parameters | peers,
        "models": [{"model": str(folder)} for folder in donors.values()],
    }
    options = MergeOptions(copy_tokenizer=False, quiet=True)
    run_merge(MergeConfiguration.model_validate(config), str(tmp_path / "peer"), options)
    models = ModelNames(
        receiver=str(base),
        base=str(base),
        donors={alias: Donor(model=str(folder)) for alias, folder in donors.items()},
    )
    groups = Sources.open(locate_models(models)).groups
    table = {alias: {group.name: 0.5 for group in groups} for alias in donors}
    recipe = Recipe(method, models, table, parameters)
    (tmp_path / "ours").mkdir()
    build.write(Sources.open(locate_models(recipe.models)), recipe, tmp_path / "ours")
    wanted, found = tensors_of(tmp_path / "peer"), tensors_of(tmp_path / "ours")
    assert wanted.keys() == found.keys()
    differ = sum(int(((one - found[name]).abs() > 1e-6).sum()) for name, one in wanted.items())
    moved = sum(int((one != found[name]).sum()) for name, one in tensors_of(base).items())
    assert moved > 10_000
    assert differ <= 2e-3 * moved  # entries in a threshold's own bin, 2^-12 wide


# --- the founding paper's variants --------------------------------------------------------------


@pytest.mark.parametrize(("a1", "a2"), [(1.6, 0.2), (1.0, 0.2), (0.8, 0.4), (1.0, 1.0)])
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.filterwarnings("ignore:The density")
def test_paper_ties_is_pefts(a1: float, a2: float, density: float) -> None:
    named = sources(14, "a")
    vectors = [named[name] - named["base"] for name in ("receiver", "a")]
    wanted = named["base"] + merge_utils.ties(vectors, torch.tensor([a1, a2]), density)
    found = ours("paper_ties", named, {"receiver": a1, "a": a2}, {"density": density})
    agree("paper_ties", "PEFT, as the authors call it", found, wanted, rtol=1e-6, atol=1e-6)


def test_where_both_agree_paper_ties_halves() -> None:
    named = {"base": torch.zeros(3), "receiver": torch.tensor([1.0, 1.0, -1.0])}
    named |= {"a": torch.tensor([1.0, -2.0, 1.0]), "base:a": torch.zeros(3)}
    found = ours("paper_ties", named, {"receiver": 1.6, "a": 0.2}, {"density": 1.0})
    torch.testing.assert_close(found, torch.tensor([0.9, -0.4, 0.2]))  # a tie: the positive one


@pytest.mark.parametrize("density", [0.25, 0.5])
@pytest.mark.parametrize("method", ["paper_dare_linear", "paper_dare_ties"])
def test_paper_dare_does_not_rescale(method: str, density: float) -> None:
    """PEFT's functions with the authors' pruning, which discards the division's result."""
    named = sources(15, "a")
    masked = [
        (named[name] - named["base"]) * (noise(0, name, NAME, torch.Size(SHAPE)) < density * LEVELS)
        for name in ("receiver", "a")
    ]
    weights = torch.tensor([1.25, 0.25])
    peft: Callable[..., Tensor] = (
        merge_utils.task_arithmetic if method == "paper_dare_linear" else _pefts_election
    )
    wanted = named["base"] + peft(masked, weights)
    found = ours(method, named, {"receiver": 1.25, "a": 0.25}, {"density": density})
    agree(method, "PEFT, as the authors call it", found, wanted, rtol=1e-6, atol=1e-6)


def _pefts_election(vectors: list[Tensor], weights: Tensor) -> Tensor:
    stacked = torch.stack(vectors)
    mask = merge_utils.calculate_majority_sign_mask(stacked)
    return merge_utils.disjoint_merge(stacked * weights.view(-1, 1, 1), mask)


def test_paper_dare_linear_is_dare_without_rescaling() -> None:
    named, row = sources(16, "ab"), {"receiver": 1.2, "a": 0.2, "b": 0.1}
    same = {"density": 0.2, "scale_receiver": True, "rescale": False}
    assert torch.equal(
        ours("paper_dare_linear", named, row, {}), ours("dare_linear", named, row, same)
    )


@pytest.mark.parametrize("layer", [0, 5, 6, 31, None])
def test_paper_layer_swap_keeps_six_layers(layer: int | None) -> None:
    named, row = sources(17, "a"), {"a": 0.1}
    found = ours("paper_layer_swap", named, row, {}, layer=layer)
    if layer is not None and layer <= 5:
        assert torch.equal(found, named["receiver"])
    else:
        assert torch.equal(found, ours("linear", named, row, {}))
    whole = 0.9 * named["receiver"].double() + 0.1 * named["a"].double()
    wanted = named["receiver"] if layer is not None and layer <= 5 else whole
    agree("paper_layer_swap", "the paper's equations, in fp64", found, wanted, rtol=1e-6, atol=1e-6)
    everywhere = ours("paper_layer_swap", named, row, {"base_layer_num": -1}, layer=layer)
    assert torch.equal(everywhere, ours("linear", named, row, {}))
