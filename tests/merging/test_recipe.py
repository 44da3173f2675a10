"""Recipes: JSON there and back, identity by hash, patterns, and every fault named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures_recipes import INDEX, MODELS, receiver_groups
from mergefront.config import Donor
from mergefront.errors import ConfigError, UserError
from mergefront.merging.recipe import Override, Recipe, identity
from mergefront.models.anatomy import GroupIndex
from mergefront.models.locate import ModelNames, locate_models

PATTERNS = ["*", "*.mlp", "*.norm", "1.*", "2.attention", "final.norm", "embedding", "head"]
TABLES = st.dictionaries(
    st.sampled_from(["receiver", "a", "b"]),
    st.dictionaries(st.sampled_from(PATTERNS), st.floats(-2, 2), max_size=8),
)


@settings(deadline=None)
@given(table=TABLES, overridden=st.booleans())
def test_json_there_and_back(table: dict[str, dict[str, float]], overridden: bool) -> None:
    overrides = (Override(groups=("*.mlp", "0.norm"), source="base"),) if overridden else ()
    recipe = Recipe("task_arithmetic", MODELS, table, {"anchor": "base"}, overrides)
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.to_json() == recipe.to_json()
    assert again.hash() == recipe.hash()
    assert again.donors == ("b", "a")
    assert json.loads(recipe.to_json())["format"] == "mergefront/recipe@1"


@settings(deadline=None)
@given(table=TABLES)
def test_the_hash_knows_no_order_of_rows(table: dict[str, dict[str, float]]) -> None:
    turned = {name: dict(reversed(row.items())) for name, row in reversed(table.items())}
    one, other = Recipe("linear", MODELS, table), Recipe("linear", MODELS, turned)
    assert one.hash() == other.hash()
    assert one.to_json() == other.to_json()


def test_the_hash_knows_everything_else() -> None:
    turned = ModelNames(
        receiver="zoo:vlm", base="zoo:base", donors=dict(reversed(MODELS.donors.items()))
    )
    recipes = [
        identity(MODELS),
        Recipe("task_arithmetic", MODELS),
        Recipe("linear", MODELS, {"a": {"*": 0.1}}),
        Recipe("linear", MODELS, {"a": {"*": 0.1 + 2**-50}}),
        Recipe("task_arithmetic", MODELS, {}, {"anchor": "base"}),
        Recipe("linear", MODELS, overrides=(Override(groups=("*",), source="a"),)),
        Recipe("linear", turned),
    ]
    hashes = {recipe.hash() for recipe in recipes}
    assert len(hashes) == len(recipes)
    assert all(len(one) == 12 and int(one, 16) >= 0 for one in hashes)


def test_negative_zero_is_zero() -> None:
    one, other = (Recipe("linear", MODELS, {"a": {"*": zero}}) for zero in (0.0, -0.0))
    assert one.hash() == other.hash()


def test_layer_ten_comes_after_layer_nine() -> None:
    row = {f"{layer}.mlp": 0.1 for layer in reversed(range(12))}
    text = Recipe("linear", MODELS, {"a": row}).to_json()
    assert list(json.loads(text)["table"]["a"]) == [f"{layer}.mlp" for layer in range(12)]


def test_patterns() -> None:
    row = {"1.*": 0.4, "*": 0.1, "2.mlp": 0.5, "*.mlp": 0.2, "*.norm": 0.3}
    found = Recipe("linear", MODELS, {"a": row}).resolved(INDEX)["a"]
    assert found == {
        "0.attention": 0.1,
        "0.mlp": 0.2,
        "0.norm": 0.3,
        "1.attention": 0.4,
        "1.mlp": 0.4,
        "1.norm": 0.4,
        "2.attention": 0.1,
        "2.mlp": 0.5,
        "2.norm": 0.3,
        "final.norm": 0.3,
    }
    named = Recipe("linear", MODELS, {"a": {"head": 0.1, "embedding": 0.2}}).resolved(INDEX)
    assert named == {"a": {"embedding": 0.2, "head": 0.1}}


@pytest.mark.parametrize("name", ["3.mlp", "3.*", "*.other", "mlp", "model.layers.0"])
def test_groups_that_are_not_there(name: str) -> None:
    words = r"matches no group of the receiver, which has 3 layers, numbered from 0"
    with pytest.raises(ConfigError, match=r"table\.a: .*" + words):
        Recipe("linear", MODELS, {"a": {name: 0.1}}).resolved(INDEX)
    overrides = (Override(groups=(name,), source="base"),)
    with pytest.raises(ConfigError, match="overrides: .*" + words):
        Recipe("linear", MODELS, overrides=overrides).overridden(INDEX)


def test_a_tied_head_is_no_group() -> None:
    with pytest.raises(ConfigError, match=r"'head' matches no group .* \(its head is tied\)"):
        Recipe("linear", MODELS, {"a": {"head": 0.1}}).resolved(
            GroupIndex(receiver_groups(tied=True))
        )


def test_later_overrides_win() -> None:
    overrides = (
        Override(groups=("*.mlp",), source="base"),
        Override(groups=("1.*", "head"), source="zero"),
    )
    found = Recipe("linear", MODELS, overrides=overrides).overridden(INDEX)
    assert found == {
        "0.mlp": "base",
        "2.mlp": "base",
        "1.attention": "zero",
        "1.mlp": "zero",
        "1.norm": "zero",
        "head": "zero",
    }


DOCUMENT: dict[str, Any] = {
    "format": "mergefront/recipe@1",
    "method": "linear",
    "models": {"receiver": "r", "donors": {"a": {"model": "m"}}},
    "table": {"a": {"*": 0.5}},
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "mergefront/recipe@9"}, "format: Input should be 'mergefront/recipe@1'"),
        ({"method": "magic"}, r"method: Input should be 'linear', 'task_arithmetic', "),
        ({"colour": 1}, r"colour: unknown field"),
        ({"models": {"donors": {}}}, r"models\.receiver: missing"),
        ({"models": {"receiver": "r", "donors": {"a": {}}}}, r"models\.donors\.a\.model: missing"),
        (
            {"models": {"receiver": "r", "donors": {"base": {"model": "m"}}}},
            "'base' cannot name a donor",
        ),
        ({"table": {"a": {"*": "much"}}}, r"table\.a\.\*: Input should be a valid number"),
        ({"table": {"c": {}}}, "table: found source 'c', expected one of receiver, a"),
        (
            {"table": {"a": {"*": float("nan")}}},
            r"table\.a\.\*: Input should be a finite number \(found nan\)",
        ),
        (
            {"overrides": [{"groups": ["*"], "source": "moon"}]},
            "overrides: found source 'moon', expected one of receiver, a, base, zero",
        ),
    ],
)
def test_faults_are_named_with_their_file(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=r"my\.json: .*" + words):
        Recipe.from_json(json.dumps(DOCUMENT | change), "my.json")


def test_all_faults_at_once() -> None:
    broken = DOCUMENT | {"method": "magic", "colour": 1, "table": {"a": {"*": "much"}}}
    with pytest.raises(ConfigError) as caught:
        Recipe.from_json(json.dumps(broken), "my.json")
    assert all(word in caught.value.message for word in ("method", "colour", "table.a.*"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"table": {"a": {"*": 1, "*": 2}}}', "key '\\*' is given twice"),
    ],
)
def test_text_that_is_no_recipe(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"my\.json: .*" + words):
        Recipe.from_json(text, "my.json")


def test_refs_find_folders(tmp_path: Path) -> None:
    for name in ("r", "b", "d", "own"):
        (tmp_path / name).mkdir()
    named = ModelNames(
        receiver=str(tmp_path / "r"),
        base=str(tmp_path / "b"),
        donors={"d": Donor(model=str(tmp_path / "d"), base=str(tmp_path / "own"))},
    )
    found = locate_models(named)
    assert (found.receiver, found.base) == (named.receiver, named.base)
    assert found.donors["d"].base == str(tmp_path / "own")
    with pytest.raises(UserError, match="no such folder"):
        locate_models(ModelNames(receiver=str(tmp_path / "nowhere")))
