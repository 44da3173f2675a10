"""Forms that data comes in: options, images, folders, cases by row; and what is refused."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Value, disable_progress_bars
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from fixtures_task_files import write_task
from fixtures_tasks import picture
from mergefront.errors import ConfigError, UserError
from mergefront.records import SPLITS, Item
from mergefront.tasks import load_task, pool_of
from mergefront.tasks.cells import labelled_options, options_of
from mergefront.tasks.pictures import Picture, bytes_for_engine, sha256

disable_progress_bars()


def all_items(path: Path) -> list[Item]:
    pool = pool_of(load_task(path), path.parent)
    return sorted((i for s in SPLITS for i in pool.take(s)), key=lambda item: item.id)


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("['a', \"b's\"]", ("a", "b's")),
        ("[1, 2.5]", ("1", "2.5")),
        ("(a) red (b) blue", ("red", "blue")),
        ("A. 1;B. 2; C. 3", ("1", "2", "3")),
        ("A: x, y, B: z", ("x, y", "z")),
        ("Is A. right?\nA) yes\nB) no\nSay it.", ("yes", "no")),
        ("Which (A) of these?\n(A) red\n(B) blue", ("red", "blue")),
        ("__import__('os')", None),
        ("[open('x')]", None),
        ("(a) only one", None),
        ("(b) blue (c) green", None),
        ("[" * 5000, None),
    ],
)
def test_forms_of_options(cell: str, options: tuple[str, ...] | None) -> None:
    assert options_of(cell) == options


@given(st.lists(st.text("xyz 01", min_size=1, max_size=5).map(str.strip), min_size=2, max_size=8))
def test_options_written_with_letters_are_read_back(texts: list[str]) -> None:
    texts = [text or "x" for text in texts]
    for form in ("({}) ", "{}. ", "{}: ", "{}) "):
        lines = (form.format(chr(65 + i)) + text for i, text in enumerate(texts))
        assert labelled_options("Which is it?\n" + "\n".join(lines)) == tuple(texts)


def encoded(image: Pillow.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def seen(data: bytes, max_pixels: int | None = None) -> tuple[bytes, Pillow.Image]:
    made = bytes_for_engine(Picture("p", sha256(data), lambda: data), max_pixels, "task t: item i")
    return made, Pillow.open(io.BytesIO(made)).convert("RGB")


def test_an_engine_gets_upright_opaque_images_within_the_budget() -> None:
    plain = Pillow.new("RGB", (6, 4), "red")
    for data in (encoded(plain), encoded(plain, "JPEG"), encoded(plain.convert("P"))):
        assert seen(data)[0] == data  # nothing to do: the file's own bytes
    turned = Pillow.new("RGB", (6, 4), "red")
    turned.putpixel((0, 0), (0, 0, 255))
    exif = Pillow.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    upright = seen(encoded(turned, exif=exif))[1]
    assert upright.size == (4, 6)
    assert upright.getpixel((3, 0)) == (0, 0, 255)
    assert not upright.getexif()
    glass = Pillow.new("RGBA", (2, 1), (0, 0, 0, 0))
    glass.putpixel((1, 0), (0, 0, 0, 255))
    on_white = seen(encoded(glass))[1]
    assert [on_white.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 0)]
    deep = Pillow.new("I;16", (1, 1), 32768)
    assert seen(encoded(deep))[1].getpixel((0, 0)) == (127, 127, 127)
    small = seen(encoded(Pillow.new("RGB", (400, 100), "red")), max_pixels=10_000)[1]
    assert small.size == (200, 50)
    info = PngInfo()
    info.add_text("note", "x")
    assert seen(encoded(plain, pnginfo=info))[1].size == (6, 4)


def test_folders_of_images_and_saved_data_sets(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    rows = []
    for i in range(4):
        (folder / f"{i}.png").write_bytes(picture(i))
        rows.append({"file_name": f"{i}.png", "question": f"{i}?", "answer": str(i), "key": i})
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "images.zip").write_bytes(zipped({f"x/{i}.png": picture(i) for i in range(4)}))
    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string"),
                         "key": Value("int64")})  # fmt: skip
    cells = [{"bytes": picture(i), "path": None} for i in range(4)]
    columns = {"image": cells, **{c: [r[c] for r in rows] for c in ("question", "answer", "key")}}
    saved = Dataset.from_dict(columns, features=features)
    saved.save_to_disk(str(tmp_path / "saved"))
    saved.to_parquet(str(tmp_path / "rows.parquet"))
    sources: list[dict[str, Any]] = [
        {"data": {"path": "images"}},
        {"data": {"path": "saved"}},
        {"data": {"path": "rows.parquet"}},
        {"data": {"path": "images/metadata.jsonl"}, "images": ["file_name"]},
        {"data": {"path": "images/metadata.jsonl", "archive": "images.zip"},
         "images": ["file_name"]},
    ]  # fmt: skip
    found = []
    for source in sources:
        fields = {"id": "key", "images": source.get("images", ["image"])}
        path = write_task(tmp_path, [], data=source["data"], fields=fields)
        found.append(all_items(path))
        assert [item.images for item in found[-1]] == [(picture(i),) for i in range(4)]
    assert all(items == found[0] for items in found)  # the same items, whatever they came in


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def rows_of(**columns: list[Any]) -> list[dict[str, object]]:
    names = list(columns)
    return [dict(zip(names, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def test_prompt_rule_and_digits_go_by_the_row(tmp_path: Path) -> None:
    rows = rows_of(
        key=["a", "b", "c"], question=["<image 1>Which?<image1>", "How much?", "What?"],
        answer=["1", "2.347", "['x', 'y']"], kind=["mc", "float", "words"],
        precision=[None, 2.0, None], A=["red", "", ""], B=["blue", "", ""],
        meta=[{"level": 1, "tags": ["p", "q"]}, {"level": 2, "tags": []}, {"level": 1, "tags": []}],
    )  # fmt: skip
    rule = {"column": "kind", "cases": {"mc": "choice", "words": "text",
            "float": {"name": "float", "digits": 1}}}  # fmt: skip
    fields = {"id": "key", "choices": ["A", "B"], "digits": "precision", "cluster": "meta.level",
              "stratum": ["kind", "meta.tags"]}  # fmt: skip
    prompt = "{question}\n{choices}\n{hint}"
    hint = {"column": "_kind", "cases": {"choice": "{letters}?", "open": ""}}
    rows[0]["answer"] = "B"
    path = write_task(tmp_path, rows, rule=rule, fields=fields, prompt=prompt, hint=hint,
                      markers="strip", golds="literal", unit="cluster")  # fmt: skip
    one, two, three = all_items(path)
    assert one.question == "Which?\n(A) red\n(B) blue\n{letters}?"  # what is filled in stays
    assert (one.answers, one.choices) == (("B",), ("red", "blue"))
    assert (one.stratum, one.cluster, one.unit) == ("mc / p, q", "1", "mine/1")
    assert (two.question, two.answers, two.rule.digits) == ("How much?", ("2.347",), 2)
    assert (three.answers, three.unit) == (("x", "y"), "mine/1")


def test_golds_by_index_and_in_boxes(tmp_path: Path) -> None:
    rows = rows_of(question=["?", "!"], answer=["1", 0], options=[["a", "b"]] * 2, key=[1, 2])
    fields = {"id": "key", "choices": "options"}
    path = write_task(tmp_path, rows, rule="choice", golds="index", fields=fields)
    assert [item.answers for item in all_items(path)] == [("B",), ("A",)]
    rows = rows_of(question=["?"], answer=["no box"])
    path = write_task(tmp_path, rows, rule="math", golds="boxed")
    with pytest.raises(UserError, match=r"row 1: the solution .* has no \\boxed"):
        all_items(path)


def test_exclude_drops_known_faults_and_where_warns_of_values_nobody_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = rows_of(question=list("abcd"), answer=["1", "", "3", "4"], kind=["x", "x", "y", "x"],
                   key=[1, 2, 3, 4])  # fmt: skip
    keep = {"where": {"kind": ["x", "z"]}, "exclude": {"answer": [""], "key": [4]}}
    path = write_task(tmp_path, rows, fields={"id": "key"}, **keep)
    path.write_text(json.dumps({**json.loads(path.read_text()), "rows": 5}))
    assert [item.question for item in all_items(path)] == ["a"]
    assert "where keeps kind: 'z', which no row has; it holds 'x', 'y'" in caplog.text
    assert "5 items are expected, the data gives 1" in caplog.text


def test_faulty_rows_stop_the_run_or_are_dropped_if_few(tmp_path: Path) -> None:
    rows = rows_of(question=[f"{i}?" for i in range(40)], answer=["1"] * 38 + ["", "?"])
    path = write_task(tmp_path, rows)
    with pytest.raises(UserError, match=r"row 39: .* no gold \(and 1 more of 40 rows: row"):
        all_items(path)
    path = write_task(tmp_path, rows, faulty="drop")
    pool = pool_of(load_task(path), tmp_path)
    assert pool.card()["faulty"] == ["row 39", "row 40"]
    assert "2 faulty rows are dropped, the first: row 39" in pool.warnings[0]
    path = write_task(tmp_path, rows[-22:], faulty="drop")
    with pytest.raises(UserError, match="and 1 more of 22 rows"):
        all_items(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {}}, "data: expected exactly one of zoo, path and hub, found none"),
        ({"data": {"hub": "a/b"}}, "a hub dataset needs split or splits, found neither"),
        ({"data": {"path": "x", "split": "a", "splits": ["b"]}}, "split or splits, found both"),
        ({"data": {"path": "x.csv", "file": "y"}}, "file names a table of a hub repository"),
        ({"prompt": "?"}, r"prompt must contain \{question\}"),
        ({"hint": "x"}, "hint and .hint. in prompt belong together"),
        ({"prompt": "{question}{choices}"}, "name their column in fields.choices"),
        ({"mode": "labels"}, "mode labels is for the rules choice and yes_no"),
        ({"unit": "cluster"}, "unit cluster needs fields.cluster"),
        ({"golds": "index"}, "golds index needs fields.choices"),
        ({"rule": {"name": "exact", "digit": 1}}, "rule.*digit: unknown field"),
        ({"fields": {"cluster": {"column": "a", "size": 0}}}, "size"),
    ],
)
def test_faulty_task_files(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = write_task(tmp_path, [], **changes)
    with pytest.raises(ConfigError, match=words):
        load_task(path)


@pytest.mark.parametrize(
    ("row", "changes", "words"),
    [
        ({"kind": "z"}, {"rule": {"column": "kind", "cases": {"x": "text"}}},
         r"row 1: the column 'kind' holds 'z', for which rule has no case\nhint: cases given: x"),
        ({"d": "two"}, {"fields": {"digits": "d"}}, "holds 'two', which is no number of"),
        ({"n": "x1"}, {"fields": {"cluster": {"column": "n", "size": 2}}}, "expected a whole num"),
        ({"o": ["a"], "answer": "3"}, {"fields": {"choices": "o"}, "rule": "choice",
         "golds": "index"}, "the gold '3' \\(fields.answer\\) is the number of no option"),
        ({}, {"fields": {"stratum": "a.b"}}, "the data has no column a.b"),
        ({}, {"data": {"path": "nowhere"}}, "nowhere is no readable data file"),
        ({}, {"data": {"path": "rows.jsonl", "archive": "no.zip"}}, "no.zip cannot be read"),
    ],
)  # fmt: skip
def test_faulty_rows(
    tmp_path: Path, row: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    path = write_task(tmp_path, [{"question": "?", "answer": "1", **row}], **changes)
    with pytest.raises(UserError, match=words):
        all_items(path)


def test_labels_are_asked_for_by_the_task(tmp_path: Path) -> None:
    rows = rows_of(question=["?"], answer=["no"])
    path = write_task(tmp_path, rows, rule="yes_no", mode="labels")
    assert all_items(path)[0].labels == ("yes", "no")


def test_the_page_for_new_users_can_be_walked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[2] / "docs" / "bring-your-own-questions.md"
    script, sheet, task = re.findall(r"```(?:python|csv|yaml)\n(.*?)```", page.read_text(), re.S)[
        :3
    ]
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "make_folder.py", "exec"), {})
    assert (tmp_path / "digits" / "questions.csv").read_text().startswith(sheet)
    (tmp_path / "digits" / "digits.yaml").write_text(task)
    pool = pool_of(load_task(tmp_path / "digits" / "digits.yaml"), tmp_path / "digits")
    assert [pool.size(split) for split in SPLITS] == [168, 188, 244]  # as the page says
    assert pool.take("search", 1)[0].id == "digits/66fcd4bd26a8a833"
