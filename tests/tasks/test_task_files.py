"""Task files, splits and item sets: order, nesting, disjointness, and errors that help."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fixtures_task_files import write_task
from mergefront.config import ItemCounts
from mergefront.errors import ConfigError, UserError
from mergefront.records import SPLITS, Answer, Item
from mergefront.tasks import item_set, load_task, pool_of, task_path
from mergefront.tasks.item_set import content_hash
from mergefront.tasks.scoring import score
from mergefront.tasks.splits import by_hash, stratified_order
from mergefront.tasks.task_file import LIBRARY

FEW = ItemCounts(search=20, validation=30, test=40)


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
    large = item_set(objectives, ItemCounts(search=50, validation=30, test=40), Path())
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
    with pytest.raises(ConfigError, match=r"mine\.yaml.*rule.*fewshot: unknown field") as caught:
        load_task(path)
    assert "rule: there is no rule 'guess'; the rules are exact, text" in caught.value.message
    assert "RuleSpec" not in caught.value.message


def test_a_missing_column_names_the_columns_there_are(tmp_path: Path) -> None:
    path = write_task(tmp_path, [{"q": "?", "answer": "1"}])
    with pytest.raises(
        UserError, match=r"no column question \(fields.question\)\nhint: columns found: answer, i"
    ):
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


ONE = ItemCounts(search=1, validation=1, test=1)


def load(path: Path, counts: ItemCounts = ONE) -> list[Item]:
    """All chosen items of one task."""
    found = item_set({"a": [str(path)]}, counts, Path())
    return [item for split in SPLITS for item in found.flat(split)]


def write_csv(folder: Path, text: str, **changes: object) -> Path:
    """A task over a CSV file, without images unless `fields` names some."""
    path = write_task(folder, [], data={"path": "rows.csv"}, **{"fields": NO_IMAGES, **changes})
    (folder / "rows.csv").write_text(text)
    return path


NO_IMAGES = {"images": [], "split": "split"}
SPLIT_ROWS = "".join(f"{i}?,{i},{split}\n" for i, split in enumerate(SPLITS))


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    first = write_task(tmp_path, [])
    second = tmp_path / "other.yaml"
    second.write_text(first.read_text())
    with pytest.raises(UserError, match=r"the name 'mine': .*mine\.yaml and .*other\.yaml"):
        item_set({"a": [str(first)], "b": [str(second)]}, FEW, Path())


def test_csv_cells_are_read_as_they_are_written(tmp_path: Path) -> None:
    text = 'question,answer,split,note\n?,007,search,\n"a, b",NA,validation,3\nc,3,test,x\n'
    items = load(write_csv(tmp_path, text))
    assert [item.answers for item in items] == [("007",), ("NA",), ("3",)]
    assert items[1].question == "a, b"


def held_out(path: Path) -> list[Item]:
    """All test items of one task."""
    return pool_of(load_task(path), path.parent).take("test")


def test_what_spreadsheets_leave_blank_is_no_data(tmp_path: Path) -> None:
    text = "question ,answer,split,,\nwhat ?,1,test,,\n,,,,\n\nwho ?, ,test,,\n"
    with pytest.raises(UserError, match=r"row 2: .*holds no gold"):
        held_out(write_csv(tmp_path, text))
    items = held_out(write_csv(tmp_path, text.replace("who ?, ,", "who ?,2,")))
    assert sorted((one.question, one.answers) for one in items) == [
        ("what ?", ("1",)),
        ("who ?", ("2",)),
    ]


def test_ten_peoples_answers_may_hold_a_blank(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"question": "?", "answer": ["red"] * 3 + ["blue"] * 5 + ["", "."], "split": "test"}
    ]
    task = write_task(tmp_path, rows, rule="vqa", fields={"split": "split"})
    [item] = held_out(task)
    assert score(item, Answer("red", 1, True)).value == pytest.approx(0.9)
    assert score(item, Answer("", 1, True)).status == "no_answer"
    rows[0]["answer"] = ["", "."]
    with pytest.raises(UserError, match="no answer can match"):
        held_out(write_task(tmp_path, rows, rule="vqa", fields={"split": "split"}))


def test_csv_cells_match_numbers_and_booleans_of_where(tmp_path: Path) -> None:
    rows = "".join(f"{i}?,{i},{s},{1 + i % 2},True\n" for i, s in enumerate(SPLITS * 2))
    text = "question,answer,split,level,ok\n" + rows
    items = load(write_csv(tmp_path, text, where={"level": [2], "ok": [True]}))
    assert [item.answers for item in items] == [("3",), ("1",), ("5",)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "question,answer,split\n?,,search\n",
            r"mine: row 1: the column 'answer' \(fields.answer\) holds no gold",
        ),
        ("question,answer,split\n?,1\n", r"rows\.csv cannot be read: line 2 has 2 cells"),
        ("question,answer,answer\n", "its first line names a column twice"),
        ('question,answer,split\n"?,1,test\n', r"rows\.csv cannot be read: unexpected end"),
        (
            "question,answer,split\n?,1,train\n",
            r"row 1: the column 'split' \(fields.split\) holds 'train'",
        ),
    ],
)
def test_faulty_csv_files(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(write_csv(tmp_path, text))


@pytest.mark.parametrize(
    ("cell", "choices"),
    [
        (["red", "blue"], ("red", "blue")),
        ('["red", "blue"]', ("red", "blue")),
        ("red | blue", ("red", "blue")),
        ("[0, 1] | [1, 2]", ("[0, 1]", "[1, 2]")),
        ("red", None),
        ("red, blue", None),
        ("red | ", None),
        ([], None),
    ],
)
def test_options(tmp_path: Path, cell: object, choices: tuple[str, ...] | None) -> None:
    rows: list[dict[str, object]] = [
        {"question": f"{i}?", "answer": "B", "options": cell, "split": split}
        for i, split in enumerate(SPLITS)
    ]
    fields = {"choices": "options", "split": "split"}
    path = write_task(tmp_path, rows, rule="choice", fields=fields, prompt="{question} {choices}")
    if choices is None:
        with pytest.raises(UserError, match=r"mine: row 1: .*holds no options.*\nhint: .*JSON"):
            load(path)
    else:
        item = load(path)[0]
        assert item.choices == choices
        assert item.question == f"0? (A) {choices[0]}\n(B) {choices[1]}"


@pytest.mark.parametrize(
    ("rule", "gold", "words"),
    [
        ("choice", "D", r"row 1 \(id k\): .* gold 'D' under the rule choice\nhint: .*A to B.*blue"),
        ("choice", "1", "gold '1' under the rule choice"),
        ("number", "three", r"gold 'three' under the rule number\nhint: expected one number"),
        ("yes_no", "true", r"gold 'true' under the rule yes_no\nhint: expected yes or no"),
        ("exact", "...", r"gold '\.\.\.' under the rule exact"),
    ],
)
def test_golds_that_no_answer_can_match(tmp_path: Path, rule: str, gold: str, words: str) -> None:
    rows: list[dict[str, object]] = [
        {"question": "?", "answer": gold, "options": ["red", "blue"], "key": "k"}
    ]
    path = write_task(tmp_path, rows, rule=rule, fields={"choices": "options", "id": "key"})
    with pytest.raises(UserError, match=words):
        load(path)


def test_an_options_text_as_gold_becomes_its_letter(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"question": f"{i}?", "answer": gold, "options": ["red", "blue"], "split": split}
        for i, (gold, split) in enumerate(zip(["blue", "(a)", "B"], SPLITS, strict=True))
    ]
    path = write_task(
        tmp_path, rows, rule="choice", fields={"choices": "options", "split": "split"}
    )
    assert [item.answers for item in load(path)] == [("B",), ("A",), ("B",)]


def test_golds_of_a_float_column_are_whole_numbers_and_gaps_are_refused(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"question": f"{i}?", "answer": answer, "split": split}
        for i, (answer, split) in enumerate(zip([3, 0.5, 4], SPLITS, strict=True))
    ]
    path = write_task(tmp_path, rows, fields={"split": "split"})
    assert [item.answers for item in load(path)] == [("3",), ("0.5",), ("4",)]
    path = write_task(tmp_path, [*rows, {"question": "!", "answer": None, "split": "test"}])
    with pytest.raises(UserError, match=r"row 4: .*holds no gold"):
        load(path)


def test_items_without_images_are_clusters_of_their_own(tmp_path: Path) -> None:
    text = "question,answer,image\n" + "".join(f"{i}?,{i},\n" for i in range(60))
    items = load(write_csv(tmp_path, text, fields={}), ItemCounts(search=5, validation=5, test=5))
    assert len({item.cluster for item in items}) == 15
    assert all(item.cluster == item.id for item in items)


def test_a_cluster_in_two_splits_is_refused(tmp_path: Path) -> None:
    text = "question,answer,split,scene\na,1,search,s1\nb,1,test,s1\n"
    path = write_csv(tmp_path, text, fields={**NO_IMAGES, "cluster": "scene"})
    with pytest.raises(UserError, match="the cluster 's1' is in two splits, search and test"):
        load(path)


def test_an_unknown_column_of_where_names_those_there_are(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "question,answer,split\n" + SPLIT_ROWS, where={"kind": ["x"]})
    with pytest.raises(UserError, match=r"column kind.*\nhint: columns found: answer, question"):
        load(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_malformed_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = write_task(tmp_path, [], data={"path": f"bad{suffix}"})
    (tmp_path / f"bad{suffix}").write_text('{"question": "?", "answer"')
    with pytest.raises(UserError, match=rf"task mine: .*bad\{suffix} cannot be read: "):
        load(path)


def test_a_hub_that_cannot_be_reached_is_said(tmp_path: Path) -> None:
    path = write_task(tmp_path, [], data={"hub": "nobody/no-such-set", "split": "test"})
    with pytest.raises(
        UserError, match=r"the hub dataset nobody/no-such-set cannot be read \(test\)"
    ):
        load(path)  # the tests run offline


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_image_is_refused_before_any_engine(tmp_path: Path, suffix: str) -> None:
    rows: list[dict[str, object]] = [
        {"question": f"{i}?", "answer": "1", "split": s} for i, s in enumerate(SPLITS)
    ]
    rows[2]["image"] = f"cut.{suffix}"
    path = write_task(tmp_path, rows, fields={"split": "split"})
    file = tmp_path / f"cut.{suffix}"
    Image.effect_noise((64, 64), 50).save(file)
    file.write_bytes(file.read_bytes()[:-900])
    words = rf"task mine: item mine/\w+: the image cut\.{suffix} cannot be decoded: .*truncated"
    with pytest.raises(UserError, match=words):
        load(path)


def test_an_image_cell_that_holds_no_image_is_refused(tmp_path: Path) -> None:
    path = write_task(tmp_path, [{"question": "?", "answer": "1", "image": ["a.png"]}])
    with pytest.raises(UserError, match="row 1: the image column 'image' holds a list"):
        load(path)
