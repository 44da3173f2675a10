"""The zoo ships what zoo.json says, its questions are right, and its receiver can see."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tools.zoo.scenes import Scene, solve

from mergefront import zoo
from mergefront.errors import UserError
from mergefront.records import SPLITS
from mergefront.zoo.pictures import FOLDER, SIDE, shipped_scans
from mergefront.zoo.questions import Task
from mergefront.zoo.words import VOCABULARY

LIMIT = 12_000_000
ROWS = {task: zoo.questions(task) for task in zoo.TASKS}


def ledger() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / "zoo.json").read_text())
    return loaded


def test_shipped_files_have_the_recorded_hashes() -> None:
    recorded = ledger()["sha256"]
    assert {name.split("/")[0] for name in recorded} >= set(zoo.MODELS)
    for name, expected in recorded.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == expected, name


def test_shipped_files_stay_small() -> None:
    assert sum((FOLDER / name).stat().st_size for name in ledger()["sha256"]) <= LIMIT


def test_the_recorded_quality_bar_is_met() -> None:
    assert not [line["name"] for line in ledger()["bar"] if not line["met"]]


@pytest.mark.parametrize("task", zoo.TASKS)
def test_every_split_has_enough_questions(task: Task) -> None:
    count = Counter(row["split"] for row in ROWS[task])
    assert set(count) == set(SPLITS)
    assert min(count.values()) >= 2000
    assert count["test"] >= 4000


def test_splits_and_clusters_share_no_scan() -> None:
    owner: dict[int, tuple[str, str]] = {}
    for row in (row for rows in ROWS.values() for row in rows):
        for scan in row["scans"]:
            assert owner.setdefault(scan, (row["split"], row["cluster"])) == (
                row["split"],
                row["cluster"],
            )
        assert len(set(row["scans"])) == 4


def test_identifiers_are_unique() -> None:
    names = [row["id"] for rows in ROWS.values() for row in rows]
    assert len(set(names)) == len(names)


def test_answers_follow_from_the_digits_of_the_scans() -> None:
    _, digits = shipped_scans()
    for row in (row for rows in ROWS.values() for row in rows):
        scene = Scene(tuple(int(digits[scan]) for scan in row["scans"]), row["tints"])
        assert solve(row["question"], scene) == row["answer"], row


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("what is top-left plus bottom-right ?", "10"),
        ("what is the difference between top-right and top-left ?", "5"),
        ("is top-left even or odd ?", "odd"),
        ("what is the larger of bottom-left and bottom-right ?", "7"),
        ("what is the smaller of bottom-left and bottom-right ?", "0"),
        ("is bottom-left larger than top-left ?", "no"),
        ("which digit is at bottom-right ?", "7"),
        ("which colour is at bottom-left ?", "blue"),
        ("how many digits are red ?", "2"),
        ("is there a 9 ?", "no"),
        ("which digit is blue ?", "0"),
        ("which digit is red ?", None),
    ],
)
def test_solve_by_hand(question: str, answer: str | None) -> None:
    assert solve(question, Scene((3, 8, 0, 7), (0, 1, 2, 0))) == answer


def test_solve_refuses_other_questions() -> None:
    with pytest.raises(ValueError, match="not a question of the zoo"):
        solve("what time is it ?", Scene((3, 8, 0, 7), (0, 1, 2, 0)))


@pytest.mark.parametrize("task", zoo.TASKS)
@pytest.mark.parametrize("split", SPLITS)
def test_a_constant_answer_earns_little(task: Task, split: str) -> None:
    rows = [row for row in ROWS[task] if row["split"] == split]
    by_kind: dict[str, Counter[str]] = {}
    for row in rows:
        by_kind.setdefault(row["kind"], Counter())[row["answer"]] += 1
    assert sum(max(count.values()) for count in by_kind.values()) / len(rows) < 0.26


def test_the_vocabulary_has_every_word() -> None:
    known = set(VOCABULARY)
    for row in (row for rows in ROWS.values() for row in rows):
        assert {*row["question"].split(), row["answer"]} <= known


def test_pictures_are_always_the_same() -> None:
    row = ROWS["digits_perception"][0]
    first, again = (np.asarray(zoo.render(row["scans"], row["tints"])) for _ in range(2))
    assert first.shape == (SIDE, SIDE, 3)
    assert np.array_equal(first, again)
    assert (first.reshape(2, 32, 2, 32, 3).max((1, 3, 4)) > 200).all()


def test_model_folder_names_the_legal_set() -> None:
    assert zoo.model_folder("vlm").is_dir()
    with pytest.raises(UserError, match="no model 'llava'") as caught:
        zoo.model_folder("llava")
    assert "comparison" in str(caught.value)


def test_questions_name_the_legal_set() -> None:
    with pytest.raises(UserError, match="no task 'digits'") as caught:
        zoo.questions("digits")
    assert "digits_reasoning" in str(caught.value)


def test_the_receiver_answers_through_its_processor() -> None:
    folder = zoo.model_folder("vlm")
    processor = transformers.AutoProcessor.from_pretrained(folder)
    receiver = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    rows = [row for row in ROWS["digits_perception"] if row["split"] == "validation"][:48]
    prompts = [
        processor.apply_chat_template(
            [
                {
                    "role": "user",
                    "content": [{"type": "image"}, {"type": "text", "text": row["question"]}],
                }
            ],
            add_generation_prompt=True,
            tokenize=False,
        )
        for row in rows
    ]
    images = [[zoo.render(row["scans"], row["tints"])] for row in rows]
    inputs = processor(text=prompts, images=images, padding=True, return_tensors="pt")
    assert processor.tokenizer.unk_token_id not in inputs["input_ids"]
    with torch.no_grad():
        output = receiver.generate(**inputs, max_new_tokens=4, do_sample=False)
    said = processor.batch_decode(
        output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    right = [text.strip() == row["answer"] for text, row in zip(said, rows, strict=True)]
    assert np.mean(right) > 0.8
