"""A look at a task file before any model runs: sizes, prompts, golds, and the marks of answers.

The page, which also shows the pictures, is `check_task.html.jinja`.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mergefront.errors import UserError
from mergefront.files import whole_folder
from mergefront.json_file import parse_json
from mergefront.records import SPLITS, Answer, Item, Score, Split, Status
from mergefront.runs.report.templates import open_template
from mergefront.tasks import Pool, Task, load_task, pool_of, task_path
from mergefront.tasks.scoring import score, score_all

FEW = 5
"""With fewer items of a split, a stratum is named in a warning."""


@dataclass(frozen=True)
class Example:
    """One item as the engine gets it, and the marks of the answers that were given for all."""

    split: Split
    item: Item
    marks: Sequence[tuple[str, Score]] = ()


@dataclass(frozen=True)
class MarkedFile:
    """The answers of a file, marked; `unknown` are the ids of items that the task lacks."""

    file: str
    marked: Sequence[tuple[Item, str, Score]]
    unknown: Sequence[str]

    @property
    def statuses(self) -> dict[Status, int]:
        """The number of answers of each status."""
        return dict(Counter(mark.status for _, _, mark in self.marked))

    @property
    def mean_score(self) -> float | None:
        """The mean score; None without answers."""
        values = [mark.value for _, _, mark in self.marked]
        return sum(values) / len(values) if values else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: counts, the mean score, and every mark."""
        return {
            "file": self.file,
            "answers": len(self.marked),
            "unknown": list(self.unknown),
            "score": self.mean_score,
            "status": self.statuses,
            "marks": [{"item": i.id, "answer": text, **asdict(m)} for i, text, m in self.marked],
        }


@dataclass(frozen=True)
class SplitSize:
    """The size of a split in items, in units, in clusters, and in items of each stratum."""

    items: int
    units: int
    clusters: int
    strata: dict[str, int]


@dataclass(frozen=True)
class TaskCheck:
    """All that is shown of a task. `top_gold` is its most common gold, `top_share` its share."""

    task: Task
    file: Path
    pool: Pool
    top_gold: str
    top_share: float
    warnings: Sequence[str]
    examples: Sequence[Example]
    answers: MarkedFile | None = None

    @property
    def splits(self) -> dict[Split, SplitSize]:
        """The size of each split."""
        return {split: _split_size(self.pool, split) for split in SPLITS}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without the images' bytes."""
        return {
            "task": self.task.name,
            "file": str(self.file),
            "rules": list(self.task.rules),
            "mode": self.task.mode,
            "splits": {split: asdict(size) for split, size in self.splits.items()},
            "commonest": {"answer": self.top_gold, "share": self.top_share},
            "dropped": [asdict(item) for item in self.pool.dropped],
            "warnings": list(self.warnings),
            "examples": [_example_values(example) for example in self.examples],
            "rescored": self.answers and self.answers.to_dict(),
        }


def check_task(
    name: str,
    *,
    n: int = 3,
    answers: Sequence[str] = (),
    file: Path | None = None,
    limit: int | None = None,
) -> TaskCheck:
    """Read a task (a name of the library or a YAML file), its data, and answers to its items.

    Args:
        name: the task.
        n: number of examples, the first of the search split, or of the first split with items.
        answers: replies to mark for each example.
        file: replies to mark by item: .jsonl, .csv or .parquet with the columns `item` and `text`,
            such as a run's item files.
        limit: read only so many rows.

    Raises:
        UserError: the task file, its data or the file of answers is faulty.
    """
    path = task_path(name, Path())
    task = load_task(path)
    pool = pool_of(task, path.parent, limit)
    items = [item for split in SPLITS for item in pool.outline(split)]
    if not items:
        raise UserError(
            f"{path}: task {task.name} keeps no row of its data",
            hint="compare `where` and `exclude` with the data's own values",
        )
    top_gold, count = Counter(item.answers[0] for item in items).most_common(1)[0]
    return TaskCheck(
        task,
        path,
        pool,
        top_gold,
        count / len(items),
        [*pool.warnings, *_warnings(pool, whole=limit is None)],
        _examples(pool, n, answers),
        None if file is None else _mark_file(file, items),
    )


def _examples(pool: Pool, n: int, answers: Sequence[str]) -> list[Example]:
    split = next(s for s in SPLITS if pool.size(s))
    return [
        Example(split, item, [(text, score(item, Answer(text, 0, True))) for text in answers])
        for item in pool.take(split, min(n, pool.size(split)))
    ]


