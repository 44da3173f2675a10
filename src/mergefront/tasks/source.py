"""Where rows come from: the zoo, a CSV file, and whatever `datasets` reads. The one door to it.

A hub dataset is looked for in this order: a copy under $MERGEFRONT_DATASETS/<id> (a clone of its
repository, or a folder of save_to_disk), the cache, the hub itself, which fills the cache.

Files that are read without `datasets`: CSV tables, and zip files of images."""

from __future__ import annotations

import csv
import logging
import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from mergefront import zoo
from mergefront.errors import UserError
from mergefront.files import cache_root
from mergefront.tasks import cache
from mergefront.tasks.cells import Row
from mergefront.tasks.pictures import Picture, Place, drawn, pictures_of, sha256
from mergefront.tasks.spec import CONFIG, SPLIT, Data, Task

logger = logging.getLogger(__name__)

_KINDS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class Table:
    """The rows of a task's data: every one has its pseudo-columns, images given by the data are
    Pictures; `place` is where paths lead (None: the rows are the zoo's, whose images are drawn)."""

    rows: Iterable[Row]
    place: Place | None
    revision: str | None = None
    sha256: str | None = None


def open_table(task: Task, folder: Path, *, glance: bool = False) -> Table:
    """The rows of a task.

    Args:
        task: whose data.
        folder: what its paths are relative to.
        glance: only some of the first rows are wanted: what is not in the cache is streamed from
            the hub and not kept.

    Raises:
        UserError: the data is missing, malformed or cannot be reached.
    """
    data = task.data
    if data.zoo is not None:
        return Table(({**row, "_picture": drawn(row)} for row in zoo.questions(data.zoo)), None)
    if data.path is not None:
        place = folder / data.path
        return _local(task, place, None if data.archive is None else place.parent / data.archive)
    copy = _copy(data)
    if copy is not None:
        return _copied(task, copy)
    kept = cache.find(data)
    if kept is None and glance:
        return _read(task.model_copy(update={"data": data.model_copy(update={"streaming": True})}))
    kept = kept or _fetched(task)
    return Table(kept.rows(), Place(kept.folder), kept.revision, kept.sha256)


def prefetch(task: Task) -> cache.Cached | None:
    """Read a task's hub dataset into the cache, so that it is there without a network.

    A copy under $MERGEFRONT_DATASETS is read instead of the hub where there is one. Returns None
    for a task whose data lies on this machine anyway.

    Raises:
        UserError: the dataset cannot be read.
    """
    data = task.data
    if data.hub is None:
        return None
    copy = _copy(data)
    if copy is None:
        return cache.find(data) or _fetched(task)
    table = _copied(task, copy)
    assert table.place is not None
    return cache.store(data, _embedded(task, table.rows, table.place), data.revision)


def _copy(data: Data) -> Path | None:
    """The folder of a copy of a hub dataset that the user put on this machine."""
    root = os.environ.get("MERGEFRONT_DATASETS")
    folder = Path(root) / str(data.hub) if root else None
    return folder if folder is not None and folder.is_dir() else None


def _copied(task: Task, copy: Path) -> Table:
    data = task.data
    archive = None if data.archive is None else copy / data.archive
    return _local(task, copy if data.file is None else copy / data.file, archive)


def _local(task: Task, path: Path, archive: Path | None) -> Table:
    """Rows of a file or a dataset's folder."""
    if path.is_dir():
        parts = _parts(task, partial(_folder, path), f"the folder {path}")
        return Table(parts, Place(path, zip_of(task, archive)))
    if path.suffix not in {".csv", *_KINDS} or not path.is_file():
        raise UserError(
            f"task {task.name}: {path} is no readable data file",
            hint="data.path takes an existing .jsonl, .json, .csv or .parquet file, or a folder",
        )
    place = Place(path.parent, zip_of(task, archive))
    if path.suffix == ".csv":
        return Table(csv_rows(task, path), place)
    return Table(_parts(task, partial(_file, path), str(path)), place)


def _fetched(task: Task) -> cache.Cached:
    """Read a dataset from the hub into the cache."""
    table = _read(task)
    assert table.place is not None
    return cache.store(task.data, _embedded(task, table.rows, table.place), table.revision)


def _read(task: Task) -> Table:
    """The rows of a hub dataset, from the hub."""
    data = task.data
    revision = _commit(data)
    if data.revision is None:
        now = f"; its latest commit is {revision}: give it as data.revision" if revision else ""
        logger.warning("task %s: the hub dataset %s is not pinned%s", task.name, data.hub, now)
    archive = None if data.archive is None else _hub_file(task, data.archive, revision)
    rows = _parts(task, partial(_from_hub, task, revision), f"the hub dataset {data.hub}")
    return Table(rows, Place(Path(), zip_of(task, archive)), revision)


def _embedded(task: Task, rows: Iterable[Row], place: Place) -> Iterator[Row]:
    """Rows in which images given by path are Pictures, so that the cache takes their bytes."""
    for number, row in enumerate(rows, start=1):
        given = {
            column: pictures_of(row, [column], place, f"task {task.name}: row {number}")
            for column in task.fields.images
            if not isinstance(row.get(column), Picture)
        }
        yield {**row, **{column: found[0] if found else None for column, found in given.items()}}


def _commit(data: Data) -> str | None:
    """The commit that a revision stands for now; what is pinned where the hub is not reached."""
    import huggingface_hub

    try:
        return huggingface_hub.HfApi().dataset_info(str(data.hub), revision=data.revision).sha
    except _reading_errors():
        return data.revision  # what reads the dataset says what is wrong


