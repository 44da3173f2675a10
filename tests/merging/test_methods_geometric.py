"""Methods on spheres, in closed form and by element, against mergekit and the papers' equations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import PerInputValues, TensorGroup
from mergekit.merge_methods.karcher import karcher_merge_tensors
from mergekit.merge_methods.slerp import slerp as peer_slerp
from torch import Tensor

from agreement import agree
from fixtures_slots import DictSlot, merged
from mergefront.errors import ConfigError
from mergefront.merging.methods import METHODS, arcee_fusion, method_of
from mergefront.merging.methods.gram import gram, slerp_weights
from oracles_mergekit import mergekit

F32 = torch.float32


def models(n_donors: int, seed: int = 0, spread: float = 1.0, shape: tuple[int, ...] = (24, 40)):  # type: ignore[no-untyped-def]
    """Receiver, base and donors a, b, c: one random tensor each, around a common base."""
    generator = torch.Generator().manual_seed(seed)

    def near(scale: float) -> Tensor:
        return torch.randn(shape, generator=generator) * scale

    base = near(1.0)
    named = {"base": base, "receiver": base + near(spread)}
    for alias in "abc"[:n_donors]:
        named[alias] = base + near(spread)
        named[f"base:{alias}"] = base
    return named


def ours(
    name: str,
    named: Mapping[str, Tensor],
    row: Mapping[str, float],
    parameters: Mapping[str, Any] | None = None,
    dtype: torch.dtype = F32,
    **slot: Any,
) -> Tensor:
    donors = [source for source in named if len(source) == 1]
    return merged(method_of(name, parameters), DictSlot(named, **slot), row, donors, dtype)


def peer(
    name: str,
    tensors: Sequence[Tensor],
    base: int | None,
    per: Mapping[str, Sequence[float]] = {},
    **shared: Any,
) -> Tensor:
    """What mergekit makes of the same tensors; `per`: parameters with a value an input."""
    group = TensorGroup.from_tensors(list(tensors), base_index=base)
    entries = group.non_base if base is not None else group.entries
    given = {
        key: PerInputValues([(e.id, v) for e, v in zip(entries, values, strict=True)])
        for key, values in per.items()
    }
    merged: Tensor = registry.get(name).merge_group(group, **given, **shared)
    return merged


@pytest.mark.parametrize("donors", ["a", "abc"])
def test_linear_and_task_arithmetic_are_mergekits(donors: str) -> None:
    named = models(len(donors), spread=0.3)
    tensors = [named[k] for k in ("receiver", *donors)]
    c = dict(zip(donors, (0.2, 0.3, -0.1), strict=False))
    sources = {k: named[k] for k in ("receiver", *donors)}
    weights = {"receiver": 1.0 - sum(c.values()), **c}
    theirs = mergekit("linear", sources, weight=weights, normalize=False)
    agree("linear", "mergekit 0.1.5", ours("linear", named, c), theirs, rtol=1e-6, atol=1e-6)
    shared = {"normalize": False, "rescale": False, "int8_mask": False, "lambda": 1.0}
    weight = {"weight": list(c.values()), "density": [1.0] * len(c)}
    theirs = peer("task_arithmetic", tensors, 0, weight, **shared)
    found = ours("task_arithmetic", named, c, {"anchor": "receiver"})
    agree("task_arithmetic", "mergekit 0.1.5", found, theirs, rtol=1e-6, atol=1e-6)


def test_ours_is_rounded_once_and_mergekits_delta_twice() -> None:
    """bf16 models: mergekit rounds the delta first, and misses the correct rounding often."""
    generator = torch.Generator().manual_seed(9)
    base = torch.randn(256, 256, generator=generator).mul_(0.02)
    named = {"receiver": base + 0.004 * torch.randn(base.shape, generator=generator)}
    named["a"] = base + 0.004 * torch.randn(base.shape, generator=generator)
    named |= {"base": base, "base:a": base}
    named = {source: tensor.bfloat16() for source, tensor in named.items()}
    whole = {source: tensor.double() for source, tensor in named.items()}
    exact = (whole["receiver"] + 0.3 * (whole["a"] - whole["base"])).bfloat16()
    found = ours("task_arithmetic", named, {"a": 0.3}, dtype=torch.bfloat16)
    assert float((found != exact).float().mean()) < 1e-3
    exact = (whole["receiver"] + 0.3 * (whole["a"] - whole["receiver"])).bfloat16()
    theirs = peer(
        "task_arithmetic", [named["receiver"], named["a"]], 0, {"weight": [0.3], "density": [1.0]},
        normalize=False, rescale=False, int8_mask=False, **{"lambda": 1.0},
    )  # fmt: skip
    assert 0.1 < float((theirs != exact).float().mean()) < 0.3


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9, 1.3])
def test_slerp_is_mergekits(t: float) -> None:
    named = models(1)
    theirs = peer_slerp(
        torch.tensor([t]), named["receiver"].reshape(1, -1), named["a"].reshape(1, -1)
    )
    agree(
        "slerp",
        "mergekit 0.1.5",
        ours("slerp", named, {"a": t}).reshape(1, -1),
        theirs,
        rtol=1e-5,
        atol=1e-6,
    )


def test_slerp_follows_the_arc_where_mergekit_takes_the_chord() -> None:
    """Above a cosine of 0.9995 mergekit is linear: off by up to theta^2 / 8 of the tensor."""
    named = models(1, spread=0.01)
    receiver, donor = (named[k].double() for k in ("receiver", "a"))
    theta = math.acos(float((receiver * donor).sum() / receiver.norm() / donor.norm()))
    assert math.cos(theta) > 0.9995
    arc = (math.sin(0.5 * theta) / math.sin(theta)) * (receiver + donor)
    chord = peer_slerp(
        torch.tensor([0.5]), named["receiver"].reshape(1, -1), named["a"].reshape(1, -1)
    )
    found = ours("slerp", named, {"a": 0.5}, dtype=torch.float64).double()
    assert (found - arc).norm() / arc.norm() < 1e-7
    off = float((chord.reshape(arc.shape).double() - arc).norm() / arc.norm())
    assert off == pytest.approx(theta**2 / 8, rel=0.05)


def test_slerp_where_there_is_no_arc() -> None:
    x = torch.tensor([1.0, 2.0])
    for other in (x, -x, 2 * x, torch.zeros(2)):
        assert slerp_weights(gram((x, other)), 0.25) == (0.75, 0.25)


@pytest.mark.parametrize(("r", "c"), [(1.0, 0.2), (0.3, 0.7), (2.0, 1.0)])
def test_nuslerp_is_mergekits_on_task_vectors(r: float, c: float) -> None:
    named = models(1, spread=0.3)
    theirs = peer(
        "nuslerp", [named[k] for k in ("base", "receiver", "a")], 0, {"weight": [r, c]},
        nuslerp_row_wise=False, nuslerp_flatten=True,
    )  # fmt: skip
    found = ours("nuslerp", named, {"receiver": r, "a": c})
    agree("nuslerp", "mergekit 0.1.5", found, theirs, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("origin", ["zero", "base"])
@pytest.mark.parametrize("donors", [1, 2, 3])
def test_multislerp_is_mergekits(donors: int, origin: str) -> None:
    named = models(donors, spread=0.5)
    given = dict(zip("abc", (0.2, 0.3, 0.15), strict=False))
    weights = [1.0 - sum(list(given.values())[:donors]), *list(given.values())[:donors]]
    tensors = [named[k] for k in ("receiver", *"abc"[:donors])]
    base = [named["base"]] if origin == "base" else []
    theirs = peer(
        "multislerp", base + tensors, 0 if base else None, {"weight": weights},
        normalize_weights=True, eps=1e-8,
    )  # fmt: skip
    row = {k: given[k] for k in "abc"[:donors]}
    found = ours("multislerp", named, row, {"origin": origin})
    agree("multislerp", "mergekit 0.1.5", found, theirs, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("donors", [1, 2, 3])
def test_karcher_is_mergekits_run_to_its_end(donors: int) -> None:
    named = models(donors, spread=1.5)
    tensors = [named[k].double() for k in ("receiver", *"abc"[:donors])]
    weights = [0.4, 0.3, 0.2, 0.1][: donors + 1]
    weights = [w / sum(weights) for w in weights]
    theirs = karcher_merge_tensors(tensors, weights, max_iter=200, tol=1e-12)
    found = ours("karcher", named, dict(zip("abc", weights[1:], strict=False)))
    agree("karcher", "mergekit 0.1.5", found.double(), theirs, rtol=2e-6, atol=1e-6)


def test_mergekits_karcher_stops_early() -> None:
    """Its defaults (10 steps, 1e-5) leave a relative error that ours has not."""
    named = models(2, spread=3.0, seed=3)
    tensors = [named[k].double() for k in ("receiver", "a", "b")]
    exact = karcher_merge_tensors(tensors, [1 / 3] * 3, max_iter=500, tol=1e-14)
    early = peer("karcher", tensors, None, max_iter=10, tol=1e-5)
    row = {"a": 1 / 3, "b": 1 / 3}
    found = ours("karcher", named, row, dtype=torch.float64)
    error = [float((one.double() - exact).norm() / exact.norm()) for one in (early, found)]
    assert error[1] < 1e-6
    assert error[0] > 0.0


@pytest.mark.parametrize("donors", [2, 3])
def test_model_stock_is_mergekits_at_equal_coefficients(donors: int) -> None:
    named = models(donors, spread=0.4)
    tensors = [named[k] for k in ("receiver", *"abc"[:donors])]
    theirs = peer("model_stock", tensors, 0, filter_wise=False)
    found = ours(
        "model_stock", named, dict.fromkeys("abc"[:donors], 1 / donors), {"anchor": "receiver"}
    )
    agree("model_stock", "mergekit 0.1.5", found, theirs, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("t", [1e-3, 0.05, 0.5])
def test_nearswap_is_mergekits(t: float) -> None:
    named = models(1, spread=0.3)
    theirs = peer("nearswap", [named["receiver"], named["a"]], 0, t=t)
    agree(
        "nearswap",
        "mergekit 0.1.5",
        ours("nearswap", named, {"a": t}),
        theirs,
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("shape", [(24, 40), (64,)])
def test_arcee_fusion_is_mergekits(shape: tuple[int, ...]) -> None:
    named = models(1, spread=0.3, shape=shape)
    theirs = peer("arcee_fusion", [named["receiver"], named["a"]], 0)
    found = ours("arcee_fusion", named, {"a": 1.0})
    agree("arcee_fusion", "mergekit 0.1.5", found, theirs, rtol=1e-5, atol=1e-6)
    moved = float((found != named["receiver"]).float().mean())
    assert 0.0 < moved < 0.5


def test_arcee_fusions_quartiles_are_elements_in_order() -> None:
    scores = torch.randn(1001, generator=torch.Generator().manual_seed(1))
    ordered = scores.sort().values
    assert arcee_fusion.quartiles(scores) == tuple(float(ordered[i]) for i in (250, 500, 750))


@pytest.mark.parametrize("donors", [1, 2, 3])
def test_ram_is_mergekits_at_one(donors: int) -> None:
    named = sparse(donors)
    tensors = [named[k] for k in ("receiver", *"abc"[:donors])]
    row, anchor = dict.fromkeys("abc"[:donors], 1.0), {"anchor": "receiver"}
    theirs = peer("ram", tensors, 0, epsilon=1e-5)
    agree("ram", "mergekit 0.1.5", ours("ram", named, row, anchor), theirs, rtol=1e-5, atol=1e-6)
    theirs = peer("ramplus_tl", tensors, 0, r=0.4, alpha=0.6, epsilon=1e-5)
    found = ours("ram_plus", named, row, anchor | {"r": 0.4, "alpha": 0.6})
    agree("ram_plus", "mergekit 0.1.5", found, theirs, rtol=1e-5, atol=1e-6)


def sparse(donors: int) -> dict[str, Tensor]:
    """Donors that changed a random third of the receiver's elements each."""
    generator = torch.Generator().manual_seed(5)
    receiver = torch.randn(24, 40, generator=generator)
    named = {"base": receiver, "receiver": receiver}
    for alias in "abc"[:donors]:
        mask = torch.rand(24, 40, generator=generator) < 0.33
        named[alias] = receiver + mask * torch.randn(24, 40, generator=generator)
        named[f"base:{alias}"] = receiver
    return named


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("donors", [2, 3])
def test_sce_is_mergekits_at_one(donors: int, density: float) -> None:
    named = models(donors, spread=0.3)
    tensors = [named[k] for k in ("receiver", *"abc"[:donors])]
    theirs = peer("sce", tensors, 0, select_topk=density)
    row = dict.fromkeys("abc"[:donors], 1.0)
    found = ours("sce", named, row, {"anchor": "receiver", "density": density})
    agree("sce", "mergekit 0.1.5", found, theirs, rtol=1e-5, atol=1e-5)


