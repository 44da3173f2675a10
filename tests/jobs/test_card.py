"""The model card: what goes into its metadata comes out of huggingface_hub's own loader."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures_science import front_json, raced_candidates
from mergefront.jobs.card import model_card
from mergefront.merging.recipe import Recipe
from mergefront.models.locate import ModelNames
from mergefront.runs.front import Front

HOSTILE = [
    "a: b", "'single' and \"double\"", "two\nlines", "x\n---\nlicense: mit", "---", "- item", "#5",
    "[1, 2]", "{a: 1}", "null", "yes", "1e3", " padded ", "tab\there",
    "\r\n---\r\n", "!!python/object:os.system",
    "*alias", "&anchor", "%TAG", "back\\slash", "é 模型", "`code`", "|",
]  # fmt: skip
PRINTABLE = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
NAMES = st.sampled_from(HOSTILE) | st.text(PRINTABLE, min_size=1)


def recipe(receiver: str, donor: str) -> Recipe:
    models = ModelNames(receiver=receiver, donors={"donor": {"model": donor}})
    return Recipe("task_arithmetic", models, {}, {})


@settings(deadline=None)
@given(name=NAMES)
def test_any_name_survives_the_front_matter(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("card") / "README.md"
    file.write_text(model_card(recipe(name, "org/donor"), {"receiver": name}, None, None))
    loaded = ModelCard.load(file).data
    assert loaded.base_model == [name, "org/donor"]
    assert loaded.license == ("other" if name == "unknown" else name)
    assert loaded.library_name == "transformers"
    assert loaded.pipeline_tag == "image-text-to-text"
    assert loaded.tags == ["merge", "mergefront"]


def test_a_licence_is_named_only_if_all_models_have_it() -> None:
    for licences, expected in (
        ({"receiver": "mit", "donor": "mit"}, "mit"),
        ({"receiver": "mit", "donor": "unknown"}, "other"),
        ({"receiver": "mit", "donor": "apache-2.0"}, "other"),
        ({}, "other"),
    ):
        card = ModelCard(model_card(recipe("r", "d"), licences, None, None))
        assert card.data.get("license") == expected
        assert all(f"{name}: {licence}" in card.text for name, licence in licences.items())


def test_a_name_breaks_neither_heading_nor_table() -> None:
    front = front_json(raced_candidates())
    name = "a|b\n# heading"
    front["objectives"] = [name, "perception"]
    for member in front["members"]:
        for scores in (member["validation"], member["gain"], member["test"], member["test_gain"]):
            if scores:
                scores[name] = scores["reasoning"]
    for scores in front["receiver"].values():
        scores[name] = scores["reasoning"]
    typed = Front.from_dict(front)
    card = model_card(recipe("r\n# x", "d"), {}, typed, typed.members[0])
    assert card.count("\n# ") == 1
    (row,) = [line for line in card.splitlines() if line.startswith(r"| a\|b # heading |")]
    assert row.replace(r"\|", "").count("|") == 7
