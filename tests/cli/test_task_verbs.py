"""`mergefront tasks`: what a task file reads, asks and marks, shown before any model is asked."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from fixtures_cli import ZOO_RUN, Command, runner
from mergefront import stats
from mergefront.config import RunConfig
from mergefront.errors import RunError, UserError
from mergefront.jobs.power import comparison_size, disagreement_of_run
from mergefront.runs.directory import RECEIVER, ItemRecord, RunDirectory
from mergefront.tasks import library, load_task, pool_of
from mergefront.yaml_file import validate


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return runner(monkeypatch, capsys)


COLOURS = ("red", "blue", "green", "white")


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    """A folder as a user has it: pictures, a spreadsheet, a task file."""
    lines = ["file,question,answer,options,kind"]
    for number in range(40):
        colour = COLOURS[number % 4]
        name = f"{number:02d}.png"
        Image.new("RGB", (20 + number, 16), colour).save(tmp_path / name)
        options, kind = " | ".join(COLOURS), f"k{number % 2}"
        lines.append(f"{name},Which colour is <this>?,{colour},{options},{kind}")
    lines.append(lines[1])  # the first row once more
    (tmp_path / "cats.csv").write_text("\n".join(lines))
    task = {
        "name": "cats",
        "data": {"path": "cats.csv"},
        "fields": {"images": ["file"], "choices": "options", "stratum": "kind"},
        "prompt": "{question}\n{choices}\nAnswer with the letter.",
        "rule": "choice",
        "licence": "CC0",
    }
    path = tmp_path / "cats.yaml"
    path.write_text(yaml.safe_dump(task))
    return path


def test_the_list_is_the_library(command: Command) -> None:
    code, out, _ = command("tasks", "list", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["name"] for row in rows] == [task.name for task in library()]
    digits = next(row for row in rows if row["name"] == "digits_perception")
    assert (digits["items"], digits["data"], digits["rules"]) == (8820, "shipped", ["exact"])
    code, out, err = command("tasks", "list")
    assert all(re.search(rf"^{row['name']} ", out, re.MULTILINE) for row in rows)
    assert "tasks show" in err


def test_show_names_the_file_to_copy(command: Command, cats: Path) -> None:
    code, out, _ = command("tasks", "show", "digits_reasoning", "--json")
    told = json.loads(out)
    assert (code, told["name"]) == (0, "digits_reasoning")
    assert load_task(Path(told["file"])).name == "digits_reasoning"
    code, out, _ = command("tasks", "show", cats)
    assert code == 0
    assert "CC0" in out
    assert "{choices}" in out


def test_check_shows_what_is_asked_and_how_answers_are_marked(
    command: Command, cats: Path, tmp_path: Path
) -> None:
    out_folder = tmp_path / "look"
    answers = ["--answer", "The answer is (B).", "--answer", "no idea"]
    code, out, err = command(
        "tasks", "check", cats, "--n", 2, *answers, "--out", out_folder, "--json"
    )
    assert code == 0, err
    told = json.loads(out)
    pool = pool_of(load_task(cats), cats.parent)
    assert {s: v["items"] for s, v in told["splits"].items()} == {
        s: pool.size(s) for s in ("search", "validation", "test")
    }
    assert sum(v["items"] for v in told["splits"].values()) == 40
    assert any("left out" in words for words in told["warnings"])
    assert told["commonest"]["share"] == 0.25
    first, second = told["examples"]
    asked = pool.take("search", 2)
    assert [e["id"] for e in told["examples"]] == [i.id for i in asked]
    assert first["prompt"] == asked[0].question
    assert "(A) red" in first["prompt"] or "A. red" in first["prompt"]
    for example, item in zip(told["examples"], asked, strict=True):
        with Image.open(io.BytesIO(item.images[0])) as picture:
            (facts,) = example["images"]
            assert (facts["width"], facts["height"]) == picture.size
        assert facts["bytes"] == len(item.images[0])
    for example in (first, second):
        right, silent = example["marks"]
        assert (right["extracted"], right["status"]) == ("B", "ok")
        assert right["value"] == float(example["answers"] == ["B"])
        assert (silent["status"], silent["value"]) == ("no_answer", 0.0)
    assert json.loads((out_folder / "task.json").read_text()) == told
    page = (out_folder / "index.html").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [base64.b64decode(p) for p in pictures] == [i.images[0] for i in asked]
    assert "Which colour is &lt;this&gt;?" in page
    code, out, _ = command("tasks", "check", cats, "--n", 1, *answers)
    assert code == 0
    assert "| Which colour is <this>?" in out
    assert "'no idea' -> read as '', no_answer, score 0" in out


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_files_of_answers_are_marked_by_item(
    command: Command, cats: Path, tmp_path: Path, kind: str
) -> None:
    items = pool_of(load_task(cats), cats.parent).outline("test")
    rows = [{"item": i.id, "text": i.answers[0] if n else "?"} for n, i in enumerate(items)]
    rows.append({"item": "cats/of another", "text": "A"})
    path = tmp_path / f"answers.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif kind == "csv":
        path.write_text("item,text\n" + "\n".join(f"{r['item']},{r['text']}" for r in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    code, out, err = command("tasks", "check", cats, "--answers", path, "--json")
    assert code == 0, err
    told = json.loads(out)["rescored"]
    n = len(items)
    assert (told["answers"], told["unknown"]) == (n, ["cats/of another"])
    assert told["score"] == pytest.approx((n - 1) / n)
    assert told["status"] == {"ok": n - 1, "no_answer": 1}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"item": "a"}', "row 1 has no text in the column text"),
        ("not json", "cannot be read"),
        ("[1]", "expected an object a line"),
        (None, "No such file"),
    ],
)
def test_faulty_files_of_answers(
    command: Command, cats: Path, tmp_path: Path, content: str | None, expected: str
) -> None:
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_text(content)
    code, out, err = command("tasks", "check", cats, "--answers", path)
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("error:") == 1


def test_fetch_leaves_alone_what_is_here(command: Command, cats: Path) -> None:
    code, out, _ = command("tasks", "fetch", "digits_perception", cats, "--json")
    assert code == 0
    assert [row["folder"] for row in json.loads(out)] == [None, None]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["check", "nothing"], "there is no task 'nothing'"),
        (["show", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["fetch", "nothing"], "there is no task 'nothing'"),
        (["check", "digits_perception", "--out", "."], "exists already"),
        (["power"], "either --discordance or --run"),
        (["power", "--discordance", 0.1, "--run", "x"], "either --discordance or --run"),
        (["power", "--discordance", 1.5], "a discordance of 1.5"),
        (["power", "--discordance", 0.1, "--difference", 0], "a difference of 0 points"),
        (["power", "--discordance", 0.1, "--power", 1], "a power of 1 "),
        (["power", "--run", "none"], "no run here"),
    ],
)
def test_faulty_requests(command: Command, words: list[Any], expected: str) -> None:
    code, out, err = command("tasks", *words)
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("error:") == 1
    assert "hint:" in err


def test_no_rows_kept_is_said(command: Command, cats: Path) -> None:
    task = {**yaml.safe_load(cats.read_text()), "where": {"kind": ["k9"]}}
    cats.write_text(yaml.safe_dump(task))
    code, _, err = command("tasks", "check", cats)
    assert code == 2
    assert "keeps no row" in err


def test_power_needs_what_the_field_needs(command: Command) -> None:
    code, out, _ = command(
        "tasks", "power", "--difference", 2, "--discordance", 0.1, "--items", 1000, "--json"
    )
    (told,) = json.loads(out)
    assert code == 0
    assert told["needed"] == stats.items_needed(0.02, 0.1)
    assert told["detectable"] == stats.detectable(1000, 0.1)
    assert comparison_size(0.02, 0.1, units=told["needed"]).detectable == pytest.approx(
        0.02, abs=1e-4
    )
    doubled = comparison_size(0.02, 0.1, units=1000, design_effect=2.0)
    assert doubled.needed == pytest.approx(2 * told["needed"], abs=1)
    assert doubled.detectable == stats.detectable(500, 0.1)
    assert comparison_size(0.2, 0.1).needed is None
    assert comparison_size(0.02, 0.001, units=3).detectable is None
    code, out, _ = command("tasks", "power", "--difference", 20, "--discordance", 0.1)
    assert "none suffice" in out


def records(objective: str, split: Any, scores: list[float]) -> list[ItemRecord]:
    return [
        ItemRecord(split, objective, "t", f"i{n}", f"c{n // 2}", 0, value, "", "ok", 1, "")
        for n, value in enumerate(scores)
    ]


def test_power_of_a_run_is_its_own_disagreement(command: Command, tmp_path: Path) -> None:
    run = RunDirectory.create_or_resume(tmp_path, validate(ZOO_RUN, RunConfig, "x"))
    base = [1.0, 0, 1, 0, 1, 0, 1, 0]
    with pytest.raises(RunError, match="none are recorded"):
        disagreement_of_run(run)
    run.add_items(RECEIVER, records("reasoning", "search", base))
    one, two = [0.0, *base[1:]], [0.0, 1, 0, *base[3:]]
    for number, scores in enumerate((base, one, two)):
        run.add_items(str(number), records("reasoning", "search", scores))
    (found,) = disagreement_of_run(run)
    assert (found.objective, found.split, found.units, found.models) == (
        "reasoning", "search", 8, 2
    )  # fmt: skip
    assert (found.lowest, found.discordance, found.highest) == (1 / 8, 2 / 8, 3 / 8)
    clusters = [f"c{n // 2}" for n in range(8)]
    effects = [stats.design_effect(scores, base, clusters) for scores in (one, two)]
    assert found.design_effect == pytest.approx(sum(effects) / 2)
    run.add_items(RECEIVER, records("reasoning", "validation", base))
    run.add_items("2", records("reasoning", "validation", two))
    code, out, _ = command("tasks", "power", "--run", "x", "--runs", tmp_path, "--json")
    (told,) = json.loads(out)
    assert code == 0
    assert (told["split"], told["models"], told["discordance"]) == ("validation", 1, 3 / 8)
    assert told["units"] == 8
    code, out, _ = command("tasks", "power", "--run", "x", "--runs", tmp_path)
    assert "reasoning (validation, 1 candidates)" in out


def test_size_refuses_nonsense() -> None:
    with pytest.raises(UserError, match="make no question"):
        comparison_size(1.5, 0.1)
