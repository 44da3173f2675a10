"""Search spaces: exact at the bounds, linear between, every group claimed once, faults named."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures_recipes import receiver_groups
from fixtures_space import BODY, DONORS, space, spec
from mergefront.errors import ConfigError, SpaceError
from mergefront.space.budget import suitable_candidates
from mergefront.space.file import SpaceSpec, load_space
from mergefront.space.lines import Knob
from mergefront.space.space import Space
from mergefront.yaml_file import validate

SHIPPED = Path(__file__).parents[2] / "search_spaces"


def curve(found: Space, point: list[float], donor: str = "a", part: str = "mlp") -> list[float]:
    row = found.table(point)[donor]
    return [row[f"{layer}.{part}"] for layer in range(len(row)) if f"{layer}.{part}" in row]


LINEAR = ["all", "each", {"blocks": 4}, {"knots": 3}, {"ranges": [[0, 1], [2, 5]]}]
LAYERS = [*LINEAR, {"cosines": 3}, "ramp"]
BOUNDS = st.tuples(st.floats(-2, 2).map(lambda low: round(low, 6)), st.floats(0.1, 3)).map(
    lambda b: (b[0], b[0] + b[1])
)


@st.composite
def spaces(draw: st.DrawFn, kinds: list[Any] = LAYERS) -> Space:
    lines = []
    for parts in (["attention"], ["mlp"], ["norm", "embedding"]):
        low, high = draw(BOUNDS)
        donors = draw(st.sampled_from(["each", "tied"]))
        lines.append({"parts": parts, "low": low, "high": high, "donors": donors})
        lines[-1]["layers"] = draw(st.sampled_from(kinds))
    return space(*lines, frozen=("head",))


def points(found: Space) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(0, 1), min_size=found.dimension, max_size=found.dimension)


@settings(deadline=None)
@given(data=st.data(), found=spaces())
def test_every_group_is_claimed_once_within_bounds(data: st.DataObject, found: Space) -> None:
    table = found.table(data.draw(points(found)))
    names = [group.name for group in receiver_groups(6)]
    bounds = {part: line for line in found.spec.knobs for part in line.parts}
    assert list(table) == list(DONORS)
    assert found.describe()["frozen"] == ["head"]
    for row in table.values():
        assert sorted([*row, "head"]) == sorted(names)
        for name, value in row.items():
            line = bounds[name.split(".")[-1]]  # type: ignore[index]
            assert line.low <= value <= line.high


@settings(deadline=None)
@given(data=st.data(), found=spaces(LINEAR))
def test_decoding_is_linear(data: st.DataObject, found: Space) -> None:
    p, q = data.draw(points(found)), data.draw(points(found))
    share = data.draw(st.floats(0, 1))
    mixed = [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]
    first, second, both = (found.table(point) for point in (p, q, mixed))
    for donor, row in both.items():
        for name, value in row.items():
            wanted = share * first[donor][name] + (1 - share) * second[donor][name]
            assert value == pytest.approx(wanted, abs=1e-9)


@settings(deadline=None)
@given(found=spaces([*LINEAR, "ramp"]))
def test_bounds_are_exact(found: Space) -> None:
    bounds = {part: line for line in found.spec.knobs for part in line.parts}
    for u, bound in ((0.0, "low"), (1.0, "high")):
        for row in found.table([u] * found.dimension).values():
            for name, value in row.items():
                exact = getattr(bounds[name.split(".")[-1]], bound)  # type: ignore[index]
                assert value == exact or (value == 0.0 and abs(exact) < 1e-11)


@settings(deadline=None)
@given(found=spaces(), value=st.floats(-1, 1))
def test_uniform_points(found: Space, value: float) -> None:
    bounds = {part: line for line in found.spec.knobs for part in line.parts}
    for row in found.table(found.uniform_point(value)).values():
        for name, got in row.items():
            line = bounds[name.split(".")[-1]]  # type: ignore[index]
            assert got == pytest.approx(min(line.high, max(line.low, value)), abs=1e-12)


@settings(max_examples=300, deadline=None)
@given(low=st.floats(-3, 0), high=st.floats(0.01, 3), kind=st.sampled_from(LAYERS))
def test_the_receiver_is_exactly_zero(low: float, high: float, kind: Any) -> None:
    found = space({"layers": kind, "low": low, "high": high})
    table = found.table(found.receiver_point())
    assert {value for row in table.values() for value in row.values()} == {0.0}


def test_a_space_without_the_receiver() -> None:
    found = space({"low": 0.1, "high": 0.5})
    with pytest.raises(SpaceError, match=r"knob a\.attention\+mlp\+norm\.all lies in \[0\.1, 0\.5"):
        found.receiver_point()


def test_start_points() -> None:
    found = space({"low": -1.0, "high": 3.0, "start": 2.0, "layers": {"cosines": 3}})
    assert {v for row in found.table(found.start_point()).values() for v in row.values()} == {2.0}
    middle = space({"low": -1.0, "high": 3.0})
    assert [knob.start for knob in middle.knobs] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("layers", "n", "wanted"),
    [
        (5, 2, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (5, 3, [0.0, 0.5, 1.0, 0.5, 0.0]),
        (4, 3, [0.0, 2 / 3, 2 / 3, 0.0]),
        (4, 4, [0.0, 1.0, 0.0, 1.0]),
    ],
)
def test_knots(layers: int, n: int, wanted: list[float]) -> None:
    found = space({"layers": {"knots": n}}, layers=layers)
    values = [0.0, 1.0, 0.0, 1.0][:n]
    assert curve(found, values * 2) == pytest.approx(wanted, abs=1e-15)
    row = found.table(values * 2)["a"]
    assert row["final.norm"] == row[f"{layers - 1}.norm"]


@settings(deadline=None)
@given(layers=st.integers(2, 40), data=st.data())
def test_knots_interpolate(layers: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(2, layers))
    values = data.draw(st.lists(st.floats(0, 1), min_size=n, max_size=n))
    found = curve(space({"layers": {"knots": n}}, layers=layers), values * 2)
    wanted = np.interp(np.linspace(0, 1, layers), np.linspace(0, 1, n), values)
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert (found[0], found[-1]) == pytest.approx((values[0], values[-1]), abs=1e-12)


@settings(deadline=None)
@given(layers=st.integers(1, 50), data=st.data())
def test_blocks_are_contiguous_and_fair(layers: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, layers))
    values = [number / n for number in range(n)]
    found = curve(space({"layers": {"blocks": n}}, layers=layers), values * 2)
    runs = [len(list(run)) for _, run in itertools.groupby(found)]
    assert found == sorted(found)
    assert len(runs) == n
    assert max(runs) - min(runs) <= 1
    assert runs == sorted(runs, reverse=True)


@settings(deadline=None)
@given(data=st.data(), n=st.integers(1, 6))
def test_cosines_are_the_clipped_dct(data: st.DataObject, n: int) -> None:
    found = space({"layers": {"cosines": n}, "low": -1.0, "high": 1.5})
    point = data.draw(st.lists(st.floats(0, 1), min_size=n, max_size=n))
    half = 1.25
    amplitudes = [-1.0 + point[0] * 2.5, *(-half + u * 2 * half for u in point[1:])]
    depth = np.arange(6) + 0.5
    wanted = sum(a * np.cos(np.pi * k * depth / 6) for k, a in enumerate(amplitudes))
    np.testing.assert_allclose(curve(found, point * 2), np.clip(wanted, -1, 1.5), atol=1e-9)
    assert [knob.name for knob in found.knobs[:n]] == [
        f"a.attention+mlp+norm.c{k}" for k in range(n)
    ]


def test_ranges_and_each() -> None:
    found = space({"layers": {"ranges": [[2, 5], [0, 1]]}})
    assert curve(found, [0.1, 0.9] * 2) == [0.9, 0.9, 0.1, 0.1, 0.1, 0.1]
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    each = space({"layers": "each"})
    assert curve(each, values * 2) == values
    assert [knob.name for knob in each.knobs[:2]] == [
        "a.attention+mlp+norm.l0",
        "a.attention+mlp+norm.l1",
    ]


def test_embedding_goes_first_and_head_last() -> None:
    line = {"parts": [*BODY, "embedding", "head"], "layers": {"knots": 2}}
    row = space(line, frozen=()).table([0.2, 0.8] * 2)["a"]
    assert (row["embedding"], row["head"], row["final.norm"]) == (0.2, 0.8, 0.8)
    assert row["0.mlp"] == 0.2


def test_tied_and_named_donors() -> None:
    tied = space({"donors": "tied"})
    assert [knob.name for knob in tied.knobs] == ["tied.attention+mlp+norm.all"]
    table = tied.table([0.5])
    assert table["a"] == table["b"]
    assert tied.uniform_point({"a": 0.25, "b": 0.25}) == (0.25,)
    with pytest.raises(SpaceError, match="tied donors a, b cannot have different coefficients"):
        tied.uniform_point({"a": 0.25, "b": 0.5})
    named = space({"donors": ["b"], "high": 2.0}, {"donors": ["a"]})
    assert [knob.name for knob in named.knobs] == [
        "b.attention+mlp+norm.all",
        "a.attention+mlp+norm.all",
    ]
    table = named.table(named.uniform_point({"a": 0.25, "b": 1.5}))
    assert (table["a"]["0.mlp"], table["b"]["0.mlp"]) == (0.25, 1.5)


def test_a_tied_head_claims_nothing() -> None:
    lines: tuple[dict[str, Any], ...] = ({}, {"parts": ["head"]})
    tied = Space.build(spec(*lines, frozen=("embedding",)), DONORS, receiver_groups(tied=True))
    assert tied.dimension == 2
    assert "head" not in tied.table([0.5, 0.5])["a"]
    untied = Space.build(spec(*lines, frozen=("embedding",)), DONORS, receiver_groups())
    assert untied.dimension == 4
    Space.build(spec({}), DONORS, receiver_groups(tied=True))  # frozen: head is fine too
    only = spec({"parts": ["head"]}, frozen=(*BODY, "embedding"))
    with pytest.raises(SpaceError, match="no knob that changes a tensor"):
        Space.build(only, DONORS, receiver_groups(tied=True))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"parts": ["attention", "norm"]}, "part 'mlp' of donor 'a' is not claimed"),
        ({"donors": ["a"]}, "part 'attention' of donor 'b' is not claimed"),
        ({"parts": [*BODY, "head"]}, r"'head' of donor 'a' is claimed 2 times: frozen, knobs\.0"),
        ({"donors": ["a", "c"]}, r"knobs\.0: unknown donor 'c', the donors are a, b"),
        ({"layers": {"knots": 7}}, r"knobs\.0 \(attention\+mlp\+norm\): 7 knots for 6 layers"),
        ({"layers": {"blocks": 9}}, "9 blocks for 6 layers"),
        ({"layers": {"ranges": [[0, 4]]}}, "layer 5 is not claimed by any range"),
        ({"layers": {"ranges": [[0, 3], [3, 5]]}}, "layer 3 is claimed twice by the ranges"),
        ({"layers": {"ranges": [[0, 6]]}}, r"range \[0, 6\] does not lie within layers 0 to 5"),
    ],
)
def test_spaces_that_do_not_fit(line: dict[str, Any], words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        space(line)


def test_a_part_in_two_lines() -> None:
    with pytest.raises(SpaceError, match=r"'mlp' of donor 'a' is claimed 2 times: knobs\.0, kn"):
        space({}, {"parts": ["mlp"], "donors": ["a"]})


def test_knots_over_an_embedding_alone() -> None:
    with pytest.raises(SpaceError, match=r"knobs\.1 \(embedding\): 3 knots for 1 layer"):
        space({}, {"parts": ["embedding"], "layers": {"knots": 3}}, frozen=("head",))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"low": 1.0}, r"knobs\.0: low 1\.0 is not below high 1\.0"),
        ({"start": 1.5}, r"knobs\.0: start 1\.5 is outside \[0\.0, 1\.0\]"),
        ({"high": float("inf")}, r"knobs\.0\.high: Input should be a finite number"),
        ({"parts": ["eyes"]}, r"knobs\.0\.parts\.0: Input should be 'attention', 'mlp'"),
        ({"parts": ["mlp", "mlp"]}, r"knobs\.0\.parts: a name is given twice"),
        ({"parts": []}, r"knobs\.0\.parts: expected at least one entry"),
        ({"donors": "every"}, r"knobs\.0\.donors: expected each, tied, choose or a list of donors"),
        ({"donors": "choose", "layers": {"knots": 2}}, r"knobs\.0: donors: choose picks for whole"),
        ({"low": 1.0, "high": 1.0, "donors": "tied"}, r"knobs\.0: low 1\.0 is not below high"),
        ({"layers": "some"}, r"knobs\.0\.layers: expected each, all, ramp, \{blocks: n\}"),
        ({"layers": {"waves": 3}}, r"knobs\.0\.layers: expected each, all, ramp, \{blocks: n\}"),
        ({"layers": {"knots": 1}}, r"knobs\.0\.layers.*greater than or equal to 2 \(found 1\)"),
        ({"colour": 1}, r"knobs\.0\.colour: unknown field"),
    ],
)
def test_faults_are_named(line: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=r"^my\.yaml: " + words) as caught:
        spec(line)
    assert ";" not in caught.value.message  # that one fault, once


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "magic"}, "no merge method 'magic'"),
        ({"parameters": {"anchor": "moon"}}, "anchor is 'moon', expected one of"),
        ({"knobs": []}, "knobs: expected at least one entry"),
        ({"format": "mergefront/space@9"}, "format: Input should be 'mergefront/space@1'"),
    ],
)
def test_faults_of_the_file(change: dict[str, Any], words: str) -> None:
    fine = {"knobs": [{"parts": BODY, "low": 0, "high": 1}], "frozen": ["embedding", "head"]}
    with pytest.raises(ConfigError, match=words):
        validate(fine | change, SpaceSpec, "my.yaml")


@pytest.mark.parametrize("point", [[0.5], [0.5] * 3, [0.5, 1.1], [0.5, float("nan")]])
def test_points_outside_the_cube(point: list[float]) -> None:
    with pytest.raises(ValueError, match=r"expected 2 values in \[0, 1\]"):
        space({}).table(point)


DIMENSIONS: dict[
    str, Callable[[int, int], int]
] = {  # over L layers, for K donors: what each file's header says
    "uniform": lambda n, k: k,
    "early_middle_late": lambda n, k: 3 * k,
    "ramp": lambda n, k: 3 * k,
    "frank": lambda n, k: k + 1,
    "several_donors": lambda n, k: 2 * k,
    "two_knots": lambda n, k: 4 * k,
    "knots_tied_parts": lambda n, k: 4 * k,
    "cosines": lambda n, k: 6 * k,
    "knots_by_part": lambda n, k: 7 * k,
    "real_pairs": lambda n, k: 7 * k,
    "real_pairs_linear": lambda n, k: 7 * k,
    "real_pairs_uniform": lambda n, k: k,
    "blocks_by_part": lambda n, k: 9 * k,
    "ties_density": lambda n, k: 7 * k + 1,
    "dare_density": lambda n, k: 4 * k + 1,
    "low_rank": lambda n, k: 4 * k + 1,
    "layer_choice": lambda n, k: 8,
    "every_layer": lambda n, k: n * k,
    "every_layer_and_part": lambda n, k: (2 * n + 1) * k,
}


@pytest.mark.parametrize("name", DIMENSIONS)
@pytest.mark.parametrize("layers", [6, 32])
def test_shipped_spaces(name: str, layers: int) -> None:
    found = Space.build(load_space(SHIPPED / f"{name}.yaml"), DONORS, receiver_groups(layers))
    assert found.dimension == DIMENSIONS[name](layers, 2)
    assert len({knob.name for knob in found.knobs}) == found.dimension
    assert found.describe()["frozen"] == ["embedding", "head"]
    assert found.parts == ("attention", "mlp", "norm")
    high = min(line.spec.high for line in found.lines)
    values = [{"a": value, "b": 0.0} for value in (0.0, min(1.0, high))]
    for value in values if name == "layer_choice" else [*values, {"a": high / 2, "b": high}]:
        table = found.table(found.uniform_point(value))
        for donor, row in table.items():
            assert all(one == pytest.approx(value[donor]) for one in row.values())
    told = found.describe()
    assert told["dimension"] == len(told["knobs"]) == found.dimension


@pytest.mark.parametrize("name", DIMENSIONS)
def test_headers_of_shipped_spaces_state_dimension_and_budget(name: str) -> None:
    text = (SHIPPED / f"{name}.yaml").read_text()
    header = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    stated = re.search(r"Dimensions: (.*?) per donor(?:[^;.]*? and 1 for the \w+)?[;. (]", header)
    for layers in (8, 32):
        if stated is None:
            assert f"Dimensions: {DIMENSIONS[name](layers, 5)}, however many" in header
            continue
        each = eval(stated[1].replace("2 L", "2 * L"), {"L": layers})  # our own file: "2 L + 1"
        more = 1 if "and 1 for the" in stated[0] else 0
        assert [each * k + more for k in (1, 3)] == [DIMENSIONS[name](layers, k) for k in (1, 3)]
    for size, donors in re.findall(r"(\d+) for (one donor and 32 layers|two donors)", header):
        assert int(size) == DIMENSIONS[name](32, 1 if donors.startswith("one") else 2)
    assert re.search(r"Suits [\d,]+ (to [\d,]+ )?candidates", header)


def test_all_shipped_spaces_are_known() -> None:
    assert {file.stem for file in SHIPPED.glob("*.yaml")} == set(DIMENSIONS)


def test_the_page_on_spaces_has_their_dimensions() -> None:
    page = (SHIPPED.parent / "docs" / "search_spaces.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    sizes = {name: make(32, 2) for name, make in DIMENSIONS.items()}
    assert {name: int(size) for name, size, _ in rows} == sizes
    wanted = {name: suitable_candidates(size) for name, size in sizes.items()}
    assert {name: int(least) for name, _, least in rows} == {
        k: v[0] for k, v in wanted.items() if v
    }


def test_names_of_the_default_space() -> None:
    found = Space.build(load_space(SHIPPED / "knots_by_part.yaml"), ("a",), receiver_groups())
    assert [knob.name for knob in found.knobs] == [
        *(f"a.attention.k{n}" for n in range(3)),
        *(f"a.mlp.k{n}" for n in range(3)),
        "a.norm.all",
    ]


@pytest.mark.parametrize(
    ("method", "line", "words"),
    [
        ("slerp", {}, "one donor in a group, this group has a, b"),
        ("isotropic", {}, "one strength for all donors of a group"),
        ("nearswap", {"low": -0.1}, r"coefficient -0\.1, which is a distance"),
        ("nuslerp", {"low": -0.1, "donors": "tied"}, "takes one donor in a group"),
    ],
)
def test_candidates_that_the_method_refuses_are_refused_before_a_search(
    method: str, line: dict[str, Any], words: str
) -> None:
    refused = spec(line, method=method)
    with pytest.raises(SpaceError, match=rf"group 0\.attention: .*{words}"):
        Space.build(refused, DONORS, receiver_groups(3))


def test_donors_that_share_a_knob_have_one_strength() -> None:
    tied = spec({"donors": "tied"}, method="isotropic")
    assert Space.build(tied, DONORS, receiver_groups(3)).dimension == 1


# --- parameters of the method ---------------------------------------------------------------------


def ties(**density: Any) -> SpaceSpec:
    line = {"parts": BODY, "layers": {"knots": 2}, "low": 0.0, "high": 2.0}
    given = {"anchor": "base", "density": density or 0.3}
    document = {"method": "ties", "parameters": given, "knobs": [line]}
    return validate(document | {"frozen": ["embedding", "head"]}, SpaceSpec, "my.yaml")


def test_a_searched_parameter_is_the_last_knob() -> None:
    found = Space.build(ties(low=0.2, high=0.8, start=0.5), DONORS, receiver_groups(6))
    knob = found.knobs[-1]
    assert (knob.name, knob.low, knob.high, knob.start) == ("parameters.density", 0.2, 0.8, 0.5)
    point = [0.5] * found.dimension
    for u, value in [(0.0, 0.2), (0.25, 0.35), (1.0, 0.8)]:
        point[-1] = u
        parameters = found.parameters(point)
        assert parameters == {"anchor": "base", "density": pytest.approx(value)}
        assert found.table(point) == found.table([*point[:-1], 0.9])
    assert found.spec.start_parameters == {"anchor": "base", "density": 0.5}


def test_warm_starts_leave_parameters_at_their_start() -> None:
    found = Space.build(ties(low=0.2, high=0.8), DONORS, receiver_groups(6))
    for point in (found.receiver_point(), found.uniform_point(1.0), found.start_point()):
        assert found.parameters(point)["density"] == pytest.approx(0.5)
    fixed = Space.build(ties(), DONORS, receiver_groups(6))
    assert fixed.parameters(fixed.start_point()) == {"anchor": "base", "density": 0.3}
    assert fixed.dimension == found.dimension - 1


@pytest.mark.parametrize(
    ("method", "parameters", "words"),
    [
        ("ties", {"density": {"low": 0.5, "high": 1.5}}, r"density is 1\.5, expected a number in"),
        ("ties", {"density": {"low": 0.5, "high": 0.5}}, r"low 0\.5 is not below high 0\.5"),
        ("ties", {"density": {"low": 0.1, "high": 0.5, "start": 0.9}}, r"start 0\.9 is outside"),
        (
            "low_rank",
            {"rank": {"low": 1, "high": 4, "start": 2.5}},
            r"rank is 2\.5, expected an int",
        ),
        ("low_rank", {"rank": {"low": 1.5, "high": 4}}, r"rank is 1\.5, expected an integer"),
        ("low_rank", {"rank": {"low": 0, "high": 4}}, r"rank is 0, expected a number in \[1, 655"),
        (
            "ram_plus",
            {"epsilon": {"low": 0, "high": 1}},
            "epsilon of method ram_plus cannot be sea",
        ),
        ("linear", {"density": {"low": 0.1, "high": 0.5}}, "no parameter 'density'; it has: none"),
    ],
)
def test_faulty_parameter_ranges(method: str, parameters: dict[str, Any], words: str) -> None:
    line = {"parts": BODY, "low": 0.0, "high": 1.0}
    with pytest.raises(ConfigError, match=words):
        validate({"method": method, "parameters": parameters, "knobs": [line]}, SpaceSpec, "x")


def ranks(**rank: Any) -> SpaceSpec:
    line = {"parts": BODY, "layers": {"knots": 2}, "low": 0.0, "high": 2.0}
    document = {"method": "low_rank", "parameters": {"rank": rank}, "knobs": [line]}
    return validate(document | {"frozen": ["embedding", "head"]}, SpaceSpec, "my.yaml")


def test_a_whole_parameter_shares_its_knob_equally() -> None:
    found = Space.build(ranks(low=3, high=7), DONORS, receiver_groups(6))
    assert found.spec.start_parameters == {"rank": 5}
    assert found.parameters(found.start_point()) == {"rank": 5}
    point = [0.5] * found.dimension
    seen = []
    for u in np.linspace(0.0, 1.0, 1001):
        point[-1] = float(u)
        (rank,) = found.parameters(point).values()
        assert type(rank) is int
        seen.append(rank)
    assert seen == sorted(seen)
    assert {one: seen.count(one) for one in seen} == {3: 200, 4: 200, 5: 200, 6: 200, 7: 201}
    for rank in (3, 4, 7):
        point[-1] = found.nearest_point(found.table(point), {"rank": rank})[-1]
        assert found.parameters(point) == {"rank": rank}
    assert found.parameters(found.nearest_point({}, {"rank": 99})) == {"rank": 7}
    even = Space.build(ranks(low=1, high=34), DONORS, receiver_groups(6))
    assert even.parameters(even.nearest_point({}, {})) == even.parameters(even.start_point())
    half = Space.build(ranks(low=1, high=64), DONORS, receiver_groups(6))
    assert half.spec.start_parameters == half.parameters(half.start_point()) == {"rank": 32}


# --- ramps and choices ----------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(early=st.floats(0, 1), late=st.floats(0, 1), turn=st.floats(0, 1))
def test_a_ramp_is_a_logistic_step(early: float, late: float, turn: float) -> None:
    found = space({"layers": "ramp", "high": 2.0})
    depth = np.linspace(0, 1, 6)
    wanted = 2 * (early + (late - early) / (1 + np.exp(12 * (turn - depth))))
    got = curve(found, [early, late, turn] * 2)
    np.testing.assert_allclose(got, wanted, atol=1e-9)
    assert sorted(got, reverse=late < early) == pytest.approx(got, abs=1e-9)
    assert [knob.name.rsplit(".", 1)[1] for knob in found.knobs[:3]] == ["early", "late", "turn"]
    with pytest.raises(SpaceError, match="3 knobs of a ramp for 2 layers"):
        space({"layers": "ramp"}, layers=2)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), level=st.floats(0, 1))
def test_each_run_takes_one_donor_or_the_receiver(data: st.DataObject, level: float) -> None:
    found = space({"donors": "choose", "layers": {"blocks": 3}, "low": 0.5, "high": 2.0})
    assert [knob.name.rsplit(".", 1)[1] for knob in found.knobs] == ["level", "b0", "b1", "b2"]
    us = data.draw(st.lists(st.floats(0, 1), min_size=3, max_size=3))
    words = [["receiver", "a", "b"][min(2, int(3 * u))] for u in us]
    assert [knob.value(u) for knob, u in zip(found.knobs[1:], us, strict=True)] == words
    for donor in DONORS:
        value = 0.5 + level * 1.5
        wanted = [value if words[layer // 2] == donor else 0.0 for layer in range(6)]
        assert curve(found, [level, *us], donor) == pytest.approx(wanted)
    again = found.nearest_point(found.table([level, *us]), {})
    for donor in DONORS:
        assert curve(found, list(again), donor) == pytest.approx(curve(found, [level, *us], donor))


def test_choices_divide_the_unit_interval_equally() -> None:
    knob = Knob("pick", 0.0, 3.0, 1.0, ("receiver", "a", "b", "c"))
    for u, word in [(0.0, "receiver"), (0.2499, "receiver"), (0.25, "a"), (0.5, "b"), (0.75, "c")]:
        assert knob.value(u) == word
    assert knob.value(1.0) == "c"
    assert [knob.number(knob.position(float(n))) for n in range(4)] == [0.0, 1.0, 2.0, 3.0]


def test_a_fixed_level_has_no_knob() -> None:
    found = space(
        {"donors": "choose", "layers": {"blocks": 2}, "low": 1.0, "high": 1.0}, method="layer_swap"
    )
    assert found.dimension == 2
    assert curve(found, [0.9, 0.5], "b") == [1.0] * 3 + [0.0] * 3
    assert curve(found, [0.9, 0.5], "a") == [0.0] * 3 + [1.0] * 3
    assert set(curve(found, list(found.start_point()), "a")) == {1.0}
    assert {v for row in found.table(found.receiver_point()).values() for v in row.values()} == {0}
    with pytest.raises(SpaceError, match="each layer takes one donor in this space, not a and b"):
        found.uniform_point(0.5)
    told = found.describe()["knobs"][0]
    assert told == {
        "name": "choose.attention+mlp+norm.b0", "choices": ["receiver", "a", "b"], "start": "a"
    }  # fmt: skip


# --- projection -----------------------------------------------------------------------------------


def flat(table: dict[str, dict[str, float]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([value for row in table.values() for value in row.values()])


@settings(deadline=None, max_examples=25)
@given(data=st.data(), found=spaces(LINEAR))
def test_what_lies_in_the_space_is_its_own_nearest_point(data: st.DataObject, found: Space) -> None:
    table = found.table(data.draw(points(found)))
    again = found.table(found.nearest_point(table, {}))
    np.testing.assert_allclose(flat(again), flat(table), atol=1e-7)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), kind=st.sampled_from(["all", {"knots": 2}, "ramp"]))
def test_nothing_in_the_space_is_nearer(data: st.DataObject, kind: Any) -> None:
    found = space({"layers": kind, "donors": "tied", "low": 0.2, "high": 1.0})
    values = data.draw(st.lists(st.floats(0, 1.5), min_size=40, max_size=40))
    names = list(found.table(found.start_point())["a"])
    drawn = iter(values)
    target = {donor: {name: next(drawn) for name in names} for donor in DONORS}

    def missed(point: Any) -> float:
        return float(((flat(found.table(point)) - flat(target)) ** 2).sum())

    best = missed(found.nearest_point(target, {}))
    slack = 0.02 if kind == "ramp" else 1e-9  # turning points on a grid of a hundredth
    for other in data.draw(st.lists(points(found), min_size=5, max_size=5)):
        assert best <= missed(other) + slack
