"""Where a task's rows come from: the zoo, a CSV file, or whatever `datasets` reads.

No other module imports `datasets`. A hub dataset is looked for in this order: a copy under
$MERGEFRONT_DATASETS/<id> (a clone of its repository, or a folder of save_to_disk), the cache, the
hub itself, which fills the cache.
"""

from __future__ import annotations

import csv
import logging
import os
import zipfile
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from mergefront import zoo
from mergefront.errors import UserError
from mergefront.files import cache_root
from mergefront.json_file import DEEPEST, nesting
from mergefront.tasks import cache
from mergefront.tasks.cells import Row
from mergefront.tasks.pictures import ImageStore, Picture, pictures_of, sha256, zoo_picture
from mergefront.tasks.task_file import CONFIG, SPLIT, Data, Task

logger = logging.getLogger(__name__)

# The builders of `datasets` for files by their ending.
_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class DataTable:
    """The rows of a task's data, with the pseudo-columns CONFIG and SPLIT.

    Images that the data embeds are Pictures. Image files lie in `store`; it is None for the zoo,
    whose images are drawn. `revision` is the commit of a hub dataset, `sha256` the hash of a
    cached one.
    """

    rows: Iterable[Row]
    store: ImageStore | None
    revision: str | None = None
    sha256: str | None = None


def open_table(task: Task, folder: Path, *, glance: bool = False) -> DataTable:
    """Open the data of a task.

    Args:
        task: the task.
        folder: its paths are relative to this folder.
        glance: for a look at the first rows; what is not in the cache is streamed from the hub and
            not stored.

    Raises:
        UserError: the data is missing, malformed or cannot be reached.
    """
    data = task.data
    if data.zoo is not None:
        return DataTable(
            ({**row, "_picture": zoo_picture(row)} for row in zoo.questions(data.zoo)), None
        )
    if data.path is not None:
        path = folder / data.path
        archive = None if data.archive is None else path.parent / data.archive
        own_folder = path if path.is_dir() else path.parent
        return _table_of_path(task, path, archive, _image_roots(task, folder, own_folder))
    copy = _user_copy(data)
    if copy is not None:
        return _table_of_copy(task, copy, folder)
    cached = cache.find(data)
    if cached is None and glance:
        streamed = data.model_copy(update={"streaming": True})
        return _table_of_hub(task.model_copy(update={"data": streamed}), folder)
    cached = cached or _stored(task, _table_of_hub(task, folder))
    store = ImageStore(cached.folder, (cached.folder,))
    return DataTable(cached.rows(), store, cached.revision, cached.sha256)


def prefetch(task: Task, folder: Path = Path()) -> cache.CachedDataset | None:
    """Read a task's hub dataset into the cache, for use without a network.

    Where there is a copy under $MERGEFRONT_DATASETS, it is read instead of the hub. Return None for
    a task whose data lies on this machine anyway. The task's paths are relative to `folder`.

    Raises:
        UserError: the dataset cannot be read.
    """
    data = task.data
    if data.hub is None:
        return None
    copy = _user_copy(data)
    if copy is None:
        return cache.find(data) or _stored(task, _table_of_hub(task, folder))
    return _stored(task, replace(_table_of_copy(task, copy, folder), revision=data.revision))


def _user_copy(data: Data) -> Path | None:
    """Return the folder under $MERGEFRONT_DATASETS with the user's copy of a hub dataset."""
    root = os.environ.get("MERGEFRONT_DATASETS")
    folder = Path(root) / str(data.hub) if root else None
    return folder if folder is not None and folder.is_dir() else None


def _image_roots(task: Task, folder: Path, *own_folders: Path) -> tuple[Path, ...]:
    """Return the folders in which the images may lie: the data's own, or what the task names."""
    if task.data.image_root is not None:
        return (folder / task.data.image_root,)
    # In the hub's cache, a snapshot's files are links into the repository's blobs/.
    real_folders = [own_folder.resolve() for own_folder in own_folders]
    blobs = [path.parents[1] / "blobs" for path in real_folders if path.parent.name == "snapshots"]
    return (*own_folders, *blobs)


def _table_of_copy(task: Task, copy: Path, folder: Path) -> DataTable:
    data = task.data
    archive = None if data.archive is None else copy / data.archive
    path = copy if data.file is None else copy / data.file
    return _table_of_path(task, path, archive, _image_roots(task, folder, copy))


