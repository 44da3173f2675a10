"""Small local copies of the perception data sets, in their real schema (see fixtures_tasks)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Sequence as ListOf

from fixtures_tasks import (
    BLINK_PERCEPTION,
    BLINK_REASONING,
    F64,
    I32,
    I64,
    IMAGE,
    S,
    clone,
    save,
    shown,
    table,
)

LETTERS = "(A) red\n(B) blue\n(C) green\n(D) grey"


def build_perception(root: Path) -> None:
    """Copies of the data sets of perception tasks, under root/<hub id>."""
    _mmstar(root)
    _blink(root)
    _pairs_and_places(root)
    _reading(root)
    _counting(root)


def _mmstar(root: Path) -> None:
    about = {"source": S, "split": S, "image_path": S}
    text = dict.fromkeys(("question", "answer", "category", "l2_category"), S)
    columns = {**text, "index": I64, "image": IMAGE, "meta_info": about}
    categories = [
        ("coarse perception", "image emotion"),
        ("fine-grained perception", "object counting"),
        ("instance reasoning", "single-instance reasoning"),
        ("logical reasoning", "diagram reasoning"),
        ("science & technology", "geography"),
        ("math", "geometry"),
    ]
    rows: list[dict[str, Any]] = [
        {
            **{"index": i, "answer": "ABCD"[i % 4], "category": one, "l2_category": two},
            "question": f"Which is {i}?\nOptions: A: a, b, B: Blue, C: C:\\ , D: none",
            "image": shown(20 + i),
        }
        for i, (one, two) in enumerate(categories)
    ]
    clone(root / "Lin-Chen/MMStar", "default", {"val": table(columns, rows)})


def _blink(root: Path) -> None:
    text = dict.fromkeys(("idx", "question", "sub_task", "prompt", "answer", "explanation"), S)
    images = {f"image_{i}": IMAGE for i in range(1, 5)}
    columns = {**text, **images, "choices": ListOf(S)}
    for number, config in enumerate((*BLINK_PERCEPTION, *BLINK_REASONING)):
        two = config == "Jigsaw"
        row = {
            **{"idx": f"val_{config}_1", "sub_task": config, "answer": "(B)"},
            **{"choices": ["red", "blue"], "question": f"About {config}?"},
            "prompt": f"About {config}?\nSelect from the following choices.\n(A) red\n(B) blue",
            **{"image_1": shown(50 + 2 * number), "image_2": shown(99) if two else None},
        }
        hidden = {**row, "idx": f"test_{config}_1", "answer": "hidden"}
        val, test = table(columns, [row]), table(columns, [hidden])
        clone(root / "BLINK-Benchmark/BLINK", config, {"val": val, "test": test})


def _pairs_and_places(root: Path) -> None:
    text = dict.fromkeys(("Question", "Options", "Correct Answer"), S)
    columns = {"Index": I32, **text, "image": IMAGE}
    rows: list[dict[str, Any]] = [
        {
            **{"Index": i, "Question": f"Tusks of pair {(i - 1) // 2}?", "image": shown(120 + i)},
            **{
                "Options": "(a) Short (b) Very long",
                "Correct Answer": "(a)" if i % 2 else "(b)",
            },
        }
        for i in range(1, 7)
    ]
    save(root / "lmms-lab-eval/MMVP", {"train": table(columns, rows)})

    columns = {"image": IMAGE, "question": S, "answer": S}
    only = "Please answer directly with only the letter of the correct option and nothing else."
    rows = [
        {"image": shown(130), "answer": "B",
         "question": f"Which car is closer?\n\nA. The left one.\nB. The right one.\n{only}"},
        {"image": shown(131), "answer": "3",
         "question": "How many lanes? Please answer directly with a single word or number."},
    ]  # fmt: skip
    save(root / "lmms-lab-encoder/RealWorldQA", {"test": table(columns, rows)})

    text = dict.fromkeys(("text", "category", "label", "question_id"), S)
    columns = {"image": IMAGE, **text}
    asked = "What is the colour of the glove?\n" + LETTERS
    rows = [
        {"image": shown(140), "text": asked, "category": "direct_attributes", "label": "C",
         "question_id": "0"},
        {"image": shown(141), "text": asked, "category": "relative_position", "label": "A",
         "question_id": "0"},
    ]  # fmt: skip
    save(root / "lmms-lab-encoder/vstar-bench", {"test": table(columns, rows)})


def _reading(root: Path) -> None:
    text = dict.fromkeys(("image_id", "question", "flickr_original_url", "set_name"), S)
    columns = {
        **{**text, "question_id": I32, "image": IMAGE, "image_width": I32},
        **{"answers": ListOf(S), "ocr_tokens": ListOf(S), "image_classes": ListOf(S)},
    }
    rows: list[dict[str, Any]] = [
        {"image_id": "a1", "question": f"What brand is {i}?", "question_id": 34602 + i,
         "image": shown(150), "answers": ["nokia"] * 7 + ["Nokia phone"] * 2 + ["unknown"]}
        for i in range(2)
    ]  # fmt: skip
    save(root / "lmms-lab-encoder/textvqa", {"validation": table(columns, rows)})

    columns = {"dataset": S, "question": S, "question_type": S, "answer": ListOf(S), "image": IMAGE}
    rows = [
        {"dataset": "IIIT5K", "question": "What is written in the image?", "answer": ["CENTRE"],
         "question_type": "Regular Text Recognition", "image": shown(160)},
        {"dataset": "docVQA", "question": "What is the date?", "answer": ["1 May", "May 1"],
         "question_type": "Doc-oriented VQA", "image": shown(161)},
        {"dataset": "docVQA", "question": "What is the date?", "answer": ["1 May", "May 1"],
         "question_type": "Doc-oriented VQA", "image": shown(161)},
    ]  # fmt: skip
    save(root / "echo840/OCRBench", {"test": table(columns, rows)})

    columns = {"type": S, "question": S, "answer": S, "image": IMAGE}
    rows = [
        {"type": "human_test", "question": "How many bars?", "answer": "14", "image": shown(170)},
        {"type": "augmented_test", "question": "Which?", "answer": "Inspired", "image": shown(171)},
    ]
    save(root / "lmms-lab-encoder/ChartQA", {"test": table(columns, rows)})

    columns = {"question": S, "options": ListOf(S), "answer": S, "image": IMAGE}
    rows = [{"question": "What eats grass?", "options": ["fox", "hawk", "hare", "owl"],
             "answer": "2", "image": shown(180)}]  # fmt: skip
    save(root / "lmms-lab-encoder/ai2d", {"test": table(columns, rows)})


def _counting(root: Path) -> None:
    text = dict.fromkeys(("id", "question_id", "question", "answer", "image_source"), S)
    columns = {**text, "image": IMAGE, "category": S}
    rows: list[dict[str, Any]] = [
        {"id": str(number), "question_id": str(number % 2), "category": category,
         "question": f"Is there a {thing} in the image?", "answer": "no" if number % 2 else "yes",
         "image_source": "COCO_val2014_000000310196", "image": shown(190)}
        for number, (category, thing) in enumerate(
            [("random", "snowboard"), ("random", "dining table"),
             ("popular", "snowboard"), ("popular", "person")]
        )
    ]  # fmt: skip
    save(root / "lmms-lab-encoder/POPE", {"test": table(columns, rows)})

    columns = {"image": IMAGE, "text": S, "question": S, "number": I32}
    rows = [{"image": shown(200), "text": "a photo of ten apples", "number": 10,
             "question": "How many apples are there?"}]  # fmt: skip
    save(root / "vikhyatk/CountBenchQA", {"test": table(columns, rows)})

    text = dict.fromkeys(("type", "task", "question", "answer", "prompt", "filename", "source"), S)
    columns = {
        **{"idx": I64, **text, "image": IMAGE, "choices": ListOf(S)},
        **{"source_dataset": S, "bbox": ListOf(ListOf(F64)), "target_class": S},
    }
    rows = [
        {"idx": 0, "type": "2D", "task": "Count", "question": "How many?", "answer": "(C)",
         "prompt": "How many?\n(A) 1\n(B) 2\n(C) 3", "choices": ["1", "2", "3"],
         "source": "ADE20K", "image": shown(210)},
        {"idx": 1, "type": "3D", "task": "Depth", "question": "Closer?", "answer": "(A)",
         "prompt": "Closer?\n(A) sofa\n(B) door", "choices": ["sofa", "door"],
         "source": "Omni3D", "image": shown(211), "bbox": [[1.0, 2.0]]},
    ]  # fmt: skip
    save(root / "nyu-visionx/CV-Bench", {"test": table(columns, rows)})
