"""Files on this machine: those that come with mergefront, whole writes, and remembered hashes.

Hashes are XXH3 with 128 bits, as `xxhsum -H2` prints them, in a tenth of SHA-256's time. They tell
any two files apart that were not made to deceive. Whether a run continues on the models that it
began with is such a question; who made the models is not (docs/decisions/0006).

    $MERGEFRONT_CACHE (default ~/.cache/mergefront)
        hashes/<sha256 of the path>.json     {"path", "state", "hash"} of one large file

A hash is remembered for a path together with the file's state: device, inode, size, and times of
modification and of change to the nanosecond. A file that was written or replaced since has another
state (the time of change cannot be set by hand) and is hashed again. A file that changed in the
last moments before it was read is not remembered, since clocks have a grain.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from xxhash import xxh3_128

from mergefront.errors import ConfigError, UserError

ShippedFolder = Literal["configs", "search_spaces"]
HASH_PREFIX: Final = "xxh3:"
"""What every hash begins with."""
REMEMBERED_BYTES: Final = 1 << 26
"""Bytes from which a file's hash is remembered beyond this process."""
_SETTLED_NS: Final = 2 * 10**9
_PACKAGE: Final = Path(__file__).parent
_NO_ROOM: Final = "free some disk space, or write to another disk"

FileState = tuple[int, ...]


def shipped_folder(folder: ShippedFolder) -> Path:
    """Return the path of a folder that comes with mergefront.

    A wheel carries it inside the package, under shipped/; a checkout has it at its top level.
    """
    packaged = _PACKAGE / "shipped" / folder
    return packaged if packaged.is_dir() else _PACKAGE.parent.parent / folder


def shipped_names(folder: ShippedFolder) -> list[str]:
    """Return the names of the files in a shipped folder, without suffix, sorted."""
    return sorted(path.stem for path in shipped_folder(folder).glob("*.yaml"))


def find_yaml(folder: ShippedFolder, name: str) -> Path:
    """Return a YAML file that is given by its path, or by its name in a shipped folder.

    Raises:
        ConfigError: neither exists; names the shipped ones.
    """
    shipped = shipped_folder(folder) / f"{name}.yaml"
    for path in (Path(name), shipped):
        if os.path.isfile(path):  # Path.is_file would raise for a name that is too long
            return path
    raise ConfigError(
        f"{name}: no such file, and no shipped {folder.removesuffix('s').replace('_', ' ')} of "
        "that name",
        hint=f"shipped: {', '.join(shipped_names(folder))}; or give the path of a YAML file",
    )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a hidden sibling of `path` that takes its place only if the body succeeds.

    Who reads `path` at any moment, or after a crash of the machine, finds the old file or the new.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def whole_folder(out: Path, needs_bytes: int = 0) -> Iterator[Path]:
    """Yield a hidden sibling of `out` that becomes `out` only if the body succeeds.

    On any error or interrupt it is removed. If a process was killed, what it left is removed by
    the next call for the same `out`.

    Raises:
        UserError: if `out` exists, or the disk has less than `needs_bytes` free or fills up.
    """
    out = Path(out)
    if out.exists() or out.is_symlink():
        raise UserError(
            f"output folder {out} exists already", hint="give another, or delete it first"
        )
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent, out.name)
    free_bytes = shutil.disk_usage(parent).free
    if free_bytes < needs_bytes:
        raise UserError(
            f"no space for {out}: {needs_bytes / 1e9:.1f} GB needed, {free_bytes / 1e9:.1f} GB "
            "free",
            hint=_NO_ROOM,
        )
    partial = parent / f".{out.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        yield partial
        partial.rename(out)
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no space left while writing {out}", hint=_NO_ROOM) from problem
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_abandoned(parent: Path, name: str) -> None:
    """Remove partial folders of `name` whose process is gone, or that are this process's own."""
    prefix = f".{name}.partial-"
    for folder in parent.glob(f"{prefix}*"):
        pid = folder.name.removeprefix(prefix)
        alive = pid.isdigit() and int(pid) != os.getpid() and Path(f"/proc/{pid}").exists()
        if pid.isdigit() and not alive:
            shutil.rmtree(folder, ignore_errors=True)


def cache_root() -> Path:
    """Return the cache's folder: MERGEFRONT_CACHE, or ~/.cache/mergefront."""
    variable = os.environ.get("MERGEFRONT_CACHE")
    return Path(variable) if variable else Path.home() / ".cache" / "mergefront"


def file_hash(file: Path) -> str:
    """Return `HASH_PREFIX` and 32 hex digits; the file is read only if its state is a new one."""
    path = file.resolve()
    return _hash_in_state(path, _state(path))


@lru_cache(maxsize=4096)
def _hash_in_state(file: Path, state: FileState) -> str:
    note = cache_root() / "hashes" / f"{hashlib.sha256(bytes(file)).hexdigest()}.json"
    large = file.stat().st_size >= REMEMBERED_BYTES
    if large and (remembered := _read_note(note, file, state)) is not None:
        return remembered
    started_ns = time.time_ns()
    with file.open("rb") as stream:
        digest = HASH_PREFIX + hashlib.file_digest(stream, xxh3_128).hexdigest()
    settled = started_ns - max(state[-2:]) > _SETTLED_NS and _state(file) == state
    if large and settled:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, no more
            note.parent.mkdir(parents=True, exist_ok=True)
            content = {"path": str(file), "state": list(state), "hash": digest}
            write_text(note, json.dumps(content))
    return digest


def _state(file: Path) -> FileState:
    """Return what any write to the file changes; the times come last."""
    status = file.stat()
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _read_note(note: Path, file: Path, state: FileState) -> str | None:
    """Return the hash in a note if it is of this file in this state; None if it is damaged."""
    try:
        content = json.loads(note.read_bytes())
        same = content["path"] == str(file) and content["state"] == list(state)
        return str(content["hash"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