def _warnings(pool: Pool, *, whole: bool) -> list[str]:
    warnings = []
    if not whole:
        warnings.append("only the first rows were read: sizes and duplicates are of those alone")
    if dropped := pool.dropped:
        warnings.append(
            f"{len(dropped)} items are left out, the first {dropped[0].item}: {dropped[0].because}"
        )
    warnings += [f"there are no {split} items" for split in SPLITS if not pool.size(split)]
    strata = {split: pool.strata(split) for split in SPLITS}
    names = sorted({name for sizes in strata.values() for name in sizes})
    small = [name for name in names if min(s.get(name, 0) for s in strata.values()) < FEW]
    if whole and small and len(names) > 1:
        warnings.append(f"fewer than {FEW} items of a split in: {', '.join(small[:8])}")
    return warnings


def _split_size(pool: Pool, split: Split) -> SplitSize:
    items = pool.outline(split)
    units, clusters = {i.unit or ("", i.id) for i in items}, {i.cluster for i in items}
    return SplitSize(len(items), len(units), len(clusters), pool.strata(split))


def _example_values(example: Example) -> dict[str, Any]:
    item = asdict(example.item)
    fields = ("choices", "answers", "rule", "labels", "stratum", "cluster", "unit", "max_tokens")
    return {
        "split": example.split,
        "id": item["id"],
        "prompt": item["question"],
        "images": [picture_facts(data) for data in item["images"]],
        **{field: item[field] for field in fields},
        "marks": [{"answer": text, **asdict(mark)} for text, mark in example.marks],
    }


def picture_facts(data: bytes) -> dict[str, Any]:
    """Return the format, width and height in pixels, and bytes of an encoded image."""
    with Image.open(io.BytesIO(data)) as image:
        sizes = {"width": image.width, "height": image.height, "bytes": len(data)}
        return {"format": image.format, **sizes}


def _mark_file(file: Path, items: Sequence[Item]) -> MarkedFile:
    by_id = {item.id: item for item in items}
    replies = _read_answers(file)
    answered = [(by_id[name], text) for name, text in replies if name in by_id]
    marks = score_all([item for item, _ in answered], [Answer(t, 0, True) for _, t in answered])
    return MarkedFile(
        str(file),
        [(item, text, mark) for (item, text), mark in zip(answered, marks, strict=True)],
        [name for name, _ in replies if name not in by_id],
    )


def _read_answers(file: Path) -> list[tuple[str, str]]:
    """Return (item, text) of every row of a file of answers. Raises UserError."""
    try:
        rows = _rows(file)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"--answers: {file} cannot be read: {error}",
            hint="expected a .jsonl, .csv or .parquet file with the columns item and text",
        ) from error
    for number, row in enumerate(rows, start=1):
        faulty = [name for name in ("item", "text") if not isinstance(row.get(name), str)]
        if faulty:
            raise UserError(
                f"--answers: {file}: row {number} has no text in the column "
                f"{' and '.join(faulty)} (its columns: {', '.join(map(str, row))})",
                hint="each row names an item of the task (`item`) and the reply to it (`text`)",
            )
    return [(row["item"], row["text"]) for row in rows]


def _rows(file: Path) -> list[Mapping[str, Any]]:
    match file.suffix:
        case ".jsonl":
            lines = file.read_text(encoding="utf-8").splitlines()
            rows = [parse_json(line) for line in lines if line.strip()]
        case ".csv":
            with file.open(encoding="utf-8-sig", newline="") as stream:
                rows = list(csv.DictReader(stream))
        case ".parquet":
            import pyarrow.parquet as pq

            rows = pq.read_table(file).to_pylist()
        case suffix:
            raise ValueError(f"its name ends in {suffix or 'nothing'}")
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("expected an object a line")
    return rows


def write_page(check: TaskCheck, out: Path) -> None:
    """Write index.html and task.json (the same, without pictures) into the new folder `out`.

    Raises:
        UserError: `out` exists or the disk is too full.
    """
    page = open_template(Path(__file__).with_name("check_task.html.jinja")).render(
        check=check,
        strata=sorted({name for split in SPLITS for name in check.pool.strata(split)}),
        splits=SPLITS,
        picture=picture_facts,
        mime=Image.MIME.get,
        base64=lambda data: base64.b64encode(data).decode(),
    )
    with whole_folder(out) as folder:
        (folder / "index.html").write_text(page, encoding="utf-8")
        text = json.dumps(check.to_dict(), indent=1, ensure_ascii=False)
        (folder / "task.json").write_text(text, encoding="utf-8")
