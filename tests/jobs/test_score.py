"""`mergefront score`: what it says is what the model answered, and what a run recorded."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from fixtures_cli import ZOO_RUN, Command, runner
from mergefront import stats
from mergefront.cli import main
from mergefront.config import EngineConfig
from mergefront.engine.answering import MarkedAnswer
from mergefront.errors import UserError
from mergefront.jobs import score as scoring
from mergefront.jobs.score import models
from mergefront.jobs.score import questions as model_answers
from mergefront.jobs.score.report import (
    caveats,
    compare,
    label_mass,
    label_probability,
    summarise,
    task_scores,
)
from mergefront.records import Answer, Item, Rule, Score, Status
from mergefront.runs.directory import RECEIVER, RunDirectory
from mergefront.runs.front import read_front
from mergefront.runs.history import estimates_of, open_study
from mergefront.runs.reopen import reopen_candidate

pytestmark = pytest.mark.slow

CONFIG: dict[str, Any] = {
    **ZOO_RUN,
    "space": "ties_density",
    "items": {"search": 24, "validation": 40, "test": 30},
    "budget": {"candidates": 4},
    "search": {"warm_start": ["uniform"]},
    "report": {"finalists": 2, "blind": False},
    "engine": {"kind": "transformers", "dtype": "float32"},
    "tracking": {"enabled": False},
}
YES_NO = {
    "name": "exists",
    "data": {"zoo": "digits_perception"},
    "fields": {"id": "id", "cluster": "cluster", "stratum": "kind", "split": "split"},
    "where": {"kind": ["exists"]},
    "rule": "yes_no",
    "max_tokens": 4,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        words = ["mergefront", "search", str(folder / "run.yaml"), "--runs", str(folder)]
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit, match="0"):
            main()
    return RunDirectory.open(folder / "x")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return runner(monkeypatch, capsys)


@pytest.fixture
def score(command: Command) -> Callable[..., dict[str, Any]]:
    """Runs `mergefront score WORDS --json` and returns what it prints."""

    def ask(*words: object) -> dict[str, Any]:
        code, out, err = command("score", *words, "--json")
        assert code == 0, err
        return dict(json.loads(out))

    return ask


def marked(
    name: str, value: float, *, task: str = "t", status: Status = "ok", images: int = 1, **item: Any
) -> MarkedAnswer:
    asked = Item(name, task, "?", (b"",) * images, ("A",), item.pop("cluster", name), **item)
    return MarkedAnswer(asked, Answer("A", 3, status != "truncated"), Score(value, "A", status))


def test_a_summary_counts_units_once_and_rates_by_item() -> None:
    some = [
        marked("a1", 1.0, unit="a", cluster="a", stratum="s"),
        marked("a2", 0.0, unit="a", cluster="a", stratum="s", status="no_answer"),
        marked("b", 1.0, stratum="s"),
        marked("c", 0.5, stratum="r", status="truncated"),
    ]
    whole = summarise(some)
    assert (whole.items, whole.units) == (4, 3)
    assert whole.score == pytest.approx(0.5)  # a: 0, b: 1, c: 0.5
    assert (whole.no_answer, whole.truncated, whole.tokens) == (0.25, 0.25, 3.0)
    expected = stats.estimate([0.0, 1.0, 0.5], ["a", "b", "c"])
    assert (whole.low, whole.high) == stats.wilson(expected)
    scores = task_scores(some)
    assert {name: s.score for name, s in scores.strata.items()} == {"s": 0.5, "r": 0.5}
    assert task_scores([*some, marked("d", 1.0, stratum="r")]).macro == pytest.approx(0.625)


def test_the_probability_of_the_right_labels() -> None:
    item = Item("i", "t", "?", (), ("B",), "c", choices=("x", "y", "z"), rule=Rule("choice"))
    item = replace(item, labels=("A", "B", "C"))
    logs = tuple(math.log(p) for p in (0.1, 0.2, 0.1))  # 0.6 is on other words
    reply = MarkedAnswer(item, Answer("B", 1, True, logs), Score(1, "B", "ok"))
    assert label_probability(reply) == pytest.approx(0.5)
    assert label_mass(reply) == pytest.approx(0.4)
    model = scoring.ScoredModel("m", EngineConfig())
    (caveat,) = caveats([scoring.ModelAnswers(model, {"t": [reply]}, {})])
    assert caveat.startswith("m begins only 40 % of its replies to t with a label")
    sure = MarkedAnswer(item, Answer("B", 1, True, (-5.0, -0.1, -5.0)), Score(1, "B", "ok"))
    assert not caveats([scoring.ModelAnswers(model, {"t": [sure]}, {})])
    silent = MarkedAnswer(item, Answer("", 1, True, (-math.inf,) * 3), Score(0, "", "no_answer"))
    assert label_probability(silent) == 0.0
    assert summarise([marked("a", 1.0)]).probability is None


def test_comparisons_pair_units_and_adjust_over_tasks() -> None:
    def answers(values: list[float], task: str, **item: Any) -> list[MarkedAnswer]:
        return [marked(str(i), v, task=task, **item) for i, v in enumerate(values)]

    a, b = [1.0, 1, 1, 1, 1, 1, 0, 1], [0.0, 0, 0, 0, 0, 0, 0, 1]
    one = {"p": answers(a, "p"), "q": answers(a, "q", cluster="same")}
    two = {"p": answers(b, "p")[::-1], "q": answers(b, "q", cluster="same")}
    found = compare(one, two)
    assert found["p"].comparison.p == stats.mcnemar(a, b) == pytest.approx(2 / 2**6)
    assert found["p"].comparison.test == "mcnemar"
    assert found["p"].comparison.discordance == 6 / 8
    assert found["p"].comparison.difference.mean == 6 / 8
    assert found["p"].p_holm == pytest.approx(2 * found["p"].comparison.p)
    assert (found["q"].comparison.test, found["q"].comparison.p) == ("clustered t", 1.0)


def test_blind_answers_are_compared_where_there_were_images() -> None:
    seen = [marked("a", 1.0), marked("b", 1.0), marked("text", 0.0, images=0)]
    blind = [marked("a", 1.0, images=0), marked("b", 0.0, images=0)]
    found = task_scores(seen, blind).blind
    assert found is not None
    assert (found.summary.units, found.summary.score, found.gain.mean) == (2, 0.5, 0.5)


def test_a_model_folder_by_category_and_the_files_that_say_why(
    score: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "scored"
    words = ["zoo:vlm", "--tasks", "digits_perception,digits_reasoning", "--limit", 40]
    told = score(*words, "--engine", "transformers", "--blind", "--out", out)
    assert told == json.loads((out / "scores.json").read_text())
    assert (told["mode"], told["split"]) == ("generate", "all")
    rows = pq.read_table(out / "items.parquet").to_pylist()
    assert len(rows) == 160
    for task, found in told["models"][0]["tasks"].items():
        mine = [r for r in rows if r["task"] == task and not r["blind"]]
        assert found["whole"]["items"] == found["whole"]["units"] == len(mine) == 40
        assert found["whole"]["score"] == pytest.approx(sum(r["score"] for r in mine) / 40)
        assert Counter(r["stratum"] for r in mine) == {
            name: one["items"] for name, one in found["strata"].items()
        }
        unseen = [r for r in rows if r["task"] == task and r["blind"]]
        assert all(r["images"] == 0 for r in unseen)
        gain = sum(r["score"] for r in mine) / 40 - sum(r["score"] for r in unseen) / 40
        assert found["blind"]["gain"]["mean"] == pytest.approx(gain)
    perception = told["models"][0]["tasks"]["digits_perception"]
    assert perception["whole"]["score"] > 0.8  # the receiver perceives,
    assert perception["blind"]["gain"]["low"] > 0.3  # and needs its eyes for it


def test_a_candidate_scores_what_its_run_recorded(
    score: Callable[..., dict[str, Any]], run: RunDirectory
) -> None:
    before = len(open_study(run).user_attrs["openings"])
    member = read_front(run).members[0]
    told = score(f"x:{member.number}", "--against", "x:receiver", "--runs", run.path.parent)
    assert told["split"] == "validation"
    assert [one["name"] for one in told["models"]] == [f"x:{member.number}", "x:receiver"]
    for name, one in zip((str(member.number), RECEIVER), told["models"], strict=True):
        recorded = estimates_of(run.read_with_costs(name, "validation"))
        for objective, estimate in recorded.items():
            found = one["tasks"][f"digits_{objective}"]["whole"]
            assert found["units"] == estimate.n == 40
            assert found["score"] == pytest.approx(estimate.mean)
            assert found["se"] == pytest.approx(estimate.se)
    for objective, gain in member.gain.items():
        found = told["comparison"][f"digits_{objective}"]["comparison"]["difference"]
        assert {k: found[k] for k in ("mean", "low", "high")} == {
            k: pytest.approx(getattr(gain, k)) for k in ("mean", "low", "high")
        }
    opened = open_study(run).user_attrs["openings"][before:]
    assert [(o["split"], o["model"]) for o in opened] == [
        ("validation", str(member.number)), ("validation", RECEIVER)
    ]  # fmt: skip
    assert len(told["notes"]) == 2


def test_test_items_are_opened_with_a_note_and_search_items_called_optimistic(
    command: Command, run: RunDirectory
) -> None:
    def asked(*words: object) -> str:
        code, _, err = command("score", "x:0", "--runs", run.path.parent, "--limit", 5, *words)
        assert code == 0, err
        return err

    def opened() -> list[tuple[str, str]]:
        return [(o["split"], o["model"]) for o in open_study(run).user_attrs["openings"]]

    before = opened()
    assert "recorded in its study" in asked("--split", "test")
    assert opened() == [*before, ("test", "0")]
    assert "score on them is optimistic" in asked("--split", "search")
    other = asked("--split", "test", "--tasks", "digits_reasoning")
    assert "recorded in its study" in other  # a task of the run, although named
    assert opened()[len(before) :] == [("test", "0"), ("test", "0")]


def test_a_recipe_answers_as_the_candidate_it_came_from(
    score: Callable[..., dict[str, Any]], run: RunDirectory, tmp_path: Path
) -> None:
    named = reopen_candidate(run, "1")
    (tmp_path / "recipe.json").write_text(named.recipe.to_json())
    engine = tmp_path / "engine.yaml"
    engine.write_text("{kind: transformers, dtype: float32, batch_size: 64}")
    words = ["--tasks", "digits_reasoning", "--split", "search", "--limit", 24]
    told = score(
        tmp_path / "recipe.json", *words, "--engine", engine, "--against", "x:1",
        "--runs", run.path.parent,
    )  # fmt: skip
    assert told["comparison"]["digits_reasoning"]["comparison"]["discordance"] == 0.0
    assert told["models"][0]["recipe"] == named.recipe.hash() == told["models"][1]["recipe"]


def test_engines_are_started_once_where_they_can_be_shared(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    inner = models.open_engine  # type: ignore[attr-defined]  # replaced where it is used

    def counting(*arguments: Any, **named: Any) -> Any:
        started.append(arguments)
        return inner(*arguments, **named)

    monkeypatch.setattr(models, "open_engine", counting)
    runs = run.path.parent
    candidate = scoring.find_model("x:1", runs)
    plain = scoring.find_model("zoo:vlm", runs, "transformers")
    questions = scoring.questions_of_tasks(["digits_perception"], "search", 12)
    three = [candidate, scoring.receiver_of(candidate), plain]
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(model_answers, "CHUNK", 5)
    found = scoring.ask_models(three, questions, progress=lambda *done: asked.append(done))
    assert len(started) == 2
    assert asked == [(n, 36) for n in (5, 10, 12, 17, 22, 24, 29, 34, 36)]
    assert [m.item for m in found[0].tasks["digits_perception"]] == questions.flat()
    texts = [[m.answer.text for m in one.tasks["digits_perception"]] for one in found]
    assert texts[1] == texts[2]  # the receiver, built and as it lies on disk


def test_labels_are_scored_and_the_report_says_so(
    command: Command, score: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "exists.yaml").write_text(yaml.safe_dump(YES_NO))
    (tmp_path / "default.yaml").write_text(yaml.safe_dump({**YES_NO, "mode": "labels"}))
    words = ["--split", "search", "--limit", 30, "--engine", "transformers"]
    spoken = score("zoo:vlm", "--tasks", tmp_path / "exists.yaml", *words)
    labelled = score("zoo:vlm", "--tasks", tmp_path / "exists.yaml", "--labels", *words)
    by_default = score("zoo:vlm", "--tasks", tmp_path / "default.yaml", *words)
    assert (spoken["mode"], labelled["mode"], by_default["mode"]) == (
        "generate", "labels", "labels"
    )  # fmt: skip
    one, two = (told["models"][0]["tasks"]["exists"]["whole"] for told in (labelled, by_default))
    assert one == two
    assert one["score"] == spoken["models"][0]["tasks"]["exists"]["whole"]["score"]
    assert 0.5 < one["probability"] < 1.0
    code, out, err = command("score", "zoo:vlm", "--tasks", tmp_path / "default.yaml", *words)
    assert (code, "labels compared by log-probability" in out) == (0, True), err
    assert "p(right) %" in out


def test_labels_are_for_the_items_that_have_some(tmp_path: Path) -> None:
    rows = [
        {"question": "is it?", "answer": "yes", "kind": "closed"},
        {"question": "how many?", "answer": "3", "kind": "open"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    task = {
        "name": "both", "data": {"path": "rows.jsonl"}, "fields": {"images": []},
        "rule": {"column": "kind", "cases": {"closed": "yes_no", "open": "number"}},
    }  # fmt: skip
    path = tmp_path / "both.yaml"
    path.write_text(yaml.safe_dump(task))
    questions = scoring.questions_of_tasks([str(path)], "all").by_labels()
    assert {i.rule.name: i.labels for i in questions.flat()} == {
        "yes_no": ("yes", "no"), "number": ()
    }  # fmt: skip
    assert questions.mode() == questions.mode("both") == "mixed"


def test_limits_keep_units_whole(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"{pair}{i}",
            "pair": f"p{pair}",
            "question": f"is {i} of pair {pair} right?",
            "answer": "yes",
            "split": "test",
        }
        for pair in range(4)
        for i in range(3)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    task = {
        "name": "pairs", "data": {"path": "rows.jsonl"}, "rule": "yes_no", "unit": "cluster",
        "fields": {"id": "id", "images": [], "cluster": "pair", "split": "split"},
    }  # fmt: skip
    path = tmp_path / "pairs.yaml"
    path.write_text(yaml.safe_dump(task))
    questions = scoring.questions_of_tasks([str(path)], "all", 7)
    assert Counter(Counter(i.unit for i in questions.flat()).values()) == {3: 2}
    with pytest.raises(UserError, match="task pairs: it has no validation items"):
        scoring.questions_of_tasks([str(path)], "validation")


def test_the_engine_is_named_or_found(tmp_path: Path) -> None:
    own = EngineConfig(kind="vllm", dtype="bfloat16")
    assert scoring.engine_settings(None, own) == own
    assert scoring.engine_settings("transformers", own).dtype == "bfloat16"
    with pytest.raises(UserError, match="expected vllm or transformers, or a YAML file"):
        scoring.engine_settings("tgi")
    (tmp_path / "e.yaml").write_text("{kind: transformers, speed: 9}")
    with pytest.raises(UserError, match="speed: unknown field"):
        scoring.engine_settings(str(tmp_path / "e.yaml"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["zoo:vlm"], "no task to score zoo:vlm on"),
        (["zoo:vlm", "--tasks", "nothing"], "there is no task 'nothing'"),
        (["zoo:vlm", "--tasks", ","], "--tasks is empty"),
        (["zoo:vlm", "--tasks", "digits_perception,digits_perception"], "is given twice"),
        (["zoo:base", "--tasks", "digits_perception"], "LlamaForCausalLM, which has no vision"),
        (["zoo:none", "--tasks", "digits_perception"], "the zoo has no model 'none'"),
        (["none.json", "--tasks", "digits_perception"], "none.json: no such recipe file"),
        (["nowhere:knee", "--tasks", "digits_perception"], "there is no run 'nowhere'"),
        (["no/such/model", "--tasks", "digits_perception"], "no such folder"),
        (["zoo:vlm", "--tasks", "digits_perception", "--labels"], "rule exact has no labels"),
        (["zoo:vlm", "--tasks", "digits_perception", "--against", "receiver"], "no receiver"),
        (["zoo:vlm", "--tasks", "digits_perception", "--out", "."], ". exists already"),
        (["zoo:vlm", "--tasks", "digits_perception", "--engine", "x"], "--engine 'x': expected"),
    ],
)
def test_faulty_requests(command: Command, words: list[str], expected: str) -> None:
    code, out, err = command("score", *words)
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("error:") == 1
    assert "hint:" in err
