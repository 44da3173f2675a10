"""Hashes of files: right whatever happens to the file, remembered only where nothing did."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import xxhash

from mergefront import files
from mergefront.files import file_hash


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large and was written long enough ago; a cache of its own."""
    monkeypatch.setenv("MERGEFRONT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "REMEMBERED_BYTES", 10)
    monkeypatch.setattr(files, "_SETTLED_NS", 0)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"what it holds")
    time.sleep(0.05)
    return file


def notes(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "hashes").glob("*"))


def forget() -> None:
    """As in another process."""
    files._hash_in_state.cache_clear()


def right(file: Path) -> bool:
    forget()
    return file_hash(file) == f"xxh3:{xxhash.xxh3_128_hexdigest(file.read_bytes())}"


def test_a_hash_is_remembered_across_processes(large: Path, tmp_path: Path) -> None:
    assert right(large)
    (note,) = notes(tmp_path)
    held = json.loads(note.read_text())
    assert held["path"] == str(large)
    note.write_text(json.dumps(held | {"hash": "remembered"}))  # proves that it is read
    forget()
    assert file_hash(large) == "remembered"
    assert file_hash(large.parent / "." / large.name) == "remembered"


def test_any_change_is_seen(large: Path) -> None:
    assert right(large)
    before = large.stat()
    with large.open("r+b") as stream:  # the same size, the same inode, its time put back
        stream.write(b"What")
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert large.stat().st_mtime_ns == before.st_mtime_ns
    assert right(large)
    other = large.with_name("other")
    other.write_bytes(b"another thing")
    other.replace(large)
    assert right(large)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"path": 1}'])
def test_a_damaged_note_is_none(large: Path, tmp_path: Path, text: str) -> None:
    assert right(large)
    notes(tmp_path)[0].write_text(text)
    assert right(large)


def test_what_is_small_or_fresh_is_not_remembered(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_SETTLED_NS", 10**12)
    assert right(large)
    monkeypatch.setattr(files, "_SETTLED_NS", 0)
    monkeypatch.setattr(files, "REMEMBERED_BYTES", 1 << 26)
    assert right(large)
    assert notes(tmp_path) == []


def test_a_cache_that_cannot_be_written_costs_time_only(large: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert right(large)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "front.json"
    files.write_text(path, "old")

    def write_half() -> None:
        with files.whole_file(path) as partial:
            partial.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "old"
    files.write_text(path, "new é")
    assert path.read_text(encoding="utf-8") == "new é"
    assert list(tmp_path.iterdir()) == [path]