def _table_of_path(
    task: Task, path: Path, archive: Path | None, roots: tuple[Path, ...]
) -> DataTable:
    """Open a file or a dataset's folder; its images lie in `archive` or inside `roots`."""
    if path.is_dir():
        parts = _parts(task, partial(_folder, path), f"the folder {path}")
        return DataTable(parts, ImageStore(path, roots, zip_of(task, archive)))
    if path.suffix not in {".csv", *_BUILDERS} or not path.is_file():
        raise UserError(
            f"task {task.name}: {path} is no readable data file",
            hint="data.path takes an existing .jsonl, .json, .csv or .parquet file, or a folder",
        )
    store = ImageStore(path.parent, roots, zip_of(task, archive))
    if path.suffix == ".csv":
        return DataTable(csv_rows(task, path), store)
    return DataTable(_parts(task, partial(_file, path), str(path)), store)


def _stored(task: Task, table: DataTable) -> cache.CachedDataset:
    """Store the rows in the cache; images given by path become Pictures, so that it has them."""
    store = table.store
    assert store is not None

    def with_pictures(number: int, row: Row) -> Row:
        from_files = {
            column: pictures_of(row, [column], store, f"task {task.name}: row {number}")
            for column in task.fields.images
            if not isinstance(row.get(column), Picture)
        }
        return {**row, **{column: next(iter(ps), None) for column, ps in from_files.items()}}

    rows = (with_pictures(number, row) for number, row in enumerate(table.rows, start=1))
    return cache.store(task.data, rows, table.revision)


def _table_of_hub(task: Task, folder: Path) -> DataTable:
    """Open a hub dataset on the hub."""
    data = task.data
    revision = _commit_of(data)
    if data.revision is None:
        advice = f"; its latest commit is {revision}: give it as data.revision" if revision else ""
        logger.warning("task %s: the hub dataset %s is not pinned%s", task.name, data.hub, advice)
    archive = None if data.archive is None else _hub_file(task, data.archive, revision)
    rows = _parts(task, partial(_from_hub, task, revision), f"the hub dataset {data.hub}")
    roots = _image_roots(task, folder, *_download_folders(data))
    return DataTable(rows, ImageStore(roots[0], roots, zip_of(task, archive)), revision)


def _download_folders(data: Data) -> tuple[Path, Path]:
    """Return where the hub's clients put a dataset's files: as they are, and unpacked."""
    import datasets
    from huggingface_hub import constants

    name = f"datasets--{str(data.hub).replace('/', '--')}"
    return Path(constants.HF_HUB_CACHE) / name, Path(datasets.config.DOWNLOADED_DATASETS_PATH)


def _commit_of(data: Data) -> str | None:
    """Return the commit that a revision stands for now; without the hub, the revision itself."""
    import huggingface_hub

    try:
        return huggingface_hub.HfApi().dataset_info(str(data.hub), revision=data.revision).sha
    except _reading_errors():
        return data.revision  # reading the dataset will raise the error for the user


def _hub_file(task: Task, name: str, revision: str | None) -> Path:
    import huggingface_hub

    hub = str(task.data.hub)
    try:
        path = huggingface_hub.hf_hub_download(hub, name, repo_type="dataset", revision=revision)
    except _reading_errors() as error:
        raise _unreadable(task, f"the hub dataset {hub}", error) from error
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

    if path.suffix in {".json", ".jsonl"}:
        _check_nesting(path)
    return datasets.load_dataset(_BUILDERS[path.suffix], data_files=str(path), split="train")


def _check_nesting(path: Path) -> None:
    """Raise ValueError for JSON so deep that `datasets` would end the process."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if (depth := nesting(line)) > DEEPEST:
                raise ValueError(
                    f"line {number} is nested {depth:,} deep, expected at most {DEEPEST}"
                )


def _folder(folder: Path, config: str | None, split: str | None) -> Any:
    """Read a dataset's folder: one of save_to_disk, or any that load_dataset understands."""
    import datasets

    inner = folder / config if config and (folder / config).is_dir() else folder
    if (inner / "dataset_dict.json").is_file() or (inner / "state.json").is_file():
        tables = datasets.load_from_disk(str(inner))
        if not isinstance(tables, dict):
            return tables
        name = split or next(iter(tables), "")
        if name not in tables:
            raise ValueError(f"it has no split {name!r}, its splits are {', '.join(tables)}")
        return tables[name]
    return datasets.load_dataset(str(folder), config, split=split or "train")


