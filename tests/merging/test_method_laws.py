"""Laws that every merge method obeys; a new one appears here by being registered.

Each runs at the method's default parameters, on random tensors around one base, with a row of
coefficients that the method accepts.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Final, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from fixtures_slots import DictSlot, merged
from mergefront.errors import ConfigError
from mergefront.merging import build
from mergefront.merging.arithmetic import combine
from mergefront.merging.method import RECEIVER_TERM, Method, Mix
from mergefront.merging.methods import METHODS, method_of
from mergefront.merging.recipe import MethodName

DONORS: Final = ("a", "b", "c")
NAMES: Final = ("model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.weight")
ROWS: Final[tuple[dict[str, float], ...]] = (
    {"a": 0.45, "b": 0.3, "c": 0.2},
    {"a": 0.4, "b": 0.4, "c": 0.4},
    {"a": 0.45, "b": 0.0, "c": 0.0},
)
METHOD = pytest.mark.parametrize("name", METHODS)


def tensors(
    shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Receiver, base, donors and the donors' bases."""
    generator = torch.Generator().manual_seed(seed)

    def near(scale: float) -> Tensor:
        return torch.randn(shape, generator=generator) * scale

    base = near(0.05)
    named = {"base": base, "receiver": base + near(0.01)}
    for alias in DONORS:
        named |= {alias: base + near(0.01), f"base:{alias}": base}
    return {name: tensor.to(dtype) for name, tensor in named.items()}


def slot(
    shape: tuple[int, ...] = (24, 40), dtype: torch.dtype = torch.float32, **more: Any
) -> DictSlot:
    """A tensor of a layer with one fellow of another shape; beyond any method's special layers."""
    fellow = {NAMES[1]: tensors((16, 24), seed=9, dtype=dtype)}
    options: dict[str, Any] = {"layer": 20, "n_layers": 32, "others": fellow} | more
    return DictSlot(tensors(shape, dtype=dtype), NAMES[0], **options)


def row_of(method: Method, donors: tuple[str, ...] = DONORS) -> dict[str, float]:
    """The first of `ROWS` that the method accepts."""
    for row in ROWS:
        try:
            method.check_row(row, donors)
            method.mix(row, donors, method.measure(slot(), donors))
        except ConfigError:
            continue
        return row
    raise AssertionError(f"{method.name} accepts none of the rows")


def prepared(method: Method, where: DictSlot, row: Mapping[str, float]) -> tuple[Mix, list[Tensor]]:
    """The mix of a row, and its terms."""
    mix = method.mix(row, DONORS, method.measure(where, DONORS))
    return mix, [method.prepare(term, where) for term in mix.terms]


def combined(mix: Mix, terms: list[Tensor], **how: Any) -> Tensor:
    out = torch.full(terms[0].shape, torch.nan)
    combine(mix, terms, torch.float32, out, **how)
    return out


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def same(one: Any, other: Any) -> bool:
    """Whether two measures are equal, bit for bit."""
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(itertools.starmap(same, zip(one, other, strict=True)))
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other, equal_nan=True))
    return bool(one == other)


def test_methods_are_the_recipes_closed_set() -> None:
    assert tuple(METHODS) == get_args(MethodName)
    assert all(method.name == name for name, method in METHODS.items())
    with pytest.raises(ConfigError, match="no merge method 'magic'; there are: linear"):
        method_of("magic")


# --- the receiver, and copies -------------------------------------------------------------------


@METHOD
@pytest.mark.parametrize("row", [{}, dict.fromkeys(DONORS, 0.0), {"receiver": 1.0, "a": 0.0}])
def test_zeros_are_the_receiver(name: str, row: dict[str, float]) -> None:
    method, where = METHODS[name], slot()
    assert method.copied_source(row, DONORS) in (None, "receiver")
    mix, terms = prepared(method, where, row)
    assert mix == Mix((RECEIVER_TERM,), (1.0,))
    assert bits(combined(mix, terms)) == bits(where.read("receiver"))


@METHOD
def test_what_comes_down_to_one_source_is_that_source(name: str) -> None:
    """Where `copied` says so, the mix says the same, up to rounding."""
    method, where = METHODS[name], slot()
    for donor in DONORS:
        row = {donor: 1.0}
        source = method.copied_source(row, DONORS)
        if source is None:
            continue
        assert source == donor
        out = combined(*prepared(method, where, row))
        torch.testing.assert_close(out, where.read(donor), rtol=1e-5, atol=1e-7)


