"""Trim thresholds against sorts; noise and ranks against what they are to be."""

from __future__ import annotations

import hashlib
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from torch import Tensor

from fixtures_deltas import NAME, SHAPE, largest, ours, sources
from mergefront.merging.methods import thresholds
from mergefront.merging.methods.dare import LEVELS, noise
from mergefront.merging.methods.della import TOP, ranks

# --- thresholds ---------------------------------------------------------------------------------


@st.composite
def deltas(draw: st.DrawFn) -> Tensor:
    n = draw(st.integers(1, 400))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    delta = torch.randn(n, generator=generator) * draw(st.sampled_from([1e-30, 1e-4, 1.0, 1e20]))
    if draw(st.booleans()):
        delta[torch.rand(n, generator=generator) < 0.7] = 0
    return delta.to(draw(st.sampled_from([torch.float32, torch.bfloat16]))).float()


@settings(max_examples=60, deadline=None)
@given(delta=deltas(), step=st.integers(0, 1000))
def test_a_threshold_is_that_of_a_sort_up_to_its_bin(delta: Tensor, step: int) -> None:
    table = thresholds.table(delta, torch.zeros_like(delta))
    kept = thresholds.trimmed(delta, table, step / 1000)
    descending = np.sort(np.abs(delta.numpy()))[::-1]
    k = max(1, step * delta.numel() // 1000) if step else 0
    sure = 0 if k == 0 else descending[k - 1]
    size = np.abs(delta.numpy())
    must = size >= sure if k else np.zeros(len(size), bool)
    may = size > sure * (1 - 2.0**-12) if k else must
    chosen = (kept != 0).numpy()
    assert np.all(chosen[must & (size > 0)])
    assert not np.any(chosen & ~(must | may))
    assert torch.equal(kept[chosen], delta[chosen])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 999, 5000])
def test_histogram_and_sort_give_the_same_table(
    monkeypatch: pytest.MonkeyPatch, n: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(n)
    first, second = (torch.randn(n, generator=generator).to(dtype) for _ in range(2))
    first[: n // 3] = second[: n // 3]
    by_sorting = thresholds.tables(first, second)
    monkeypatch.setattr(thresholds, "SMALL", 0)
    monkeypatch.setattr(thresholds, "CHUNK", 700)
    by_counting = thresholds.tables(first, second)
    for one, other in zip(by_sorting, by_counting, strict=True):
        assert np.array_equal(one, other)
        assert np.all(one[1:] <= one[:-1])


def test_an_empty_tensor_has_a_table() -> None:
    assert np.all(np.isinf(thresholds.table(torch.empty(0), torch.empty(0))))


@pytest.mark.parametrize("density", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.001, 0.25, 1.0])
def test_both_ends_are_those_of_a_sort(density: float, gamma: float) -> None:
    delta = sources(5)["a"] - sources(5)["base"]
    tables = thresholds.tables(delta, torch.zeros_like(delta))
    found = thresholds.without_outliers(delta.clone(), *tables, density, gamma)
    whole = delta.double().numpy()
    drop = min(gamma, 1 - density)
    mask = largest(whole, density + drop) - largest(whole, drop)
    assert np.array_equal(found.double().numpy(), whole * mask)


def test_outliers_of_equal_size_stay() -> None:
    delta = torch.ones(1000)
    tables = thresholds.tables(delta, torch.zeros(1000))
    assert torch.equal(thresholds.without_outliers(delta.clone(), *tables, 0.5, 0.1), delta)


# --- random masks -------------------------------------------------------------------------------


def test_noise_is_a_function_of_seed_source_and_tensor() -> None:
    shape = torch.Size((40, 30))
    first = noise(0, "a", NAME, shape)
    assert first.dtype == torch.int16
    assert torch.equal(first, noise(0, "a", NAME, shape))
    for other in (
        noise(1, "a", NAME, shape),
        noise(0, "b", NAME, shape),
        noise(0, "a", "x", shape),
    ):
        assert int((other == first).sum()) < 10
    assert noise(0, "a", NAME, torch.Size(())).shape == ()
    # Written down: a recipe means the same masks in every version and on every machine.
    assert hashlib.sha256(first.numpy().tobytes()).hexdigest()[:16] == "e4e5345e7520265b"


def test_noise_is_uniform() -> None:
    codes = noise(5, "a", NAME, torch.Size((1 << 20,)))
    assert int(codes.min()) >= 0
    counts = np.bincount(codes.numpy() >> 7, minlength=256)
    expected = (1 << 20) / 256
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert 160 < chi2 < 370  # 255 degrees of freedom, five standard deviations either way


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_dropping_keeps_the_mean(method: str) -> None:
    """Over 300 seeds the mean of the merged tensor is task arithmetic's, within five errors."""
    named = sources(11, "a", (6, 20))
    wanted = (named["receiver"] + 0.5 * (named["a"] - named["base"])).double()
    draws = torch.stack(
        [ours(method, named, {"a": 0.5}, {"seed": seed}).double() for seed in range(300)]
    )
    error = draws.std(0) / math.sqrt(300)
    assert bool(((draws.mean(0) - wanted).abs() <= 5 * error + 1e-9).all())


def test_a_lower_density_keeps_a_subset() -> None:
    named = sources(12, "a")
    kept = [
        ours("dare_linear", named, {"a": 1.0}, {"density": d}) != named["receiver"]
        for d in (0.0, 0.2, 0.5, 0.8, 1.0)
    ]
    for fewer, more in itertools.pairwise(kept):
        assert bool((more | ~fewer).all())
    assert [int(one.sum()) for one in (kept[0], kept[-1])] == [0, math.prod(SHAPE)]


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from([(5,), (1,), (), (4, 1), (7, 33), (2, 3, 9), (3, 0)]),
    seed=st.integers(0, 1000),
)
def test_ranks_are_those_of_a_sort(shape: tuple[int, ...], seed: int) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    found = ranks(values).numpy()
    assert found.shape == shape
    width = shape[-1] if shape else 1
    if width == 1:
        assert np.all(found == LEVELS // 2)
        return
    for row, codes in zip(
        values.abs().reshape(-1, width).numpy() if width else [],
        found.reshape(-1, width) if width else [],
        strict=True,
    ):
        wanted = np.rint((rankdata(row) - 1) * TOP / (width - 1))
        assert np.array_equal(codes, wanted.astype(np.int16))


def test_ranks_do_not_depend_on_how_many_rows_are_worked_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    whole = ranks(values)
    monkeypatch.setattr("mergefront.merging.methods.della.CHUNK", 100)
    assert torch.equal(whole, ranks(values))


@pytest.mark.parametrize("density", [0.05, 0.95, 0.0, 1.0])
def test_della_narrows_a_window_that_leaves_the_unit_interval(density: float) -> None:
    named = sources(13, "a")
    narrow = min(density, 1 - density)
    wide, fitting = (
        ours("della_linear", named, {"a": 1.0}, {"density": density, "epsilon": epsilon})
        for epsilon in (0.5, narrow)
    )
    assert torch.equal(wide, fitting)
    assert bool(torch.isfinite(wide).all())
