"""Methods on singular values, against literal transcriptions of the papers in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agreement import agree
from fixtures_slots import DictSlot, merged
from mergefront.errors import ConfigError
from mergefront.merging.method import Term
from mergefront.merging.methods import METHODS, low_rank, method_of
from mergefront.merging.methods.spectral import svd


def models(donors: str, shape: tuple[int, ...] = (12, 20), seed: int = 0) -> dict[str, Tensor]:
    """Receiver and donors, each with a base of its own."""
    generator = torch.Generator().manual_seed(seed)
    named = {"receiver": torch.randn(shape, generator=generator)}
    for alias in donors:
        named[f"base:{alias}"] = torch.randn(shape, generator=generator)
        named[alias] = named[f"base:{alias}"] + 0.2 * torch.randn(shape, generator=generator)
    return named


def ours(
    name: str, named: Mapping[str, Tensor], row: Mapping[str, float], parameters: Any = None
) -> np.ndarray:
    donors = [source for source in named if len(source) == 1]
    method, slot = method_of(name, parameters), DictSlot(named)
    return merged(method, slot, row, donors, torch.float32).double().numpy()


def delta(named: Mapping[str, Tensor], alias: str) -> np.ndarray:
    return (named[alias].float() - named[f"base:{alias}"].float()).double().numpy()


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("rank", [1, 3, 12, 50])
def test_low_rank(rank: int, rescale: bool) -> None:
    named, row = models("ab"), {"a": 0.7, "b": -0.3}
    wanted = named["receiver"].double().numpy()
    for alias, c in row.items():
        d = delta(named, alias)
        u, s, vt = np.linalg.svd(d, full_matrices=False)
        low = sum(s[i] * np.outer(u[:, i], vt[i]) for i in range(min(rank, len(s))))
        scale = np.linalg.norm(d) / np.linalg.norm(low) if rescale else 1.0
        wanted = wanted + c * scale * low
    found = ours("low_rank", named, row, {"rank": rank, "rescale": rescale})
    agree("low_rank", "the paper's equations, in fp64", found, wanted, rtol=1e-5, atol=1e-6)


def test_ranks_of_one_run_are_cut_from_one_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order the bits of a slot that starts anew, and no decomposition more than is said."""
    method, named = METHODS["low_rank"], models("a", shape=(150, 130))
    counted: list[int] = []

    def counting(matrix: Tensor) -> Any:
        counted.append(1)
        return svd(matrix)

    monkeypatch.setattr(low_rank, "svd", counting)
    slot = DictSlot(named)
    ranks = (5, 64, 1, 2, 64, 33, 70, 100, 128, 90, 129, 130, 999, 7)
    decomposed = []
    for rank in ranks:
        counted.clear()
        found = method.prepare(Term("truncated", "a", rank), slot)
        decomposed.append(len(counted))
        assert torch.equal(found, method.prepare(Term("truncated", "a", rank), DictSlot(named)))
        approximated = delta(named, "a")
        u, s, vt = np.linalg.svd(approximated, full_matrices=False)
        low = u[:, :rank] * s[:rank] @ vt[:rank]
        low *= np.linalg.norm(approximated) / np.linalg.norm(low)
        np.testing.assert_allclose(found.numpy(), low, rtol=1e-4, atol=1e-6)
    again = {0, ranks.index(70), ranks.index(129)}  # beyond 64, and beyond the 128 kept then
    assert decomposed == [int(place in again) for place in range(len(ranks))]


def test_experts_are_kept_and_cut_alike() -> None:
    method, named = method_of("low_rank", {"rescale": False}), models("a", shape=(3, 8, 10))
    slot = DictSlot(named)
    for rank in (2, 5, 1, 50):
        found = method.prepare(Term("truncated", "a", rank), slot)
        for expert in range(3):
            one = DictSlot({source: tensor[expert] for source, tensor in named.items()})
            alone = method.prepare(Term("truncated", "a", rank), one)
            assert torch.equal(found[expert], alone)


@pytest.mark.parametrize("donors", ["a", "ab", "abc"])
def test_tsv_merge(donors: str) -> None:
    """Algorithm 1: truncate, concatenate, orthogonalise by Procrustes, multiply out."""
    named = models(donors, shape=(12, 20))
    row = dict(zip("abc", (0.5, 0.8, -0.2), strict=False))
    rank = 12 // len(donors)
    parts = [np.linalg.svd(delta(named, alias), full_matrices=False) for alias in donors]
    columns = np.hstack([u[:, :rank] for u, _, _ in parts])
    rows = np.vstack([vt[:rank] for _, _, vt in parts])
    p, _, q = np.linalg.svd(columns, full_matrices=False)
    r, _, t = np.linalg.svd(rows, full_matrices=False)
    scaled = np.concatenate([row[a] * s[:rank] for a, (_, s, _) in zip(donors, parts, strict=True)])
    wanted = named["receiver"].double().numpy() + (p @ q) @ np.diag(scaled) @ (r @ t)
    found = ours("tsv", named, {alias: row[alias] for alias in donors})
    agree("tsv", "the paper's equations, in fp64", found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("donors", ["a", "ab", "abc"])
def test_isotropic(donors: str) -> None:
    named = models(donors)
    u, s, vt = np.linalg.svd(sum(delta(named, alias) for alias in donors), full_matrices=False)
    wanted = named["receiver"].double().numpy() + 0.6 * s.mean() * u @ vt
    found = ours("isotropic", named, dict.fromkeys(donors, 0.6))
    agree("isotropic", "the paper's equations, in fp64", found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "share"), [("low_rank", 1.0), ("tsv", 0.5), ("isotropic", 0.5)])
def test_vectors_have_no_spectrum(name: str, share: float) -> None:
    """One direction only: taken whole, or as the donors' mean."""
    named = models("ab", shape=(40,))
    wanted = named["receiver"].double().numpy() + 0.5 * share * sum(
        delta(named, alias) for alias in "ab"
    )
    found = ours(name, named, {"a": 0.5, "b": 0.5})
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["low_rank", "tsv", "isotropic"])
def test_experts_are_matrices_of_their_own(name: str) -> None:
    named = models("ab", shape=(3, 8, 10))
    row = {"a": 0.4, "b": 0.4}
    found = ours(name, named, row)
    for expert in range(3):
        one = {source: tensor[expert] for source, tensor in named.items()}
        np.testing.assert_array_equal(found[expert], ours(name, one, row))


def test_decompositions_do_not_depend_on_threads() -> None:
    matrix = torch.randn(300, 200, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        made = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made.append(svd(matrix))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def test_isotropic_has_one_strength() -> None:
    with pytest.raises(ConfigError, match=r"one strength .* found a 0\.1, b 0"):
        METHODS["isotropic"].check_row({"a": 0.1}, ("a", "b"))


@pytest.mark.parametrize("rank", [0, -1, 1.5, True, "4"])
def test_ranks_are_whole(rank: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"low_rank: rank is .*, expected an? (integer|number in \[1, )"
    ):
        method_of("low_rank", {"rank": rank})