@METHOD
def test_equal_sources_merge_to_themselves(name: str) -> None:
    """No delta and no angle: nothing moves, and nothing is divided by zero."""
    one = tensors((24, 40))["receiver"]
    named = dict.fromkeys(tensors((1,)), one)
    where = DictSlot(named, NAMES[0], 20, 32, others={NAMES[1]: dict.fromkeys(named, one[:8])})
    method = METHODS[name]
    out = combined(*prepared(method, where, row_of(method)))
    torch.testing.assert_close(out, one, rtol=1e-5, atol=1e-7)


@METHOD
def test_the_merge_moves(name: str) -> None:
    method, where = METHODS[name], slot()
    row = row_of(method)
    source = method.copied_source(row, DONORS)
    out = where.read(source) if source else combined(*prepared(method, where, row))
    if name == "layer_swap":
        row = {"a": 0.7}
        out = where.read(str(method.copied_source(row, DONORS)))
    assert float((out - where.read("receiver")).abs().max()) > 1e-4
    assert bool(torch.isfinite(out).all())


# --- order, chunks, threads, parts --------------------------------------------------------------


@METHOD
def test_terms_are_mixed_in_their_order(name: str) -> None:
    method = METHODS[name]
    mix, _ = prepared(method, slot(), row_of(method))
    order = method.terms(DONORS)
    assert len(set(order)) == len(order)
    assert [term for term in order if term in mix.terms] == list(mix.terms)


@METHOD
def test_the_order_of_donors_changes_rounding_only(name: str) -> None:
    method, where = METHODS[name], slot()
    row = row_of(method)
    results = []
    for donors in itertools.permutations(DONORS):
        results.append(merged(method, where, row, donors, torch.float32))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-5, atol=2e-8)


@METHOD
def test_terms_can_be_made_piece_by_piece(name: str) -> None:
    method, where = METHODS[name], slot((9, 31))
    edges = (0, 1, 7, 100, 103, 279)
    for term in method.terms(DONORS):
        whole = method.prepare(term, where)
        piece = method.pieces(term, where)
        parts = [piece(slice(start, end)) for start, end in itertools.pairwise(edges)]
        assert bits(torch.cat(parts).reshape(whole.shape)) == bits(whole)


@METHOD
def test_a_tensor_of_many_pieces_is_that_of_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, where = METHODS[name], slot((40, 50))
    row = row_of(method)
    whole = combined(*prepared(method, where, row))
    monkeypatch.setattr(build, "step_of", lambda device, joined: 333)
    assert bits(merged(method, where, row, DONORS, torch.float32)) == bits(whole)


@pytest.mark.slow
@METHOD
def test_neither_chunks_nor_threads_matter(name: str) -> None:
    """Terms, measures and the mix: bit for bit the same at any number of threads."""
    method, where = METHODS[name], slot((160, 240))
    row = row_of(method)
    threads = torch.get_num_threads()
    seen = []
    try:
        for n in (1, 2, 4):
            torch.set_num_threads(n)
            measures = method.measure(where, DONORS)
            mix = method.mix(row, DONORS, measures)
            terms = [method.prepare(term, where) for term in mix.terms]
            outs = [bits(combined(mix, terms, chunk=chunk)) for chunk in (None, 4999, 997)]
            seen.append((measures, [bits(term) for term in terms], outs))
    finally:
        torch.set_num_threads(threads)
    assert all(out == seen[0][2][0] for _, _, outs in seen for out in outs)
    assert all(same(measures, seen[0][0]) and terms == seen[0][1] for measures, terms, _ in seen)


@METHOD
def test_a_tensor_cut_into_parts_joins_to_the_same_bits(name: str) -> None:
    """Rows as an engine shards them, columns as another does, and rows of a fused parameter."""
    method, where = METHODS[name], slot()
    mix, terms = prepared(method, where, row_of(method))
    whole = combined(mix, terms)
    rows = [combined(mix, [term[a:b] for term in terms]) for a, b in ((0, 1), (1, 10), (10, 24))]
    columns = [combined(mix, [term[:, a:b] for term in terms]) for a, b in ((0, 13), (13, 40))]
    assert bits(torch.cat(rows)) == bits(whole)
    assert bits(torch.cat(columns, dim=1)) == bits(whole)
    fused = torch.zeros(60, 40)
    combine(mix, terms, torch.float32, fused[20:44])
    assert bits(fused[20:44]) == bits(whole)


