"""Images of a row: where their bytes lie, and the bytes that an engine gets.

An engine gets an image upright (EXIF orientation applied), opaque (transparency on white), in 8
bits a channel and within the task's pixel budget. If a file is all of that already, the engine gets
its very bytes; else the image is encoded anew as PNG. The hash of an item set covers these bytes.

Rows may be a stranger's. So an image's path stays inside the data's own folders, its file is an
ordinary one, and its format, bytes and pixels are limited.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mergefront import zoo
from mergefront.errors import UserError
from mergefront.tasks.cells import Row, cell_of

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are decoded, known by content; others, such as EPS, run programs."""
MOST_BYTES: Final = 1 << 26
"""The largest image file."""
MOST_PIXELS: Final = 80_000_000
"""The most pixels of an image: 240 MB when decoded. From 89 million on, PIL warns by itself."""


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
    """Where the image files of a table lie: in folders, or in a zip file.

    Paths are relative to `folder`. With their links resolved, they end inside one of `roots`.
    """

    folder: Path
    roots: tuple[Path, ...]
    archive: zipfile.ZipFile | None = None

    def read(self, name: str) -> bytes:
        """Return the bytes of a file. Raises UserError, whose message lacks the file's name."""
        if self.archive is None:
            return _ordinary_file(self._path_inside(name))
        return _archived_file(self.archive, self._member(name))

    def path_in_messages(self, name: str) -> str:
        """Return how messages name a file."""
        if self.archive is None:
            return str(self.folder / name)
        return f"{name} in {self.archive.filename}"

    def _path_inside(self, name: str) -> Path:
        """Return the file's path with its links resolved."""
        try:
            path = (self.folder / name).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"cannot be a path: {error}", hint="correct the row") from None
        if any(path.is_relative_to(root.resolve()) for root in self.roots):
            return path
        folders = " or ".join(map(str, self.roots)) or "a zip file (data.archive)"
        raise UserError(
            f"cannot be read: it lies outside the data, expected a file in {folders}",
            hint="rows may be a stranger's: copy the images into that folder, or allow another one "
            "with data.image_root in the task file",
        )

    def _member(self, name: str) -> zipfile.ZipInfo:
        """Return the archive's file of that path, or the only file whose path ends so."""
        assert self.archive is not None
        path = name.strip().removeprefix("./").lstrip("/")
        try:
            return self.archive.getinfo(path)
        except KeyError:
            pass
        matches = [m for m in self.archive.infolist() if m.filename.endswith(f"/{path}")]
        if len(matches) == 1:
            return matches[0]
        raise UserError(
            "cannot be read: it is not there", hint="paths are those of the zip file, data.archive"
        )


def _ordinary_file(path: Path) -> bytes:
    """Return a file's bytes; neither waits for a pipe nor reads a device."""
    try:
        # Without O_NONBLOCK, to open a FIFO waits for its writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UserError(
                    "cannot be read: it is no ordinary file",
                    hint="expected the path of an image file",
                )
            _check_size(status.st_size)
            return stream.read(MOST_BYTES)
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror}", hint="paths are relative to the data file"
        ) from None


def _archived_file(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.flag_bits & 1:
        raise UserError(
            "cannot be read: the zip file is encrypted",
            hint="unpack it with its password, and pack it again without one",
        )
    _check_size(member.file_size)
    try:
        with archive.open(member) as stream:
            return stream.read(MOST_BYTES)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot be read: {error}", hint="pack the zip file again, with the method deflate"
        ) from None


def _check_size(n_bytes: int) -> None:
    if n_bytes > MOST_BYTES:
        raise UserError(
            f"is not read: it has {n_bytes:,} bytes, expected at most {MOST_BYTES:,}",
            hint="scale the image down, or drop the row with exclude",
        )


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
        pictures.append(_picture_in_file(cell, column, store, label))
    return tuple(pictures)


def _picture_in_file(name: str, column: str, store: ImageStore, label: str) -> Picture:
    try:
        data = store.read(name)
    except UserError as error:
        raise UserError(
            f"{label}: the image {store.path_in_messages(name)} of the column {column!r} "
            f"(fields.images) {error.message}",
            hint=error.hint,
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
        _check_size(len(data))
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UserError(
                    f"is not decoded: it has {image.width} x {image.height} pixels, expected at "
                    f"most {MOST_PIXELS:,} in all",
                    hint="scale the image down, or drop the row",
                )
            if _is_ready(image, max_pixels):
                image.draft("RGB", (1, 1))  # a JPEG is read whole but decoded small: faster
                image.load()
                return data
            return _png(_opaque(ImageOps.exif_transpose(image)), max_pixels)
    except UserError as error:
        reason, hint = error.message, error.hint
    except (
        *(OSError, ValueError, SyntaxError, EOFError, struct.error, KeyError),
        Image.DecompressionBombError,
    ) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        formats = f"it is in none of the formats {', '.join(FORMATS)}"
        reason = f"cannot be decoded: {formats if unknown else error}"
        hint = "replace the file, or drop the row"
    raise UserError(f"{label}: the image {picture.name} {reason}", hint=hint)


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
