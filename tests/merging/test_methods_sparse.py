"""Trimmed, dropped and sign-electing methods against the papers' equations, in fp64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import Tensor

from agreement import agree
from fixtures_deltas import NAME, RECEIVER, SHAPE, Array, largest, ours, sources
from mergefront.errors import ConfigError
from mergefront.merging.method import Term
from mergefront.merging.methods import method_of, thresholds
from mergefront.merging.methods.dare import LEVELS, noise
from mergefront.merging.methods.della import TOP

ROW = {"a": 0.625, "b": 0.375}  # products with the deltas are exact in fp32
TRIMMED = ("ties", "breadcrumbs", "breadcrumbs_ties")
ELECTING = ("ties", "breadcrumbs_ties", "dare_ties", "della")


# --- the papers' equations, entry by entry, in fp64 ---------------------------------------------


def thinned(method: str, delta: Array, source: str, parameters: Mapping[str, Any]) -> Array:
    density = parameters["density"]
    if method == "ties":
        return delta * largest(delta, density)
    if method in ("breadcrumbs", "breadcrumbs_ties"):
        gamma = min(parameters["gamma"], 1 - density)
        return delta * (largest(delta, density + gamma) - largest(delta, gamma))
    codes = noise(parameters.get("seed", 0), source, NAME, torch.Size(delta.shape)).numpy()
    if method in ("dare_linear", "dare_ties"):
        return np.asarray(delta * (codes < density * LEVELS) / density)
    rank = (np.apply_along_axis(rankdata, -1, np.abs(delta)) - 1) / (delta.shape[-1] - 1)
    keep = density + parameters["epsilon"] * (2 * np.rint(rank * TOP) / TOP - 1)
    return np.asarray(delta * (codes < keep * LEVELS) / keep)


def elected(votes: Sequence[Array], weights: Sequence[float], normalize: bool) -> Array:
    """Sign by sign; the mean is over the effective number of those that agree."""
    merged = np.zeros_like(votes[0])
    for at in np.ndindex(merged.shape):
        entries = [(w * vote[at], abs(w)) for vote, w in zip(votes, weights, strict=True)]
        sign = np.sign(sum(value for value, _ in entries))
        agree = [(value, w) for value, w in entries if value != 0 and np.sign(value) == sign]
        if agree:
            number = sum(w for _, w in agree) / max(w for _, w in agree) if normalize else 1.0
            merged[at] = sum(value for value, _ in agree) / number
    return merged


def transcribed(
    method: str,
    named: Mapping[str, Tensor],
    row: Mapping[str, float],
    parameters: Mapping[str, Any],
) -> Array:
    whole = {name: tensor.double().numpy() for name, tensor in named.items()}
    scaled = parameters.get("scale_receiver", False)
    origin = whole["base" if scaled else "receiver"]
    anchor = whole["receiver" if parameters.get("anchor") == "receiver" else "base"]
    weights = {"receiver": row.get("receiver", 1.0)} if scaled else {}
    weights |= {name: value for name, value in row.items() if name != "receiver"}
    votes = [thinned(method, whole[name] - anchor, name, parameters) for name in weights]
    if method in ELECTING:
        return origin + elected(votes, list(weights.values()), parameters.get("normalize", True))
    return origin + sum(w * vote for w, vote in zip(weights.values(), votes, strict=True))


CASES: list[tuple[str, dict[str, Any]]] = [
    *[("ties", {"density": d, "normalize": n}) for d in (0.2, 0.5, 1.0) for n in (True, False)],
    *[("breadcrumbs", {"density": d, "gamma": g}) for d, g in [(0.5, 0.1), (0.9, 0.2), (1.0, 0.1)]],
    *[("breadcrumbs_ties", {"density": 0.6, "gamma": 0.1, "normalize": n}) for n in (True, False)],
    *[("dare_linear", {"density": d, "seed": 3}) for d in (0.25, 0.5, 1.0)],
    *[("dare_ties", {"density": 0.5, "normalize": n}) for n in (True, False)],
    *[("della_linear", {"density": 0.5, "epsilon": e}) for e in (0.0, 0.15, 0.4)],
    *[("della", {"density": 0.625, "epsilon": 0.25, "normalize": n}) for n in (True, False)],
]


@pytest.mark.parametrize("more", [{"anchor": "receiver"}, {}, {"scale_receiver": True}])
@pytest.mark.parametrize(("method", "parameters"), CASES)
def test_the_papers_equations(
    method: str, parameters: dict[str, Any], more: dict[str, Any]
) -> None:
    named = sources(1, "abc", anchor=more.get("anchor", "base"))
    row = {"a": 0.625, "b": -0.375, "c": 0.5}
    if "scale_receiver" in more:
        row["receiver"] = 1.25
    together = parameters | more
    wanted = transcribed(method, named, row, together)
    found = ours(method, named, row, together)
    agree(method, "the paper's equations, in fp64", found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("method", "parameters"), CASES)
def test_rounded_once_and_nearly_always_correctly(
    method: str, parameters: dict[str, Any], dtype: torch.dtype
) -> None:
    """Against the fp64 result rounded: never two units in the last place off, hardly ever one."""
    named = sources(18, "ab", anchor="receiver")
    together = RECEIVER | parameters
    exact = torch.from_numpy(transcribed(method, named, ROW, together))
    found = ours(method, named, ROW, together, dtype).double()
    correct = exact.to(dtype).double()
    unit = 2.0 ** (correct.abs().clamp(min=2.0**-14).log2().floor()) * torch.finfo(dtype).eps
    assert bool(((found - correct).abs() <= 1.01 * unit).all())
    assert int((found != correct).sum()) <= 0.02 * found.numel()


# --- laws of single methods ---------------------------------------------------------------------


def test_with_one_delta_ties_is_trimmed_task_arithmetic() -> None:
    named = sources(6, "a")
    delta = named["a"] - named["base"]
    table = thresholds.table(named["a"], named["base"])
    wanted = named["receiver"] + thresholds.trimmed(delta, table, 0.3) * 0.7
    for normalize in (True, False):
        parameters = {"density": 0.3, "normalize": normalize}
        assert torch.equal(ours("ties", named, {"a": 0.7}, parameters), wanted)


@pytest.mark.parametrize("method", ["dare_linear", "della_linear", "breadcrumbs"])
@pytest.mark.parametrize("scaled", [{}, {"anchor": "base"}])
def test_at_full_density_sums_are_task_arithmetic(method: str, scaled: dict[str, Any]) -> None:
    named = sources(7, "abc")
    row = {"a": 0.7, "b": -0.31, "c": 1.0}
    parameters = {"density": 1.0, **({"epsilon": 0.2} if method == "della_linear" else {})}
    found = ours(method, named, row, parameters | scaled)
    assert torch.equal(found, ours("task_arithmetic", named, row, scaled))


@pytest.mark.parametrize("method", ELECTING)
def test_electing_methods_mirror(method: str) -> None:
    """Deltas negated, the merge moves as far the other way."""
    named = {name: t for name, t in sources(8, "abc").items() if not name.startswith("base")}
    mirrored = {name: 2 * named["receiver"] - t for name, t in named.items()}
    row = {"a": 0.625, "b": 0.375, "c": 0.5}
    moves = [ours(method, one, row) - named["receiver"] for one in (named, mirrored)]
    torch.testing.assert_close(moves[0], -moves[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ELECTING)
@pytest.mark.parametrize("normalize", [True, False])
def test_a_coefficient_going_to_zero_loses_its_influence(method: str, normalize: bool) -> None:
    named = sources(9, "ab")
    parameters = RECEIVER | {"normalize": normalize}
    without = ours(method, named, {"a": 0.5}, parameters)
    largest_delta = float((named["b"] - named["receiver"]).abs().max())
    for small in (1e-3, 1e-6):
        with_it = ours(method, named, {"a": 0.5, "b": small}, parameters)
        # b may outvote a where a's own vote is smaller still, and is scaled up by at most 1 / 0.35
        assert float((with_it - without).abs().max()) <= 8 * small * largest_delta + 1e-6


@pytest.mark.parametrize("method", [*ELECTING, "dare_linear", "paper_ties", "paper_dare_linear"])
def test_with_nobody_taking_part_the_base_is_left(method: str) -> None:
    named = sources(19, "ab")
    parameters = {} if method.startswith("paper") else {"scale_receiver": True}
    found = ours(method, named, {"receiver": 0.0, "a": 0.0}, parameters)
    assert torch.equal(found, named["base"])


@pytest.mark.parametrize("method", ELECTING)
def test_a_vanishing_coefficient_is_finite(method: str) -> None:
    named = sources(20, "ab")
    found = ours(method, named, {"a": 1.0, "b": 1e-45})
    assert torch.equal(found, ours(method, named, {"a": 1.0}))


@pytest.mark.parametrize("method", TRIMMED)
def test_density_grows_the_kept_set(method: str) -> None:
    named = sources(10, "a")
    before = torch.zeros(SHAPE, dtype=torch.bool)
    counts = []
    for density in (0.0, 0.1, 0.35, 0.7, 0.9):
        parameters = {"density": density} | ({} if method == "ties" else {"gamma": 0.1})
        moved = ours(method, named, {"a": 1.0}, parameters) != named["receiver"]
        assert bool((moved | ~before).all())
        before = moved
        counts.append(int(moved.sum()))
    assert counts == [round(d * moved.numel()) for d in (0.0, 0.1, 0.35, 0.7, 0.9)]


# --- parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "parameters", "words"),
    [
        ("ties", {"density": 1.2}, r"method ties: density is 1\.2, expected a number in \[0\.0, 1"),
        ("ties", {"gamma": 0.1}, "method ties has no parameter 'gamma'; it has: anchor, scale_rec"),
        ("ties", {"normalize": 1}, "normalize is 1, expected one of True, False"),
        ("dare_ties", {"seed": 1.5}, r"dare_ties: seed is 1\.5, expected an integer"),
        ("dare_ties", {"seed": -1}, r"seed is -1, expected a number in \[0, "),
        ("della", {"epsilon": 0.7}, r"epsilon is 0\.7, expected a number in \[0\.0, 0\.5\]"),
        ("breadcrumbs", {"gamma": "x"}, "gamma is 'x', expected a number in"),
        ("breadcrumbs", {"normalize": True}, "breadcrumbs has no parameter 'normalize'"),
        ("paper_ties", {"normalize": True}, "paper_ties has no parameter 'normalize'"),
        ("paper_dare_ties", {"rescale": True}, "paper_dare_ties has no parameter 'rescale'"),
        ("paper_layer_swap", {"base_layer_num": 2.5}, r"base_layer_num is 2\.5, expected an integ"),
        ("paper_ties", {"anchor": "receiver"}, "own task vector takes part and needs a base"),
        ("ties", {"scale_receiver": True, "anchor": "receiver"}, "takes part and needs a base"),
    ],
)
def test_illegal_parameters(method: str, parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        method_of(method, parameters)


def test_terms_come_source_by_source() -> None:
    method = method_of("della", {"scale_receiver": True})
    assert [str(term) for term in method.terms(("a",))] == [
        *("receiver", "base", "delta:receiver", "noise:receiver", "rank:receiver"),
        *("delta:a", "noise:a", "rank:a"),
    ]
    assert method.reads(Term("noise", "a")) == ("receiver",)
    assert method.reads(Term("rank", "a")) == ("a", "base:a")
    row = {"a": 0.0, "receiver": 0.5}
    with pytest.raises(ConfigError, match="its own weights are not scaled"):
        method_of("della").check_row(row, ("a",))
    method.check_row(row, ("a",))
