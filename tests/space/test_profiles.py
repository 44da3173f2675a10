"""Profiles: the table laid out over depth, and a distance that is one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures_recipes import GROUPS, MODELS, receiver_groups
from mergefront.merging.recipe import Recipe
from mergefront.records import Group
from mergefront.space.profiles import distance, profile

NAMES = [group.name for group in GROUPS]
TABLES = st.dictionaries(
    st.sampled_from(["a", "b"]),
    st.dictionaries(st.sampled_from(NAMES), st.floats(-2, 2)),
    min_size=1,
)


def test_coefficients_find_their_place() -> None:
    recipe = Recipe(
        "linear", MODELS, {"a": {"*.mlp": 0.2, "2.mlp": 0.5, "final.norm": 0.7, "head": 0.1}}
    )
    found = profile(recipe, GROUPS)
    assert found.sources == ("b", "a")
    assert found.parts == ("attention", "mlp", "norm")
    assert found.n_layers == 3
    np.testing.assert_array_equal(found.curve("a", "mlp"), [0.2, 0.2, 0.5])
    np.testing.assert_array_equal(found.curve("b", "mlp"), [0, 0, 0])
    np.testing.assert_array_equal(found.curve("nobody", "mlp"), [0, 0, 0])
    assert found.outside["a"] == {"embedding": 0.0, "final.norm": 0.7, "head": 0.1}
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["layers"]["a"]["mlp"] == [0.2, 0.2, 0.5]


def test_a_layer_without_a_part_is_nan() -> None:
    groups = [group for group in GROUPS if group.name != "1.mlp"]
    found = profile({"a": {"2.mlp": 0.5}}, groups)
    np.testing.assert_array_equal(found.curve("a", "mlp"), [0, np.nan, 0.5])
    np.testing.assert_array_equal(found.curve("b", "mlp"), [0, np.nan, 0])
    assert found.to_dict()["layers"]["a"]["mlp"] == [0.0, None, 0.5]
    other = profile({"a": {"2.mlp": 0.0}}, groups)
    assert distance(found, other) == pytest.approx(0.5 / np.sqrt(len(groups)))


@settings(deadline=None)
@given(one=TABLES, other=TABLES)
def test_distance_is_the_rms_over_all_groups(
    one: dict[str, dict[str, float]], other: dict[str, dict[str, float]]
) -> None:
    sources = sorted({*one, *other})
    gaps = [
        one.get(source, {}).get(name, 0.0) - other.get(source, {}).get(name, 0.0)
        for source in sources
        for name in NAMES
    ]
    found = distance(profile(one, GROUPS), profile(other, GROUPS))
    assert found == pytest.approx(np.sqrt(np.mean(np.square(gaps))), abs=1e-12)
    assert found == pytest.approx(distance(profile(other, GROUPS), profile(one, GROUPS)))
    assert distance(profile(one, GROUPS), profile(one, GROUPS)) == 0.0


def test_other_models_have_no_distance() -> None:
    deep: tuple[Group, ...] = receiver_groups(5)
    with pytest.raises(ValueError, match=r"3 layers of attention, mlp, norm against 5 of"):
        distance(profile({"a": {}}, GROUPS), profile({"a": {}}, deep))