def test_sce_of_one_donor_keeps_all_of_it() -> None:
    named = models(1, spread=0.3)
    found = ours("sce", named, {"a": 1.0}, {"anchor": "receiver", "density": 0.5})
    torch.testing.assert_close(found, named["a"], rtol=1e-5, atol=1e-6)
    theirs = peer("sce", [named["receiver"], named["a"]], 0, select_topk=0.5)
    assert torch.equal(theirs, named["receiver"])


def test_frank_is_the_papers_closed_form() -> None:
    """A literal transcription, layer norms over two tensors, in fp64."""
    one, other = models(1, seed=1, spread=0.2), models(1, seed=2, spread=0.4, shape=(7, 5))
    decay, layer, n_layers = 0.3, 2, 4
    found = ours(
        "frank", one, {"a": 1.0}, {"decay": decay}, layer=layer, n_layers=n_layers,
        others={"other": other},
    )  # fmt: skip
    d = {k: [m[k].double() - m["base"].double() for m in (one, other)] for k in ("receiver", "a")}
    square = {k: sum(float(t.square().sum()) for t in v) for k, v in d.items()}
    w_v = math.exp(-decay * layer) / sum(math.exp(-decay * j) for j in range(n_layers))
    w_r = 1 - w_v
    below = w_v * square["receiver"] + w_r * square["a"]
    wanted = (
        one["base"].double()
        + w_v * square["receiver"] / below * d["receiver"][0]
        + w_r * square["a"] / below * d["a"][0]
    )
    agree("frank", "the paper's equations, in fp64", found.double(), wanted, rtol=1e-6, atol=1e-6)