@METHOD
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_once(name: str, dtype: torch.dtype) -> None:
    """In the checkpoint's dtype the result is the fp32 result rounded, nothing in between."""
    method, where = METHODS[name], slot(dtype=dtype)
    row = row_of(method)
    exact = merged(method, where, row, DONORS, torch.float32)
    rounded = merged(method, where, row, DONORS, dtype)
    assert rounded.dtype == dtype
    if method.copied_source(row, DONORS) is None:
        assert bits(rounded) == bits(exact.to(dtype))


@METHOD
def test_sources_are_only_read(name: str) -> None:
    method, where = METHODS[name], slot()
    before = {source: bits(tensor) for source, tensor in where.tensors.items()}
    mix, terms = prepared(method, where, row_of(method))
    held = [bits(term) for term in terms]
    combined(mix, terms)
    assert [bits(term) for term in terms] == held  # a term serves all candidates
    assert {source: bits(tensor) for source, tensor in where.tensors.items()} == before


@METHOD
@pytest.mark.parametrize("shape", [(), (1,), (40,), (3, 8, 10), (1, 1)])
def test_tensors_of_any_shape(name: str, shape: tuple[int, ...]) -> None:
    method = METHODS[name]
    where = slot(shape)
    out = merged(method, where, row_of(method), DONORS, torch.float32)
    assert out.shape == shape
    assert bool(torch.isfinite(out).all())


# --- parameters ---------------------------------------------------------------------------------


@METHOD
def test_terms_and_measures_do_not_depend_on_what_is_searched(name: str) -> None:
    """All but terms that name a searched value, of which there are others for another value."""
    method, where = METHODS[name], slot()
    terms = method.terms(DONORS)
    lasting = [term for term in terms if term.serves_all_candidates]
    tensors_ = [bits(method.prepare(term, where)) for term in terms]
    measures = method.measure(where, DONORS)
    for parameter, ends in method.searchable.items():
        for value in ends:
            varied = method.of({parameter: value})
            assert varied.with_default_search_parameters == method
            varied_terms = varied.terms(DONORS)
            assert [term for term in varied_terms if term.serves_all_candidates] == lasting
            assert len(varied_terms) == len(terms)
            assert [bits(varied.prepare(term, where)) for term in terms] == tensors_
            assert same(varied.measure(where, DONORS), measures)


@METHOD
def test_every_searchable_value_builds(name: str) -> None:
    """The corners of the box of searchable parameters, and its middle."""
    method, where = METHODS[name], slot()
    row, measures = row_of(method), method.measure(where, DONORS)
    ranges = method.searchable
    corners = list(itertools.product(*ranges.values()))
    middle = tuple(
        (low + high) // 2 if parameter in method.whole else (low + high) / 2
        for parameter, (low, high) in ranges.items()
    )
    for point in (*corners, middle):
        parameters = dict(zip(ranges, point, strict=True))
        chosen = method.of(parameters)
        mix = chosen.mix(row, DONORS, measures)
        out = combined(mix, [chosen.prepare(term, where) for term in mix.terms])
        assert bool(torch.isfinite(out).all()), parameters


@METHOD
def test_parameters_out_of_range_or_unknown(name: str) -> None:
    method = METHODS[name]
    with pytest.raises(ConfigError, match=f"method {name} has no parameter 'colour'; it has: "):
        method.of({"colour": 1})
    for parameter, (low, high) in method.searchable.items():
        for value in (low - 0.01, high + 0.01, "much", True):
            with pytest.raises(ConfigError, match=f"method {name}: {parameter} is {value!r}"):
                method.of({parameter: value})


@METHOD
def test_a_receivers_coefficient_is_refused_or_used(name: str) -> None:
    """Never silently ignored."""
    method, where = METHODS[name], slot()
    row = row_of(method)
    scaled = {**row, "receiver": 0.5}
    refusal = _refusal(method, scaled)
    if refusal is not None:
        assert "receiver" in refusal
        return
    outs = [combined(*prepared(method, where, one)) for one in (row, scaled)]
    assert not torch.equal(*outs)


def _refusal(method: Method, row: Mapping[str, float]) -> str | None:
    try:
        method.check_row(row, DONORS)
    except ConfigError as problem:
        return problem.message
    return None