def _hub_file(task: Task, name: str, revision: str | None) -> Path:
    import huggingface_hub

    hub = str(task.data.hub)
    try:
        path = huggingface_hub.hf_hub_download(hub, name, repo_type="dataset", revision=revision)
    except _reading_errors() as error:
        raise _unread(task, f"the hub dataset {hub}", error) from error
    return Path(path)


def _from_hub(task: Task, revision: str | None, config: str | None, split: str | None) -> Any:
    import datasets

    data = task.data
    if data.file is not None:
        return _file(_hub_file(task, data.file, revision), None, None)
    return datasets.load_dataset(
        data.hub, config, split=split, revision=revision, streaming=data.streaming
    )


def _file(path: Path, config: str | None, split: str | None) -> Any:
    import datasets

    return datasets.load_dataset(_KINDS[path.suffix], data_files=str(path), split="train")


def _folder(folder: Path, config: str | None, split: str | None) -> Any:
    """A dataset in a folder: of save_to_disk, or whatever load_dataset makes of it."""
    import datasets

    inner = folder / config if config and (folder / config).is_dir() else folder
    if (inner / "dataset_dict.json").is_file() or (inner / "state.json").is_file():
        found = datasets.load_from_disk(str(inner))
        if not isinstance(found, dict):
            return found
        wanted = split or next(iter(found), "")
        if wanted not in found:
            raise ValueError(f"it has no split {wanted!r}, its splits are {', '.join(found)}")
        return found[wanted]
    return datasets.load_dataset(str(folder), config, split=split or "train")


def _parts(task: Task, load: Any, origin: str) -> Iterator[Row]:
    """Rows of all configurations and splits, one after another, with their pseudo-columns.

    `load` takes a configuration and a split; `origin` is what messages call the data.
    """
    import datasets  # 2-3 seconds: only where a dataset is read

    datasets.disable_progress_bars()
    for config in task.data.all_configs:
        for split in task.data.all_splits:
            try:
                table = load(config, split)
                table = _undecoded(table, datasets.Image)
                pseudo = {CONFIG: config or "", SPLIT: split or ""}
                for index, row in enumerate(table):
                    yield {**pseudo, **_pictured(row, table, index)}
            except UserError:
                raise
            except _reading_errors() as error:
                raise _unread(task, origin, error, config, split) from error


def _reading_errors() -> tuple[type[Exception], ...]:
    """What reading raises; the hub client's releases bring HTTP errors of different libraries."""
    import datasets
    import huggingface_hub

    http = import_module(type(huggingface_hub.get_session()).__module__.partition(".")[0])
    failed = http.HTTPError if hasattr(http, "HTTPError") else OSError
    return (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, failed)


def _unread(task: Task, origin: str, error: Exception, *parts: str | None) -> UserError:
    cause = error.__cause__ or error
    reason = " ".join(str(cause).strip().splitlines()[:1])
    part = f" ({' '.join(filter(None, parts))})" if any(parts) else ""
    hint = "check that the data is whole and each of its columns is of one type"
    if task.data.hub is not None and _copy(task.data) is None:
        hint = (
            "check data.hub, config, split and revision, the network and your HF login; without a "
            f"network run `mergefront tasks fetch {task.name}` where there is one and copy its "
            f"cache ($MERGEFRONT_CACHE, {cache_root()}), or put the dataset's repository "
            f"under $MERGEFRONT_DATASETS/{task.data.hub}"
        )
    return UserError(
        f"task {task.name}: {origin} cannot be read{part}: {type(cause).__name__}: {reason}",
        hint=hint,
    )


def _undecoded(table: Any, image: Any) -> Any:
    """The table with its images as bytes."""
    for column, feature in (table.features or {}).items():
        if isinstance(feature, image):
            table = table.cast_column(column, image(decode=False))
    return table


def _pictured(row: Row, table: Any, index: int) -> Row:
    """A row with its embedded images as Pictures that are read from the table again if needed."""
    images = {c: v for c, v in row.items() if isinstance(v, dict) and _embeds(v)}
    if not images:
        return row
    made = {}
    for column, cell in images.items():
        data = bytes(cell["bytes"])
        name = cell.get("path") or f"in column {column}"
        kept = hasattr(table, "__len__")  # a streamed table is read once
        read = partial(_again, table, index, column) if kept else partial(bytes, data)
        made[column] = Picture(name, sha256(data), read)
    return {**row, **made}


def _embeds(cell: dict[str, Any]) -> bool:
    return cell.keys() <= {"bytes", "path"} and isinstance(cell.get("bytes"), bytes | bytearray)


def _again(table: Any, index: int, column: str) -> bytes:
    return bytes(table.select_columns([column])[index][column]["bytes"])


def zip_of(task: Task, path: Path | None) -> zipfile.ZipFile | None:
    """The archive of images that a task names. Raises UserError if it cannot be read."""
    if path is None:
        return None
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"task {task.name}: the archive {path} cannot be read: {error}",
            hint="data.archive names a zip file",
        ) from None


def csv_rows(task: Task, file: Path) -> list[Row]:
    """Rows of a CSV file, every cell as it is written: nothing is guessed, a blank is no gap.

    Lines and last columns that are blank throughout, as spreadsheets write them, are no data, nor
    are spaces around a column's name.

    Raises:
        UserError: it cannot be read, or a line has more or fewer cells than the first.
    """
    rows: list[Row] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            while header and not header[-1]:
                header.pop()
            if len(set(header)) != len(header):
                raise csv.Error("its first line names a column twice")
            for cells in reader:
                if not any(map(str.strip, cells)):
                    continue
                while len(cells) > len(header) and not cells[-1].strip():
                    cells.pop()
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