def test_layer_swap_copies_the_highest() -> None:
    method, donors = METHODS["layer_swap"], ("a", "b")
    rows = [({"a": 0.4}, "receiver"), ({"a": 0.5}, "a"), ({"a": 0.6, "b": 0.7}, "b"),
            ({"a": 0.7, "b": 0.7}, "a"), ({"b": 1.0}, "b")]  # fmt: skip
    named = models(2)
    for row, source in rows:
        assert method.copied_source(row, donors) == source
        agree("layer_swap", "copies, bit for bit", ours("layer_swap", named, row), named[source],
              rtol=0, atol=0)  # fmt: skip


def test_gram_matrices_are_exact_and_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(700, 900, generator=generator).bfloat16() for _ in range(3)]
    flat = np.stack([t.double().numpy().reshape(-1) for t in tensors])
    np.testing.assert_allclose(gram(tensors), flat @ flat.T, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("slerp", {"a": 0.1, "b": 0.2}, "slerp takes one donor in a group, this group has a, b"),
        ("nuslerp", {"a": -0.1}, "cannot be normalised"),
        ("nuslerp", {"a": 0.0, "receiver": 0.0}, "cannot be normalised"),
        ("nearswap", {"a": -1e-3}, "is a distance"),
        ("karcher", {"receiver": 0.5}, "its own weights are not scaled"),
    ],
)
def test_coefficients_that_make_no_sense(name: str, row: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        METHODS[name].check_row(row, ("a", "b"))


def test_model_stock_needs_two_donors() -> None:
    with pytest.raises(ConfigError, match="needs two donors or more, found 1"):
        METHODS["model_stock"].check_row({"a": 0.5}, ("a",))
