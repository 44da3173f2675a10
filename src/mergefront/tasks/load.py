"""Task files -> items: the only module that reads questions, and the one door to `datasets`."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergefront import zoo
from mergefront.config import Items, load_yaml
from mergefront.errors import ConfigError, UserError
from mergefront.records import SPLITS, Item, Split
from mergefront.scoring import SCORER_VERSION, RuleName
from mergefront.tasks.spec import Task
from mergefront.tasks.splits import SPLIT_VERSION, by_hash, stratified_order

LIBRARY = Path(__file__).parent / "library"

Row = Mapping[str, Any]
ReadImages = Callable[[Row], tuple[bytes, ...]]


@dataclass(frozen=True)
class ItemSet:
    """The items of one study: split -> objective -> items in their fixed order.

    `rules` maps a task's name to its scoring rule; `tasks` to its definition.
    """

    items: Mapping[Split, Mapping[str, tuple[Item, ...]]]
    rules: Mapping[str, RuleName]
    tasks: Mapping[str, Task]

    def flat(self, split: Split) -> list[Item]:
        """All objectives' items of a split, one after the other, as the engine is asked."""
        return [item for items in self.items[split].values() for item in items]

    def card(self) -> dict[str, Any]:
        """What identifies the item set: content hashes, sizes, versions of splitter and scorer."""
        return {
            "splitter": SPLIT_VERSION,
            "scorer": SCORER_VERSION,
            "tasks": {name: task.model_dump(mode="json") for name, task in self.tasks.items()},
            "splits": {
                split: {
                    objective: {"n": len(items), "sha256": content_hash(items)}
                    for objective, items in self.items[split].items()
                }
                for split in SPLITS
            },
        }


def content_hash(items: Sequence[Item]) -> str:
    """sha256 over every field of the items and their raw image bytes, in order."""
    digest = hashlib.sha256()
    for item in items:
        text = [item.id, item.task, item.question, *item.answers, *item.choices, item.cluster]
        digest.update(json.dumps(text, ensure_ascii=False).encode())
        for image in item.images:
            digest.update(hashlib.sha256(image).digest())
    return digest.hexdigest()


def task_path(name: str, relative_to: Path) -> Path:
    """A task's file: a shipped one by name, or a path. Raises ConfigError naming the legal set."""
    shipped = LIBRARY / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    path = relative_to / name
    if path.suffix in {".yaml", ".yml"}:
        return path
    known = ", ".join(sorted(p.stem for p in LIBRARY.glob("*.yaml")))
    raise ConfigError(
        f"objectives: there is no task {name!r}",
        hint=f"use one of the library ({known}) or the path of a task file ending in .yaml",
    )


def load_task(path: Path) -> Task:
    """Read and check a task file. Raises ConfigError."""
    return load_yaml(path, Task)


def item_set(objectives: Mapping[str, Sequence[str]], counts: Items, folder: Path) -> ItemSet:
    """Load the items of a study: `counts` items for each objective and split.

    Args:
        objectives: objective -> task names or paths.
        counts: items per objective in each split, shared evenly by the objective's tasks.
        folder: what paths of task files are relative to.

    Raises:
        ConfigError: a task file is faulty or unknown.
        UserError: a task's data is missing, lacks a column, or has too few items.
    """
    paths = {name: task_path(name, folder) for names in objectives.values() for name in names}
    tasks = {name: load_task(path) for name, path in paths.items()}
    by_objective: dict[Split, dict[str, tuple[Item, ...]]] = {split: {} for split in SPLITS}
    for objective, names in objectives.items():
        pools = [_ordered(tasks[name], paths[name].parent) for name in names]
        for split in SPLITS:
            wanted = _shares(getattr(counts, split), len(names))
            chosen = [
                _take(pool, split, n, tasks[name].name)
                for pool, n, name in zip(pools, wanted, names, strict=True)
            ]
            by_objective[split][objective] = tuple(_interleave(chosen))
    rules = {task.name: task.rule for task in tasks.values()}
    return ItemSet(by_objective, rules, {task.name: task for task in tasks.values()})


