"""Images of a row: their bytes, their names in messages, and whether they can be decoded."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from mergefront.errors import UserError
from mergefront.records import Item
from mergefront.tasks.rows import Row


def read_images(row: Row, columns: Sequence[str], base: Path, label: str) -> tuple[bytes, ...]:
    """Encoded images of a row; blank cells hold none. `base`: what paths are relative to.

    Raises:
        UserError: a file cannot be read, or a cell is neither a path nor an image.
    """
    images = []
    for column, cell in _cells(row, columns):
        if isinstance(cell, dict) and cell.get("bytes"):
            images.append(bytes(cell["bytes"]))
            continue
        name = cell.get("path") if isinstance(cell, dict) else cell
        if not isinstance(name, str) or not name:
            raise UserError(
                f"{label}: the image column {column!r} holds a {type(cell).__name__}",
                hint="an image column holds the path of a file or an image; one column an image",
            )
        try:
            images.append((base / name).read_bytes())
        except OSError as error:
            raise UserError(
                f"{label}: the image {base / name} cannot be read: {error.strerror}",
                hint="paths are relative to the data file",
            ) from None
    return tuple(images)


def check_images(item: Item, row: Row, columns: Sequence[str]) -> None:
    """Decode an item's images. Raises UserError naming task, item and file."""
    for (column, cell), data in zip(_cells(row, columns), item.images, strict=True):
        path = cell.get("path") if isinstance(cell, dict) else cell
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.draft("RGB", (1, 1))  # a JPEG is read whole, but not enlarged: faster
                image.load()
        except (
            *(OSError, ValueError, SyntaxError, EOFError, struct.error),
            Image.DecompressionBombError,
        ) as error:
            unknown = isinstance(error, UnidentifiedImageError)
            reason = "it is in no known image format" if unknown else str(error)
            raise UserError(
                f"task {item.task}: item {item.id}: the image {path or f'in column {column}'} "
                f"cannot be decoded: {reason}",
                hint="replace the file, or drop the row",
            ) from error


def _cells(row: Row, columns: Sequence[str]) -> Iterator[tuple[str, Any]]:
    return ((c, row[c]) for c in columns if row[c] is not None and row[c] != "")
