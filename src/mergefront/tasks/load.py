"""Task files -> items: the only module that reads questions, and the one door to `datasets`."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergefront import zoo
from mergefront.config import Items, load_yaml
from mergefront.errors import ConfigError, UserError
from mergefront.records import SPLITS, Item, Split
from mergefront.scoring import SCORER_VERSION
from mergefront.tasks.pictures import check_images, read_images
from mergefront.tasks.rows import Row, check_columns, item_of, kept, label_of, split_of
from mergefront.tasks.spec import Task
from mergefront.tasks.splits import SPLIT_VERSION, by_column, by_hash, stratified_order

LIBRARY = Path(__file__).parent / "library"

_KINDS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class ItemSet:
    """The items of one study: split -> objective -> items in their fixed order.

    `tasks` maps a task's name to its definition.
    """

    items: Mapping[Split, Mapping[str, tuple[Item, ...]]]
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
        UserError: two task files have one name; a task's data is missing or malformed, lacks a
            column, has a faulty row or image, or too few items.
    """
    paths = {name: task_path(name, folder) for names in objectives.values() for name in names}
    tasks = {name: load_task(path) for name, path in paths.items()}
    _check_names(tasks, paths)
    by_objective: dict[Split, dict[str, tuple[Item, ...]]] = {split: {} for split in SPLITS}
    for objective, names in objectives.items():
        pools = [_pool(tasks[name], paths[name].parent) for name in names]
        for split in SPLITS:
            wanted = _shares(getattr(counts, split), len(names))
            chosen = [pool.take(split, n) for pool, n in zip(pools, wanted, strict=True)]
            by_objective[split][objective] = tuple(_interleave(chosen))
    return ItemSet(by_objective, {task.name: task for task in tasks.values()})


def _check_names(tasks: Mapping[str, Task], paths: Mapping[str, Path]) -> None:
    files: dict[str, Path] = {}
    for name, task in tasks.items():
        other = files.setdefault(task.name, paths[name])
        if other.resolve() != paths[name].resolve():
            raise UserError(
                f"two task files have the name {task.name!r}: {other} and {paths[name]}",
                hint="change `name:` in one of them",
            )


def _shares(total: int, n: int) -> list[int]:
    return [total // n + (i < total % n) for i in range(n)]


@dataclass(frozen=True)
class _Pool:
    """All items of a task by split, in order. `drawn`: images are made for chosen items only."""

    task: Task
    items: Mapping[Split, Sequence[Item]]
    rows: Mapping[str, Row]
    drawn: bool

    def take(self, split: Split, n: int) -> list[Item]:
        """The first n items of a split, complete, every image decodable."""
        items = self.items[split]
        if len(items) < n:
            raise UserError(
                f"task {self.task.name}: {n} {split} items are asked for, it has {len(items)}",
                hint=f"lower items.{split} in the run's configuration, or add a task",
            )
        return [self._finished(item) for item in items[:n]]

    def _finished(self, item: Item) -> Item:
        row = self.rows[item.id]
        if self.drawn:
            return replace(item, images=_drawn_images(row))
        check_images(item, row, self.task.fields.images)
        return item


def _interleave(pools: Sequence[Sequence[Item]]) -> list[Item]:
    placed = [
        ((rank + 0.5) / len(pool), index, item)
        for index, pool in enumerate(pools)
        for rank, item in enumerate(pool)
    ]
    return [item for _, _, item in sorted(placed, key=lambda entry: entry[:2])]


def _pool(task: Task, folder: Path) -> _Pool:
    rows, base = _rows(task, folder)
    keyed: dict[str, Row] = {}
    items: list[Item] = []
    declared: list[Split] = []
    for number, row in enumerate(rows, start=1):
        if number == 1:
            check_columns(task, row, images=base is not None)
        if not kept(task, row):
            continue
        label = label_of(task, row, number)
        images = () if base is None else read_images(row, task.fields.images, base, label)
        item = item_of(task, row, images, label)
        if item.id in keyed:
            raise UserError(f"task {task.name}: two rows have the id {item.id!r}")
        keyed[item.id] = row
        items.append(item)
        if task.fields.split is not None:
            declared.append(split_of(row, task.fields.split, label))
    parts = by_hash(items, task.salt) if task.fields.split is None else by_column(items, declared)
    ordered = {split: stratified_order(parts[split], task.salt) for split in SPLITS}
    return _Pool(task, ordered, keyed, drawn=base is None)


def _rows(task: Task, folder: Path) -> tuple[Iterable[Row], Path | None]:
    """Rows, and what their image paths are relative to; None if mergefront draws the images."""
    data = task.data
    if data.zoo is not None:
        return zoo.questions(data.zoo), None
    if data.path is None:
        return _dataset(task, f"the hub dataset {data.hub}"), folder
    file = folder / data.path
    if file.suffix not in {".csv", *_KINDS} or not file.is_file():
        raise UserError(
            f"task {task.name}: {file} is no readable data file",
            hint="data.path takes an existing .jsonl, .json, .csv or .parquet file",
        )
    rows = _csv_rows(task, file) if file.suffix == ".csv" else _dataset(task, str(file), file)
    return rows, file.parent


def _csv_rows(task: Task, file: Path) -> list[Row]:
    """Rows of a CSV file, every cell as it is written: nothing is guessed, a blank is no gap."""
    rows: list[Row] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            if len(set(header)) != len(header):
                raise csv.Error("its first line names a column twice")
            for cells in filter(None, reader):
                if len(cells) != len(header):
                    raise csv.Error(
                        f"line {reader.line_num} has {len(cells)} cells, the first {len(header)}"
                    )
                rows.append(dict(zip(header, cells, strict=True)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"task {task.name}: {file} cannot be read: {error}",
            hint="save it as CSV in UTF-8: commas between cells, quotes around cells with commas",
        ) from error
    return rows


def _dataset(task: Task, name: str, file: Path | None = None) -> Iterable[Row]:
    """Rows of a file or a hub dataset, images as bytes. `name`: what messages call it."""
    import datasets  # 2-3 seconds: only where a dataset is read

    datasets.disable_progress_bars()
    data = task.data
    try:
        if file is not None:
            table = datasets.load_dataset(_KINDS[file.suffix], data_files=str(file), split="train")
        else:
            table = datasets.load_dataset(
                data.hub, data.config, split=data.split, revision=data.revision
            )
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()
        raise UserError(
            f"task {task.name}: {name} cannot be read: "
            f"{type(error.__cause__ or error).__name__}: {' '.join(reason[:1])}",
            hint="check that the file is whole and each of its columns is of one type"
            if file is not None
            else "check data.hub, config, split and revision, the network and your HF login",
        ) from error
    for column in set(task.fields.images) & set(table.column_names):
        if isinstance(table.features[column], datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
    rows: Iterable[Row] = table
    return rows


def _drawn_images(row: Row) -> tuple[bytes, ...]:
    buffer = io.BytesIO()
    zoo.render(row["scans"], row["tints"]).save(buffer, format="PNG", compress_level=1)
    return (buffer.getvalue(),)
