"""Rows may be a stranger's: no image path leads out of the data, hangs, or fills the memory."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from fixtures_task_files import write_task
from mergefront.errors import UserError
from mergefront.records import SPLITS
from mergefront.tasks import load_task, pool_of
from mergefront.tasks.pictures import MOST_BYTES, Picture, bytes_for_engine


def read_images(path: Path) -> list[tuple[bytes, ...]]:
    pool = pool_of(load_task(path), path.parent)
    return [item.images for split in SPLITS for item in pool.take(split)]


def task_with_image(folder: Path, name: str, **data: str) -> Path:
    folder.mkdir(exist_ok=True)
    rows: list[dict[str, object]] = [{"question": "?", "answer": "1", "image": name}]
    return write_task(folder, rows, data={"path": "rows.jsonl", **data})


def png_of(width: int, height: int) -> bytes:
    """Return a small file that announces a large image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        size, check = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(kind + data))
        return size + kind + data + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("way", ["absolute", "dots", "link"])
def test_an_image_outside_the_data_is_refused_unless_the_task_allows_it(
    tmp_path: Path, way: str
) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    folder = tmp_path / "data"
    name = {"absolute": str(secret), "dots": "../secret.png", "link": "link.png"}[way]
    path = task_with_image(folder, name)
    if way == "link":
        (folder / "link.png").symlink_to(secret)
    words = r"task mine: row 1: the image .*\.png of the column 'image' \(fields\.images\) "
    with pytest.raises(UserError, match=words + "cannot be read: it lies outside the data") as told:
        read_images(path)
    assert str(folder) in told.value.message
    assert "data.image_root" in told.value.hint
    path = task_with_image(folder, name, image_root="..")
    assert read_images(path) == [(secret.read_bytes(),)]


def test_a_snapshot_of_the_hubs_cache_has_its_images_in_blobs(tmp_path: Path) -> None:
    folder = tmp_path / "datasets--x--y" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder.parent.parent / "blobs").mkdir()
    path = task_with_image(folder, "link.png")
    blob = folder.parent.parent / "blobs" / "0123"
    Image.new("RGB", (8, 8), "red").save(blob, format="PNG")
    (folder / "link.png").symlink_to("../../blobs/0123")
    assert read_images(path) == [(blob.read_bytes(),)]


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 5000, "loop.png"])
def test_a_path_that_is_none_is_one_message(tmp_path: Path, name: str) -> None:
    path = task_with_image(tmp_path, name)
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(UserError, match="row 1: the image"):
        read_images(path)


def test_only_ordinary_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png .* it is no ordinary file"):
        read_images(task_with_image(tmp_path, "pipe.png"))
    with pytest.raises(UserError, match=r"/dev/zero .* it is no ordinary file"):
        read_images(task_with_image(tmp_path, "/dev/zero", image_root="/dev"))
    with (tmp_path / "large.png").open("wb") as stream:
        stream.truncate(MOST_BYTES + 1)
    with pytest.raises(UserError, match=r"large\.png .* expected at most 67,108,864"):
        read_images(task_with_image(tmp_path, "large.png"))


def test_formats_that_run_programs_and_bombs_are_not_decoded() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    for data, words in [
        (postscript, "in none of the formats PNG, JPEG, WEBP, GIF, BMP, TIFF"),
        (
            png_of(9_000, 9_000),
            "is not decoded: it has 9000 x 9000 pixels, expected at most 80,000,000",
        ),
        (png_of(10**9, 10**9), "cannot be decoded"),
        (bytes(MOST_BYTES + 1), "expected at most 67,108,864"),
    ]:
        with pytest.raises(UserError, match=f"task t: item i: the image p .*{words}"):
            bytes_for_engine(Picture("p", "", lambda data=data: data), None, "task t: item i")  # type: ignore[misc]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_formats_of_data_sets_are_decoded(form: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, format=form)
    assert bytes_for_engine(Picture("p", "", buffer.getvalue), None, "task t: item i")


def test_archives_have_limits(tmp_path: Path) -> None:
    path = task_with_image(tmp_path, "x/0.png", archive="images.zip")
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr("x/0.png", bytes(MOST_BYTES + 1))
    assert archive.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"row 1: the image x/0\.png in .*expected at most"):
        read_images(path)
    with zipfile.ZipFile(archive, "w") as pack:
        pack.writestr("x/0.png", png_of(8, 8))
    content = bytearray(archive.read_bytes())
    content[6] |= 1  # the flag of an encrypted file, in its own header
    content[content.rindex(b"PK\1\2") + 8] |= 1  # and in the list of files
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"row 1: the image .* the zip file is encrypted"):
        read_images(path)
    archive.unlink()
    os.mkfifo(archive)
    with pytest.raises(UserError, match=r"images\.zip cannot be read: it is no ordinary file"):
        read_images(path)
