"""Task files, splits and item sets: order, nesting, disjointness, and errors that help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mergefront.config import Items
from mergefront.errors import ConfigError, UserError
from mergefront.records import SPLITS, Item
from mergefront.tasks import item_set, load_task, task_path
from mergefront.tasks.load import LIBRARY, content_hash
from mergefront.tasks.splits import by_hash, stratified_order

FEW = Items(search=20, validation=30, test=40)


def make(n: int, strata: int = 3) -> list[Item]:
    return [
        Item(f"t/{i}", "t", f"q{i}", (), ("a",), cluster=f"c{i // 4}", stratum=str(i % strata))
        for i in range(n)
    ]


@given(st.permutations(make(30)))
def test_order_does_not_depend_on_row_order(rows: list[Item]) -> None:
    assert stratified_order(rows, "v1") == stratified_order(make(30), "v1")


@given(st.integers(1, 60))
def test_every_prefix_has_the_strata_in_proportion(n: int) -> None:
    prefix = stratified_order(make(60), "v1")[:n]
    counts = [sum(item.stratum == str(s) for item in prefix) for s in range(3)]
    assert max(counts) - min(counts) <= 1


def test_clusters_never_straddle_splits_and_new_rows_move_nothing() -> None:
    few, more = by_hash(make(200), "v1"), by_hash(make(400), "v1")
    for split in SPLITS:
        assert set(few[split]) <= set(more[split])
    seen = [{item.cluster for item in more[split]} for split in SPLITS]
    assert len(set().union(*seen)) == sum(len(part) for part in seen)
    assert all(seen)


def test_zoo_items_are_nested_disjoint_and_reproducible() -> None:
    objectives = {"reasoning": ["digits_reasoning"], "perception": ["digits_perception"]}
    small = item_set(objectives, FEW, Path())
    large = item_set(objectives, Items(search=50, validation=30, test=40), Path())
    for objective in objectives:
        grown = large.items["search"][objective]
        assert grown[:20] == small.items["search"][objective]
    assert small.card()["splits"]["test"] == large.card()["splits"]["test"]
    clusters = [{i.cluster for i in small.flat(split)} for split in SPLITS]
    assert len(set().union(*clusters)) == sum(len(part) for part in clusters)


def test_the_content_hash_sees_every_field() -> None:
    one = Item("t/1", "t", "q", (b"image",), ("a",), "c")
    others = [
        Item("t/2", "t", "q", (b"image",), ("a",), "c"),
        Item("t/1", "t", "p", (b"image",), ("a",), "c"),
        Item("t/1", "t", "q", (b"other",), ("a",), "c"),
        Item("t/1", "t", "q", (b"image",), ("b",), "c"),
    ]
    assert len({content_hash([item]) for item in [one, *others]}) == 5


def write_task(folder: Path, rows: list[dict[str, object]], **changes: object) -> Path:
    """A task over a jsonl file with one image a row."""
    for index, row in enumerate(rows):
        Image.new("RGB", (8, 8), (index % 256, index // 256, 0)).save(folder / f"{index}.png")
        row.setdefault("image", f"{index}.png")
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    fields = {"name": "mine", "data": {"path": "rows.jsonl"}, "rule": "exact", **changes}
    path = folder / "mine.yaml"
    path.write_text(json.dumps(fields))  # JSON is YAML
    return path


def test_own_questions_from_a_jsonl_file_and_images(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"question": f"{i}?", "answer": str(i)} for i in range(200)]
    path = write_task(tmp_path, rows, prompt="Q: {question}")
    found = item_set({"a": [str(path)], "b": ["digits_perception"]}, FEW, Path())
    item = found.items["search"]["a"][0]
    number = item.answers[0]
    assert item.question == f"Q: {number}?"
    assert item.images == ((tmp_path / f"{number}.png").read_bytes(),)


def test_a_task_file_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    path = write_task(tmp_path, [], fewshot=3, rule="guess")
    with pytest.raises(ConfigError, match=r"mine\.yaml.*rule.*fewshot: unknown field"):
        load_task(path)


def test_a_missing_column_names_the_columns_there_are(tmp_path: Path) -> None:
    path = write_task(tmp_path, [{"q": "?", "answer": "1"}])
    with pytest.raises(UserError, match=r"no column question\nhint: columns found: answer, image"):
        item_set({"a": [str(path)]}, FEW, Path())


def test_too_few_items_say_how_many_there_are(tmp_path: Path) -> None:
    path = write_task(tmp_path, [{"question": "?", "answer": "1"}])
    with pytest.raises(UserError, match=r"20 search items are asked for, it has [01]"):
        item_set({"a": [str(path)]}, FEW, Path())


def test_an_unknown_task_names_the_library() -> None:
    with pytest.raises(ConfigError, match=r"no task 'mathvista'\nhint: .*digits_perception"):
        task_path("mathvista", Path())


@pytest.mark.parametrize("path", sorted(LIBRARY.glob("*.yaml")), ids=lambda p: p.stem)
def test_library_files_are_valid_and_named_after_their_file(path: Path) -> None:
    assert load_task(path).name == path.stem