def _shares(total: int, n: int) -> list[int]:
    return [total // n + (i < total % n) for i in range(n)]


def _take(
    pool: tuple[dict[Split, list[Item]], Callable[[Item], Item]], split: Split, n: int, task: str
) -> list[Item]:
    items, finish = pool
    if len(items[split]) < n:
        raise UserError(
            f"task {task}: {n} {split} items are asked for, it has {len(items[split])}",
            hint=f"lower items.{split} in the run's configuration, or add a task",
        )
    return [finish(item) for item in items[split][:n]]


def _interleave(pools: Sequence[Sequence[Item]]) -> list[Item]:
    placed = [
        ((rank + 0.5) / len(pool), index, item)
        for index, pool in enumerate(pools)
        for rank, item in enumerate(pool)
    ]
    return [item for _, _, item in sorted(placed, key=lambda entry: entry[:2])]


def _ordered(task: Task, folder: Path) -> tuple[dict[Split, list[Item]], Callable[[Item], Item]]:
    """All items of a task by split, ordered; and what completes a chosen item (its images)."""
    rows, read_images, eager = _rows(task, folder)
    keyed: dict[str, Row] = {}
    items: list[Item] = []
    declared: dict[str, Split] = {}
    for row in rows:
        if any(row.get(column) not in values for column, values in task.where.items()):
            continue
        item = _item(task, row, read_images(row) if eager else ())
        if item.id in keyed:
            raise UserError(f"task {task.name}: two rows have the id {item.id!r}")
        keyed[item.id] = row
        items.append(item)
        if task.fields.split is not None:
            declared[item.id] = row[task.fields.split]
    if task.fields.split is None:
        parts = by_hash(items, task.salt)
    else:
        parts = {s: [i for i in items if declared[i.id] == s] for s in SPLITS}
    ordered = {split: stratified_order(parts[split], task.salt) for split in SPLITS}

    def finish(item: Item) -> Item:
        return item if eager else replace(item, images=read_images(keyed[item.id]))

    return ordered, finish


def _item(task: Task, row: Row, images: tuple[bytes, ...]) -> Item:
    fields = task.fields
    names = {fields.question, fields.answer, fields.choices, fields.id, fields.cluster}
    names |= {fields.stratum, fields.split}
    missing = sorted(name for name in names if name is not None and name not in row)
    if missing:
        raise UserError(
            f"task {task.name}: the data has no column {', '.join(missing)}",
            hint=f"columns found: {', '.join(sorted(row))}; set them under fields:",
        )
    answers = row[fields.answer]
    choices = tuple(str(c) for c in (row[fields.choices] or ())) if fields.choices else ()
    listed = "\n".join(f"({chr(65 + i)}) {text}" for i, text in enumerate(choices))
    question = task.prompt.replace("{choices}", listed).replace(
        "{question}", str(row[fields.question])
    )
    image_hash = hashlib.sha256(b"".join(images)).hexdigest()
    key = (
        str(row[fields.id])
        if fields.id
        else hashlib.sha256(json.dumps([question, str(answers), image_hash]).encode()).hexdigest()[
            :16
        ]
    )
    return Item(
        id=f"{task.name}/{key}",
        task=task.name,
        question=question,
        images=images,
        answers=tuple(str(a) for a in (answers if isinstance(answers, list) else [answers])),
        cluster=str(row[fields.cluster]) if fields.cluster else image_hash,
        stratum=str(row[fields.stratum]) if fields.stratum else "",
        choices=choices,
        max_tokens=task.max_tokens,
    )


def _rows(task: Task, folder: Path) -> tuple[Iterator[Row], ReadImages, bool]:
    """Rows, how to read a row's images, and whether that must be done at once."""
    data = task.data
    if data.zoo is not None:
        return iter(zoo.questions(data.zoo)), _zoo_images, False
    import datasets  # 2-3 seconds: only where a dataset is read

    datasets.disable_progress_bars()
    if data.path is not None:
        file = folder / data.path
        kinds = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
        if file.suffix not in kinds or not file.is_file():
            raise UserError(
                f"task {task.name}: {file} is no readable data file",
                hint="data.path takes an existing .jsonl, .json, .csv or .parquet file",
            )
        table = datasets.load_dataset(kinds[file.suffix], data_files=str(file), split="train")
        base = file.parent
    else:
        table = datasets.load_dataset(
            data.hub, data.config, split=data.split, revision=data.revision
        )
        base = folder
    for column in task.fields.images:
        if column not in table.column_names:
            raise UserError(
                f"task {task.name}: the data has no image column {column!r}",
                hint=f"columns found: {', '.join(table.column_names)}; set fields.images",
            )
        if isinstance(table.features[column], datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
    return iter(table), lambda row: _file_images(row, task.fields.images, base), True


def _file_images(row: Row, columns: Sequence[str], base: Path) -> tuple[bytes, ...]:
    images = []
    for column in columns:
        value = row[column]
        if value is None:
            continue
        if isinstance(value, dict) and value.get("bytes"):
            images.append(bytes(value["bytes"]))
            continue
        path = base / (value["path"] if isinstance(value, dict) else value)
        try:
            images.append(path.read_bytes())
        except OSError as error:
            raise UserError(f"image {path} cannot be read: {error.strerror}") from None
    return tuple(images)


def _zoo_images(row: Row) -> tuple[bytes, ...]:
    buffer = io.BytesIO()
    zoo.render(row["scans"], row["tints"]).save(buffer, format="PNG", compress_level=1)
    return (buffer.getvalue(),)
