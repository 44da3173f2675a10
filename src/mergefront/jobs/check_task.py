"""What a task file makes of its data: sizes, prompts, golds, and how given answers are marked.

Reading order: `check`, then the functions that it calls, then `write_page`. The page, which also
shows the pictures, is `check_task.html.jinja`.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mergefront.errors import UserError
from mergefront.files import whole_folder
from mergefront.records import SPLITS, Answer, Item, Score, Split
from mergefront.runs.report.templates import open_template
from mergefront.tasks import Pool, Task, load_task, pool_of, task_path
from mergefront.tasks.scoring import score, score_all

_TEMPLATE = Path(__file__).with_name("check_task.html.jinja")

FEW = 5
"""A stratum with fewer items of a split than this is pointed out."""


@dataclass(frozen=True)
class Example:
    """One item as it is asked, and how the answers that were given for all would be marked."""

    split: Split
    item: Item
    marks: Sequence[tuple[str, Score]] = ()


@dataclass(frozen=True)
class Rescored:
    """Answers of a file, marked: `found` those whose item the task has, `unknown` the others."""

    file: str
    found: Sequence[tuple[Item, str, Score]]
    unknown: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values: counts, the mean score, and every mark."""
        marks = [mark for _, _, mark in self.found]
        return {
            "file": self.file,
            "answers": len(marks),
            "unknown": list(self.unknown),
            "score": sum(m.value for m in marks) / len(marks) if marks else None,
            "status": dict(Counter(m.status for m in marks)),
            "marks": [{"item": i.id, "answer": text, **asdict(m)} for i, text, m in self.found],
        }


