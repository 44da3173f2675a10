"""A search on two library tasks for each objective, from local copies in their real schema.

The copies hold questions and pictures of the zoo, so that the zoo's receiver can answer them; the
task files are the library's own but for `max_tokens`, since the zoo's context is 128 tokens.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Sequence as ListOf
from datasets import disable_progress_bars

from fixtures_cli import ZOO_RUN, runner
from fixtures_tasks import F64, I64, IMAGE, S, clone, save, table
from mergefront import zoo
from mergefront.runs.directory import RECEIVER, RunDirectory
from mergefront.runs.front import read_front
from mergefront.runs.history import estimates_of
from mergefront.tasks.task_file import LIBRARY

pytestmark = pytest.mark.slow

NAMES = {"reasoning": ["mathverse", "mathvista_math"], "perception": ["realworldqa", "ocrbench"]}
ROWS = 120


def zoo_rows(task: str, part: int) -> list[tuple[str, str, dict[str, Any]]]:
    """Questions of the zoo with a number or word for an answer: (question, answer, image)."""
    found = []
    for row in zoo.questions(task)[part::2]:
        if task == "digits_reasoning" and not row["answer"].isdigit():
            continue
        buffer = io.BytesIO()
        zoo.render(row["scans"], row["tints"]).save(buffer, format="PNG")
        found.append((row["question"], row["answer"], {"bytes": buffer.getvalue(), "path": None}))
        if len(found) == ROWS:
            break
    return found


def build_copies(root: Path) -> None:
    """Copies of four data sets under root/<hub id>."""
    disable_progress_bars()
    text = ("sample_index", "problem_index", "problem_version", "question_type", "query_cot")
    columns: dict[str, Any] = {
        **dict.fromkeys((*text, "answer"), S),
        **{"image": IMAGE, "metadata": {"subject": S}},
    }
    rows: list[dict[str, Any]] = [
        {"sample_index": str(i), "problem_index": str(i // 5), "problem_version": f"v{i % 5}",
         "question_type": "free-form", "query_cot": asked, "answer": gold, "image": image,
         "metadata": {"subject": "digits"}}
        for i, (asked, gold, image) in enumerate(zoo_rows("digits_reasoning", 0))
    ]  # fmt: skip
    clone(root / "AI4Math/MathVerse", "testmini", {"testmini": table(columns, rows)})
    columns = {
        **dict.fromkeys(("pid", "query", "answer", "answer_type"), S),
        **{"decoded_image": IMAGE, "choices": ListOf(S), "precision": F64},
        "metadata": {"category": S, "task": S, "img_width": I64},
    }
    rows = [
        {"pid": str(i), "query": asked, "answer": gold, "answer_type": "integer",
         "decoded_image": image, "metadata": {"category": "math-targeted-vqa", "task": "sums"}}
        for i, (asked, gold, image) in enumerate(zoo_rows("digits_reasoning", 1))
    ]  # fmt: skip
    save(root / "AI4Math/MathVista", {"testmini": table(columns, rows)})
    columns = {"image": IMAGE, "question": S, "answer": S}
    rows = [
        {"image": image, "question": asked, "answer": gold}
        for asked, gold, image in zoo_rows("digits_perception", 0)
    ]
    save(root / "lmms-lab-encoder/RealWorldQA", {"test": table(columns, rows)})
    columns = {**columns, "answer": ListOf(S), "question_type": S}
    rows = [
        {"image": image, "question": asked, "answer": [gold], "question_type": "zoo"}
        for asked, gold, image in zoo_rows("digits_perception", 1)
    ]
    save(root / "echo840/OCRBench", {"test": table(columns, rows)})


def test_two_library_tasks_for_each_objective(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build_copies(tmp_path / "datasets")
    monkeypatch.setenv("MERGEFRONT_DATASETS", str(tmp_path / "datasets"))
    objectives = {}
    for objective, names in NAMES.items():
        for name in names:
            text = (LIBRARY / f"{name}.yaml").read_text()
            (tmp_path / f"{name}.yaml").write_text(re.sub("max_tokens: .*", "max_tokens: 4", text))
        objectives[objective] = [str(tmp_path / f"{name}.yaml") for name in names]
    config = {
        **ZOO_RUN,
        "objectives": objectives,
        "items": {"search": 20, "validation": 40, "test": 40},
        "budget": {"candidates": 5, "hours": 1},
        "report": {"finalists": 2},
        "engine": {"kind": "transformers", "dtype": "float32", "threads": 1},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = runner(monkeypatch, capsys)
    code, _, _ = command("search", tmp_path / "run.yaml", "--runs", tmp_path)
    assert code == 0
    run = RunDirectory.open(tmp_path / "x")
    records = run.read_with_costs(RECEIVER, "validation")
    assert {(r.objective, r.task) for r in records} == {
        (objective, name) for objective, names in NAMES.items() for name in names
    }
    means = {name: one.mean for name, one in estimates_of(records).items()}
    assert means["perception"] > 0.8  # it sees, by the rules text and contains
    assert means["reasoning"] < 0.6
    assert len(read_front(run).members) == 2
    data = run.manifest()["items"]["data"]
    assert set(data) == {name for names in NAMES.values() for name in names}
    assert all(sum(one["items"].values()) > 100 for one in data.values())
