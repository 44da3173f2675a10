"""Small local copies of the library's data sets, in their real schema.

Column names, types and quirks (options as Python text, float64 decimals, image columns that are
None, golds in brackets) are those of the published data; the questions are made up here. A copy is
what a user has under $MERGEFRONT_DATASETS: a folder of save_to_disk, or a clone of the repository.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Image, Value, disable_progress_bars
from datasets import Sequence as ListOf
from PIL import Image as Pillow

S, I32, I64, F64, IMAGE = (
    Value("string"),
    Value("int32"),
    Value("int64"),
    Value("float64"),
    Image(),
)

BLINK_PERCEPTION = (
    *("Art_Style", "Counting", "Forensic_Detection", "Functional_Correspondence"),
    *("Object_Localization", "Relative_Depth", "Relative_Reflectance", "Semantic_Correspondence"),
    *("Spatial_Relation", "Visual_Correspondence", "Visual_Similarity"),
)
BLINK_REASONING = ("IQ_Test", "Jigsaw", "Multi-view_Reasoning")
MMMU_SUBJECTS = (
    *("Accounting", "Agriculture", "Architecture_and_Engineering", "Art", "Art_Theory"),
    *("Basic_Medical_Science", "Biology", "Chemistry", "Clinical_Medicine", "Computer_Science"),
    *("Design", "Diagnostics_and_Laboratory_Medicine", "Economics", "Electronics"),
    *("Energy_and_Power", "Finance", "Geography", "History", "Literature", "Manage", "Marketing"),
    *("Materials", "Math", "Mechanical_Engineering", "Music", "Pharmacy", "Physics"),
    *("Psychology", "Public_Health", "Sociology"),
)

Rows = Sequence[Mapping[str, Any]]


def picture(seed: int, suffix: str = "PNG") -> bytes:
    """A small image of its own colour."""
    buffer = io.BytesIO()
    colour = (seed * 37 % 256, seed * 91 % 256, seed * 53 % 256)
    Pillow.new("RGB", (12, 10), colour).save(buffer, format=suffix)
    return buffer.getvalue()


def shown(seed: int) -> dict[str, Any]:
    """An image cell."""
    return {"bytes": picture(seed), "path": None}


def table(columns: Mapping[str, Any], rows: Rows) -> Dataset:
    """A dataset with the given column types; what a row lacks is None."""
    data = {name: [row.get(name) for row in rows] for name in columns}
    return Dataset.from_dict(data, features=Features(dict(columns)))


def save(folder: Path, splits: Mapping[str, Dataset]) -> None:
    """Save splits as save_to_disk does."""
    DatasetDict(dict(splits)).save_to_disk(str(folder))


def clone(folder: Path, config: str, splits: Mapping[str, Dataset]) -> None:
    """Add a configuration to a clone of a hub repository: parquet files and a card naming them."""
    folder.mkdir(parents=True, exist_ok=True)
    card = folder / "README.md"
    lines = card.read_text().splitlines()[:-1] if card.is_file() else ["---", "configs:"]
    lines += [f"- config_name: {config}", "  data_files:"]
    for split, data in splits.items():
        name = f"{config.replace(' ', '_')}/{split}-00000-of-00001.parquet"
        (folder / name).parent.mkdir(exist_ok=True)
        data.to_parquet(str(folder / name))
        lines += [f"  - split: {split}", f'    path: "{name}"']
    card.write_text("\n".join([*lines, "---"]))


def build_reasoning(root: Path) -> None:
    """Copies of the data sets of reasoning tasks, under root/<hub id>."""
    disable_progress_bars()
    _mathvista(root)
    _mathverse(root)
    _mathvision(root)
    _dynamath(root)
    _mmmu(root)
    _archives(root)
    columns = {"image": IMAGE, "question": S, "answer": S}
    golds = ["B, D", "A", "", "3", "G"]
    rows: list[dict[str, Any]] = [
        {"image": shown(300 + i), "question": f"Figure {i}?", "answer": a}
        for i, a in enumerate(golds)
    ]
    save(root / "lscpku/LogicVista", {"test": table(columns, rows)})
    columns = {
        **dict.fromkeys(("ID", "split", "knowledge concept", "question", "option", "answer"), S),
        **{"image_path": IMAGE, "key": S, "question number": I64},
        "knowledge concept description": S,
    }
    options = "A. 300, 400;B. 400, 300; C. 3000, 4000;D．4000, 3000; E. No correct answer"
    rows = [
        {
            **{"ID": "2steps_1", "split": "testmini", "knowledge concept": "length", "key": key},
            **{"question": f"Part {i}?", "option": options, "answer": "CDE"[i]},
            **{"image_path": shown(310 + i), "question number": 1 + 360 * i},
        }
        for i, key in enumerate(("2steps_1", "2steps_2", "2steps_multi"))
    ]
    clone(root / "We-Math/We-Math", "default", {"testmini": table(columns, rows)})


def _mathvista(root: Path) -> None:
    text = ("pid", "question", "image", "unit", "answer", "question_type", "answer_type", "query")
    about = ("category", "context", "grade", "language", "source", "split", "task")
    metadata = {**dict.fromkeys(about, S), "img_height": I64, "skills": ListOf(S)}
    columns = {
        **dict.fromkeys(text, S),
        **{"decoded_image": IMAGE, "choices": ListOf(S), "precision": F64, "metadata": metadata},
    }
    given = [
        ("1", "math-targeted-vqa", "float", 1.0, None, "1.2"),
        ("2", "general-vqa", "integer", None, None, "1000"),
        ("3", "math-targeted-vqa", "text", None, ["135°", "140°"], "140°"),
        ("4", "math-targeted-vqa", "list", None, None, "[2014, 2016]"),
        ("781", "math-targeted-vqa", "text", None, ["9", "18", "18"], "18"),
        ("6", "general-vqa", "text", None, ["Yes", "No"], "No"),
    ]
    rows: list[dict[str, Any]] = [
        {
            **{"pid": pid, "question": f"Q{pid}?", "image": f"images/{pid}.jpg", "answer": gold},
            **{"answer_type": kind, "precision": digits, "choices": options},
            "question_type": "multi_choice" if options else "free_form",
            "query": f"Hint: Please answer.\nQuestion: Q{pid}?",
            "decoded_image": shown(int(pid)),
            "metadata": {"category": category, "task": "figure question answering", "skills": []},
        }
        for pid, category, kind, digits, options, gold in given
    ]
    save(root / "AI4Math/MathVista", {"testmini": table(columns, rows)})


def _mathverse(root: Path) -> None:
    text = (
        *("sample_index", "problem_index", "problem_version", "question", "answer"),
        *("question_type", "query_wo", "query_cot", "question_for_eval"),
    )
    about = dict.fromkeys(("split", "source", "subject", "subfield"), S)
    columns = {**dict.fromkeys(text, S), "image": IMAGE, "metadata": about}
    versions = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
    problems = (("multi-choice", "C", "Plane Geometry"), ("free-form", "2 \\sqrt{3}", "Functions"))
    rows: list[dict[str, Any]] = [
        {
            **{"sample_index": str(5 * p + v + 1), "problem_index": str(p + 1), "answer": gold},
            **{"problem_version": version, "question_type": kind, "metadata": {"subject": subject}},
            "query_cot": f"Please first reason. {'' if version == 'Vision Only' else f'Q{p}'}{v}",
            "image": shown(10 + 5 * p + v),
        }
        for p, (kind, gold, subject) in enumerate(problems)
        for v, version in enumerate(versions)
    ]
    clone(root / "AI4Math/MathVerse", "testmini", {"testmini": table(columns, rows)})
    rows = [{**row, "image": None} for row in rows[:1]]
    clone(root / "AI4Math/MathVerse", "testmini_text_only", {"split": table(columns, rows)})


def _mathvision(root: Path) -> None:
    text = ("id", "question", "image", "answer", "solution", "subject")
    columns = {
        **dict.fromkeys(text, S),
        **{"options": ListOf(S), "decoded_image": IMAGE, "level": I64},
    }
    given = [
        ("1", "Which number replaces the mark?\n<image1>", [], "60"),
        ("2", "Look at <image1> and choose.\n<image1>\n<image2>", list("ABCDE"), "C"),
        ("59", "A letter for a free question?", [], "C"),
        ("434", "Again?", [], "C"),
        ("2925", "A strange gold?", [], "45^2"),
        ("2828", "A fraction?", [], "$\\boxed{\\frac{16}{7}}$"),
    ]
    rows: list[dict[str, Any]] = [
        {
            **{"id": key, "question": question, "options": options, "answer": gold},
            **{"level": 2, "subject": "arithmetic", "decoded_image": shown(400 + int(key))},
        }
        for key, question, options, gold in given
    ]
    test, mini = table(columns, rows), table(columns, rows[:2])
    save(root / "MathLLMs/MathVision", {"test": test, "testmini": mini})


def _dynamath(root: Path) -> None:
    text = (
        *("id", "question", "image", "ground_truth", "answer_type", "subject", "knowledge_level"),
    )
    columns = {**dict.fromkeys(text, S), "decoded_image": IMAGE}
    splits = {}
    for variant in range(1, 11):
        given = [
            ("1", f"What is f({variant})?", "float", f"{variant / 4}"),
            (
                "2",
                f"Is {variant} even? Choices: (A) yes (B) no",
                "multiple choice",
                "AB"[variant % 2],
            ),
            ("3", f"Which month is {variant}?", "text", "december"),
        ]
        rows = [
            {
                **{"id": key, "question": question, "answer_type": kind, "ground_truth": gold},
                **{"subject": "algebra", "decoded_image": shown(500 + 3 * variant + int(key))},
            }
            for key, question, kind, gold in given
        ]
        splits[f"sample_variant{variant}"] = table(columns, rows)
    save(root / "DynaMath/DynaMath_Sample", splits)


def _mmmu(root: Path) -> None:
    text = (
        *("id", "question", "options", "explanation", "img_type", "answer", "topic_difficulty"),
        *("question_type", "subfield"),
    )
    images = {f"image_{i}": IMAGE for i in range(1, 8)}
    columns = {**dict.fromkeys(text, S), **images}
    for number, subject in enumerate(MMMU_SUBJECTS):
        two = {
            **{"id": f"validation_{subject}_1", "question_type": "multiple-choice", "answer": "B"},
            "question": "<image 1> Compare it with <image 2>. Which is it?",
            "options": "['it\\'s $6', \"<image 2>\"]",
            **{"image_1": shown(600 + 3 * number), "image_2": shown(601 + 3 * number)},
        }
        opened = {
            **{"id": f"validation_{subject}_2", "question_type": "open", "options": "[]"},
            **{"question": "How much is it? <image 1>", "answer": "['1/3', '0.33']"},
            "image_1": shown(602 + 3 * number),
        }
        rows: list[dict[str, Any]] = [two, opened] if number < 2 else [two]
        save(root / "MMMU/MMMU" / subject, {"validation": table(columns, rows)})
    pro = ("id", "question", "options", "explanation", "img_type", "answer", "topic_difficulty")
    columns = {**dict.fromkeys((*pro, "subject"), S), **images}
    rows = [
        {
            **{"id": "test_History_1", "question": "What is in <image 1>?", "answer": "J"},
            **{"options": str([f"thing {i}" for i in range(10)]), "subject": "History"},
            "image_1": shown(700),
        }
    ]
    data = {"test": table(columns, rows)}
    clone(root / "MMMU/MMMU_Pro", "standard (10 options)", data)


def _archives(root: Path) -> None:
    """Repositories with a table and a zip file of images."""
    puzzles = [
        {"id": f"{i:05d}", "question": "From the four options, choose.", "label": label,
         "image_path": f"images/{i:05d}.png"}
        for i, label in enumerate("BD")
    ]  # fmt: skip
    problems = [
        {"question": "As shown, $AB=3$.", "file_name": "7.png", "year": "nine", "difficult": "easy",
         "solution": "First \\boxed{1}; then $x=\\boxed{\\frac{3}{2}}$.", "knowledge": ["circle"]},
        {"question": "And $CD$?", "file_name": "8.png", "year": "nine", "difficult": "hard",
         "solution": "So $CD=\\boxed{2\\sqrt{5}}$.", "knowledge": []},
    ]  # fmt: skip
    folders: tuple[tuple[str, str, list[dict[str, Any]], str, str], ...] = (
        ("VisuLogic/VisuLogic", "data.jsonl", puzzles, "images.zip", "image_path"),
        ("THU-KEG/MM_Math", "MM_Math.jsonl", problems, "Image.zip", "file_name"),
    )
    for hub, name, lines, archive, column in folders:
        folder = root / hub
        folder.mkdir(parents=True)
        (folder / name).write_text("\n".join(json.dumps(row) for row in lines))
        with zipfile.ZipFile(folder / archive, "w") as pack:
            for seed, row in enumerate(lines, start=len(name)):
                inner = row[column] if "/" in row[column] else f"Image/{row[column]}"
                pack.writestr(inner, picture(seed))