@dataclass(frozen=True)
class Checked:
    """A task, looked at. `commonest` is the commonest gold with its share of all items."""

    task: Task
    file: Path
    pool: Pool
    commonest: tuple[str, float]
    warnings: Sequence[str]
    examples: Sequence[Example]
    rescored: Rescored | None = field(default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the images' bytes."""
        return {
            "task": self.task.name,
            "file": str(self.file),
            "rules": list(self.task.rules),
            "mode": self.task.mode,
            "splits": {
                split: {
                    "items": self.pool.size(split),
                    "units": _units(self.pool.outline(split)),
                    "clusters": len({i.cluster for i in self.pool.outline(split)}),
                    "strata": self.pool.strata(split),
                }
                for split in SPLITS
            },
            "commonest": {"answer": self.commonest[0], "share": self.commonest[1]},
            "dropped": [asdict(one) for one in self.pool.dropped],
            "warnings": list(self.warnings),
            "examples": [_plain(one) for one in self.examples],
            "rescored": self.rescored and self.rescored.to_dict(),
        }


def check(
    name: str,
    *,
    n: int = 3,
    answers: Sequence[str] = (),
    file: Path | None = None,
    limit: int | None = None,
) -> Checked:
    """Look at a task: a name of the library or a YAML file.

    Args:
        name: the task.
        n: examples shown, the first of the search split (or of one that is not empty).
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
    everything = [item for split in SPLITS for item in pool.outline(split)]
    if not everything:
        raise UserError(
            f"{path}: task {task.name} keeps no row of its data",
            hint="compare `where` and `exclude` with the data's own values",
        )
    return Checked(
        task,
        path,
        pool,
        _commonest(everything),
        [*pool.warnings, *_warnings(pool, whole=limit is None)],
        _examples(pool, n, answers),
        None if file is None else _rescore(file, everything),
    )


def _examples(pool: Pool, n: int, answers: Sequence[str]) -> list[Example]:
    split = next(s for s in SPLITS if pool.size(s))
    return [
        Example(split, item, [(text, score(item, Answer(text, 0, True))) for text in answers])
        for item in pool.take(split, min(n, pool.size(split)))
    ]


def _commonest(items: Sequence[Item]) -> tuple[str, float]:
    gold, count = Counter(item.answers[0] for item in items).most_common(1)[0]
    return gold, count / len(items)


def _warnings(pool: Pool, *, whole: bool) -> list[str]:
    found = []
    if not whole:
        found.append("only the first rows were read: sizes and duplicates are of those alone")
    if pool.dropped:
        first = pool.dropped[0]
        found.append(
            f"{len(pool.dropped)} items are left out, the first {first.item}: {first.because}"
        )
    for split in SPLITS:
        if not pool.size(split):
            found.append(f"there are no {split} items")
    strata = {name for split in SPLITS for name in pool.strata(split)}
    small = sorted(
        name for name in strata if any(pool.strata(s).get(name, 0) < FEW for s in SPLITS)
    )
    if whole and small and len(strata) > 1:
        found.append(f"fewer than {FEW} items of a split in: {', '.join(small[:8])}")
    return found


def _units(items: Sequence[Item]) -> int:
    return len({(bool(item.unit), item.unit or item.id) for item in items})


def _plain(one: Example) -> dict[str, Any]:
    item = one.item
    return {
        "split": one.split,
        "id": item.id,
        "prompt": item.question,
        "images": [picture_facts(data) for data in item.images],
        "choices": list(item.choices),
        "answers": list(item.answers),
        "rule": asdict(item.rule),
        "labels": list(item.labels),
        "stratum": item.stratum,
        "cluster": item.cluster,
        "unit": item.unit,
        "max_tokens": item.max_tokens,
        "marks": [{"answer": text, **asdict(mark)} for text, mark in one.marks],
    }


def picture_facts(data: bytes) -> dict[str, Any]:
    """Format, width and height in pixels, and bytes of an encoded image."""
    with Image.open(io.BytesIO(data)) as image:
        return {
            "format": image.format, "width": image.width, "height": image.height,
            "bytes": len(data),
        }  # fmt: skip


def _rescore(file: Path, items: Sequence[Item]) -> Rescored:
    by_id = {item.id: item for item in items}
    given = _read_answers(file)
    known = [(by_id[name], text) for name, text in given if name in by_id]
    marks = score_all([item for item, _ in known], [Answer(text, 0, True) for _, text in known])
    return Rescored(
        str(file),
        [(item, text, mark) for (item, text), mark in zip(known, marks, strict=True)],
        [name for name, _ in given if name not in by_id],
    )


def _read_answers(file: Path) -> list[tuple[str, str]]:
    """(item, text) of every row of a file of answers. Raises UserError."""
    try:
        rows = _rows(file)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"--answers: {file} cannot be read: {error}",
            hint="give an existing .jsonl, .csv or .parquet file with the columns item and text",
        ) from error
    for number, row in enumerate(rows, start=1):
        missing = [name for name in ("item", "text") if not isinstance(row.get(name), str)]
        if missing:
            raise UserError(
                f"--answers: {file}: row {number} has no text in the column "
                f"{' and '.join(missing)} (its columns: {', '.join(map(str, row))})",
                hint="each row names an item of the task (`item`) and the reply to it (`text`)",
            )
    return [(row["item"], row["text"]) for row in rows]


def _rows(file: Path) -> list[Mapping[str, Any]]:
    match file.suffix:
        case ".jsonl":
            lines = file.read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines if line.strip()]
        case ".csv":
            with file.open(encoding="utf-8-sig", newline="") as stream:
                rows = list(csv.DictReader(stream))
        case ".parquet":
            import pyarrow.parquet as pq

            rows = pq.read_table(file).to_pylist()
        case other:
            raise ValueError(f"its name ends in {other or 'nothing'}")
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("expected an object a line")
    return rows


def _picture(data: bytes) -> dict[str, Any]:
    """Facts of an encoded image, with its address as a data: URL."""
    facts = picture_facts(data)
    kind = Image.MIME.get(facts["format"], "image/png")
    return {**facts, "address": f"data:{kind};base64,{base64.b64encode(data).decode()}"}


def write_page(checked: Checked, out: Path) -> None:
    """Write index.html and task.json (the same, without pictures) into the new folder `out`.

    Raises:
        UserError: `out` exists or the disk is too full.
    """
    page = open_template(_TEMPLATE).render(
        checked=checked,
        strata=sorted({name for split in SPLITS for name in checked.pool.strata(split)}),
        splits=SPLITS,
        picture=_picture,
    )
    with whole_folder(out) as folder:
        (folder / "index.html").write_text(page, encoding="utf-8")
        told = json.dumps(checked.to_dict(), indent=1, ensure_ascii=False)
        (folder / "task.json").write_text(told, encoding="utf-8")