def _parts(task: Task, load: Any, origin: str) -> Iterator[Row]:
    """Yield the rows of all configurations and splits, with their pseudo-columns.

    `load` takes a configuration and a split; `origin` names the data in messages.
    """
    import datasets  # 2-3 seconds: only where a dataset is read

    datasets.disable_progress_bars()
    for config in task.data.all_configs:
        for split in task.data.all_splits:
            try:
                table = load(config, split)
                table = _with_encoded_media(table)
                pseudo = {CONFIG: config or "", SPLIT: split or ""}
                for index, row in enumerate(table):
                    yield {**pseudo, **_with_pictures(row, table, index)}
            except UserError:
                raise
            except _reading_errors() as error:
                raise _unreadable(task, origin, error, config, split) from error


def _reading_errors() -> tuple[type[Exception], ...]:
    """Return what reading raises; releases of the hub client use different HTTP libraries."""
    import datasets
    import huggingface_hub

    # requests or httpx: both have an HTTPError.
    http = import_module(type(huggingface_hub.get_session()).__module__.partition(".")[0])
    return (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, http.HTTPError)


def _unreadable(task: Task, origin: str, error: Exception, *parts: str | None) -> UserError:
    cause = error.__cause__ or error
    reason = " ".join(str(cause).strip().splitlines()[:1])
    part = f" ({' '.join(filter(None, parts))})" if any(parts) else ""
    hint = "check that the data is whole and each of its columns is of one type"
    if task.data.hub is not None and _user_copy(task.data) is None:
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


def _with_encoded_media(table: Any) -> Any:
    """Return the table with images, sound and film as bytes or paths, at any depth.

    `datasets` would decode them: it would open whatever path or address a row names.
    """
    for column, feature in (table.features or {}).items():
        encoded = _encoded_feature(feature)
        if encoded != feature:
            table = table.cast_column(column, encoded)
    return table


def _encoded_feature(feature: Any) -> Any:
    if isinstance(feature, dict):
        return {name: _encoded_feature(part) for name, part in feature.items()}
    if isinstance(feature, list):
        return [_encoded_feature(part) for part in feature]
    if not is_dataclass(feature) or isinstance(feature, type):
        return feature
    changes: dict[str, Any] = {}
    for field in fields(feature):
        if field.name == "decode":
            changes["decode"] = False
        elif field.name == "feature":  # of a list
            changes["feature"] = _encoded_feature(vars(feature)["feature"])
    return replace(feature, **changes) if changes else feature


def _with_pictures(row: Row, table: Any, index: int) -> Row:
    """Return a row with its embedded images as Pictures, which read the table again if needed."""
    pictures = {}
    for column, cell in row.items():
        if not (isinstance(cell, dict) and cell.keys() <= {"bytes", "path"}):
            continue
        if not isinstance(cell.get("bytes"), bytes | bytearray):
            continue
        data = bytes(cell["bytes"])
        name = cell.get("path") or f"in column {column}"
        # A streamed table is read once, so its images stay in memory.
        can_reread = isinstance(table, Sized)
        read = partial(_image_bytes, table, index, column) if can_reread else partial(bytes, data)
        pictures[column] = Picture(name, sha256(data), read)
    return {**row, **pictures}


def _image_bytes(table: Any, index: int, column: str) -> bytes:
    return bytes(table.select_columns([column])[index][column]["bytes"])


def zip_of(task: Task, path: Path | None) -> zipfile.ZipFile | None:
    """Open the archive of images that a task names. Raises UserError if it cannot be read."""
    if path is None:
        return None
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no ordinary file")
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UserError(
            f"task {task.name}: the archive {path} cannot be read: {error}",
            hint="data.archive names a zip file",
        ) from None


def csv_rows(task: Task, file: Path) -> list[Row]:
    """Read a CSV file, every cell as the text that is written there.

    Spreadsheets write blank lines and blank last columns: they are dropped, as are spaces around a
    column's name.

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
