"""Images of a row: where their bytes lie, and the bytes that an engine gets.

An engine gets an image upright (EXIF orientation applied), opaque (transparency on white), in 8
bits a channel and within the task's pixel budget. If a file is all of that already, the engine gets
its very bytes; else the image is encoded anew as PNG. The hash of an item set covers these bytes.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mergefront import zoo
from mergefront.errors import UserError
from mergefront.tasks.cells import Row, cell_of


@dataclass(frozen=True)
class Picture:
    """An image that is read when it is needed.

    `sha256` is the hash of its bytes in the data; `name` is its name in messages.
    """

    name: str
    sha256: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class ImageStore:
    """Where the image files of a table lie: in a folder, or in a zip file."""

    folder: Path
    archive: zipfile.ZipFile | None = None

    def read(self, name: str) -> bytes:
        """Return the bytes of a file. Raises OSError or KeyError."""
        if self.archive is None:
            return (self.folder / name).read_bytes()
        return self.archive.read(self._member(name))

    def path_in_messages(self, name: str) -> str:
        """Return how messages name a file."""
        if self.archive is None:
            return str(self.folder / name)
        return f"{name} in {self.archive.filename}"

    def _member(self, name: str) -> str:
        """Return the archive's file of that path, or the only file whose path ends so."""
        assert self.archive is not None
        path = name.strip().removeprefix("./").lstrip("/")
        members = self.archive.namelist()
        if path in members:
            return path
        matches = [member for member in members if member.endswith(f"/{path}")]
        if len(matches) == 1:
            return matches[0]
        raise KeyError(path)


def pictures_of(
    row: Row, columns: Sequence[str], store: ImageStore, label: str
) -> tuple[Picture, ...]:
    """Return the images of a row; blank cells hold none.

    Raises:
        UserError: a file cannot be read, or a cell is neither a path nor an image.
    """
    pictures = []
    for column in columns:
        cell = cell_of(row, column)
        if isinstance(cell, Picture):
            pictures.append(cell)
            continue
        if isinstance(cell, dict) and cell.get("bytes") is None:
            cell = cell.get("path")
        if cell is None or cell == "":
            continue
        if not isinstance(cell, str):
            raise UserError(
                f"{label}: the image column {column!r} holds a {type(cell).__name__}",
                hint="expected an image or the path of a file; each image has its own column",
            )
        pictures.append(_picture_in_file(cell, store, label))
    return tuple(pictures)


def _picture_in_file(name: str, store: ImageStore, label: str) -> Picture:
    try:
        data = store.read(name)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not there"
        raise UserError(
            f"{label}: the image {store.path_in_messages(name)} cannot be read: {reason}",
            hint="paths are relative to the data file"
            if store.archive is None
            else "paths are those of the zip file, data.archive",
        ) from None
    return Picture(name, sha256(data), partial(store.read, name))


def joint_hash(pictures: Sequence[Picture]) -> str:
    """Return the sha256 of the bytes of all images, one after the other, as in the data."""
    if len(pictures) == 1:
        return pictures[0].sha256
    return sha256(b"".join(picture.read() for picture in pictures))


def zoo_picture(row: Row) -> Picture:
    """Return the picture of a question of the zoo, which mergefront draws itself."""
    scene = repr((row["scans"], row["tints"])).encode()
    return Picture("drawn", sha256(scene), partial(_draw, row))


def _draw(row: Row) -> bytes:
    buffer = io.BytesIO()
    zoo.render(row["scans"], row["tints"]).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def bytes_for_engine(picture: Picture, max_pixels: int | None, label: str) -> bytes:
    """Return the bytes that an engine gets of an image, decoded once as a check.

    Raises:
        UserError: it cannot be decoded; names `label` (task and item) and the image.
    """
    try:
        data = picture.read()
        with Image.open(io.BytesIO(data)) as image:
            if _is_ready(image, max_pixels):
                image.draft("RGB", (1, 1))  # a JPEG is read whole but decoded small: faster
                image.load()
                return data
            return _png(_opaque(ImageOps.exif_transpose(image)), max_pixels)
    except (
        *(OSError, ValueError, SyntaxError, EOFError, struct.error, KeyError),
        Image.DecompressionBombError,
    ) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "it is in no known image format" if unknown else str(error)
        raise UserError(
            f"{label}: the image {picture.name} cannot be decoded: {reason}",
            hint="replace the file, or drop the row",
        ) from error


def _is_ready(image: Image.Image, max_pixels: int | None) -> bool:
    upright = image.getexif().get(ExifTags.Base.Orientation, 1) in (0, 1)
    small = max_pixels is None or image.width * image.height <= max_pixels
    plain = image.mode in {"1", "L", "P", "RGB", "CMYK", "YCbCr"}
    return upright and small and plain and not image.has_transparency_data


def _opaque(image: Image.Image) -> Image.Image:
    """Return the image in RGB, transparency on white, deeper grey scaled down to 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        image = Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _png(image: Image.Image, max_pixels: int | None) -> bytes:
    pixels = image.width * image.height
    if max_pixels is not None and pixels > max_pixels:
        scale = (max_pixels / pixels) ** 0.5
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    """Return the sha256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
