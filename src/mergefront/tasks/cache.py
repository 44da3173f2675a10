"""Copies of hub datasets on this machine: rows and images, named by their content.

    $MERGEFRONT_CACHE (default ~/.cache/mergefront)
        items/<sha256>/rows.jsonl     one row a line, an image as {"$image": [sha256, start, bytes]}
                       images.bin     the images' own bytes, each once
                       card.json      where it came from, how much it is, when it was read
        sources/<sha256>.json         which of these a dataset (id, revision, splits) is
                <sha256>.<task>.seen  the task's first warning about unverified facts was given

The name is a hash over the rows' fields in canonical JSON and the sha256 of each image's own bytes.
So the same content has the same name on every machine, whatever format it came in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from mergefront.errors import UserError
from mergefront.files import cache_root, write_text
from mergefront.tasks.cells import Row
from mergefront.tasks.pictures import Picture
from mergefront.tasks.task_file import Data

_IMAGE = "$image"


@dataclass(frozen=True)
class CachedDataset:
    """A copy of a dataset: `sha256` names its content, `revision` the commit it came from."""

    folder: Path
    sha256: str
    revision: str | None
    n_rows: int
    n_bytes: int

    def rows(self) -> Iterator[Row]:
        """Yield the rows in their order; images are read when they are needed."""
        pack = self.folder / "images.bin"
        with (self.folder / "rows.jsonl").open(encoding="utf-8") as stream:
            for line in stream:
                row = json.loads(line)
                yield {name: _unpacked_cell(cell, pack) for name, cell in row.items()}


def find(data: Data) -> CachedDataset | None:
    """Return the cache's copy of a hub dataset, or None.

    Raises:
        UserError: it holds a damaged copy.
    """
    pointer = _pointer(data)
    if not pointer.is_file():
        return None
    source = json.loads(pointer.read_text())
    folder = cache_root() / "items" / source["sha256"]
    card_file = folder / "card.json"
    if not card_file.is_file():
        return None
    card = json.loads(card_file.read_text())
    for name, size in card["files"].items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            raise UserError(
                f"the cached copy of {data.hub} is damaged: {file} is not {size} bytes long",
                hint=f"delete {folder} and fetch it again",
            )
    sizes = sum(card["files"].values())
    return CachedDataset(folder, source["sha256"], source["revision"], card["rows"], sizes)


def first_look(data: Data, task: str) -> bool:
    """Return whether a task looks at a hub dataset for the first time on this machine; note it."""
    marker = _pointer(data).with_suffix(f".{task}.seen")
    if marker.exists():
        return False
    with contextlib.suppress(OSError):  # in a read-only cache every look is the first
        marker.touch()
    return True


def store(data: Data, rows: Iterable[Row], revision: str | None) -> CachedDataset:
    """Keep the rows of a hub dataset, whole or not at all.

    Args:
        data: the dataset.
        rows: its rows; image cells are Pictures.
        revision: the commit that they were read from, None if unknown.

    Raises:
        UserError: the cache's folder cannot be written.
    """
    items = cache_root() / "items"
    try:
        items.mkdir(parents=True, exist_ok=True)
        partial_folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=items))
    except OSError as error:
        raise UserError(
            f"the cache {cache_root()} cannot be written: {error.strerror}",
            hint="set MERGEFRONT_CACHE to a folder that you can write, with room for the images",
        ) from None
    try:
        name, n = _write(partial_folder, rows)
        files = {f: (partial_folder / f).stat().st_size for f in ("rows.jsonl", "images.bin")}
        card = {"rows": n, "files": files, "data": data.model_dump(mode="json", exclude_none=True)}
        card["read"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        (partial_folder / "card.json").write_text(json.dumps(card, indent=1))
        try:
            os.rename(partial_folder, items / name)
        except OSError:
            if not (items / name).is_dir():  # else another process has stored the same content
                raise
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    pointer = _pointer(data)
    pointer.parent.mkdir(parents=True, exist_ok=True)
    write_text(pointer, json.dumps({"hub": data.hub, "sha256": name, "revision": revision}))
    copy = find(data)
    assert copy is not None
    return copy


def _write(folder: Path, rows: Iterable[Row]) -> tuple[str, int]:
    """Write rows and images; return the content's hash and the number of rows."""
    digest, n = hashlib.sha256(), 0
    places: dict[str, tuple[int, int]] = {}
    with (
        (folder / "rows.jsonl").open("w", encoding="utf-8") as lines,
        (folder / "images.bin").open("wb") as pack,
    ):
        for row in rows:
            n += 1
            hashed_row = {
                c: {_IMAGE: v.sha256} if isinstance(v, Picture) else v for c, v in row.items()
            }
            digest.update(_canonical(hashed_row).encode() + b"\n")
            packed_row = {c: _packed_cell(v, places, pack) for c, v in row.items()}
            lines.write(_canonical(packed_row) + "\n")
    return digest.hexdigest(), n


def _packed_cell(cell: Any, places: dict[str, tuple[int, int]], pack: BinaryIO) -> Any:
    if not isinstance(cell, Picture):
        return cell
    if cell.sha256 not in places:
        image = cell.read()
        places[cell.sha256] = (pack.tell(), len(image))
        pack.write(image)
    return {_IMAGE: [cell.sha256, *places[cell.sha256], cell.name]}


def _unpacked_cell(cell: Any, pack: Path) -> Any:
    if not (isinstance(cell, dict) and _IMAGE in cell):
        return cell
    digest, start, size, name = cell[_IMAGE]
    return Picture(name, digest, partial(_slice, pack, start, size))


def _slice(pack: Path, start: int, size: int) -> bytes:
    with pack.open("rb") as stream:
        stream.seek(start)
        return stream.read(size)


def _canonical(row: Row) -> str:
    return json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)


def _pointer(data: Data) -> Path:
    parts = (data.hub, data.revision, data.all_configs, data.all_splits, data.file, data.archive)
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return cache_root() / "sources" / f"{name}.json"
