"""Hashes of files, remembered on this machine: reading three 7 B models takes a while.

XXH3 with 128 bits, as `xxhsum -H2` prints it, a tenth of SHA-256's time. It tells any two files
apart that were not made to deceive: whether a run continues on the models it began with is such a
question, who made them is not (docs/decisions/0006).

    $MERGEFRONT_CACHE (default ~/.cache/mergefront)
        hashes/<sha256 of the path>.json     {"path", "state", "hash"} of one large file

A hash is remembered for a path together with the file's state: device, inode, size, and times of
modification and of change to the nanosecond. A file written or replaced since, in whatever way,
has another state (the time of change cannot be set by hand) and is hashed again. What changed in
the last moments before it was read is not remembered, since clocks have a grain.

Where the configurations and search spaces that come with mergefront lie.

A wheel carries them inside the package (shipped/); a checkout has them at its top level.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from xxhash import xxh3_128

from mergefront.errors import ConfigError

Kind = Literal["xxh3", "sha256"]
"""What a hash is made by; "sha256" is what runs up to 0.2 recorded."""

LARGE: Final = 1 << 26
"""Bytes from which a hash is remembered beyond this process."""

_SETTLED_NS: Final = 2 * 10**9

State = tuple[int, ...]


def cache_root() -> Path:
    """The cache's folder: MERGEFRONT_CACHE, or ~/.cache/mergefront."""
    given = os.environ.get("MERGEFRONT_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "mergefront"


def file_hash(file: Path, kind: Kind = "xxh3") -> str:
    """Return "xxh3:" and 32 hex digits, read anew only if the file's state is another.

    Or the 64 hex digits of SHA-256, without a prefix, as older runs have them.
    """
    real = file.resolve()
    return _hashed(real, _state(real)) if kind == "xxh3" else _digest(real, "sha256")


@lru_cache(maxsize=4096)
def _hashed(file: Path, state: State) -> str:
    note = cache_root() / "hashes" / f"{hashlib.sha256(bytes(file)).hexdigest()}.json"
    large = file.stat().st_size >= LARGE
    if large and (known := _remembered(note, file, state)) is not None:
        return known
    now = time.time_ns()
    found = f"xxh3:{_digest(file, xxh3_128)}"
    settled = now - max(state[-2:]) > _SETTLED_NS and _state(file) == state
    if large and settled:
        _remember(note, {"path": str(file), "state": list(state), "hash": found})
    return found


def _digest(file: Path, maker: Any) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, maker).hexdigest()


def kind_of(hashes: Mapping[str, Mapping[str, str]]) -> Kind:
    """Return the kind of hashes by source and file that a run has recorded."""
    every = [one for files in hashes.values() for one in files.values()]
    return "xxh3" if all(one.startswith("xxh3:") for one in every) else "sha256"


def _state(file: Path) -> State:
    """What any write to the file changes; the times come last."""
    now = file.stat()
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns


def _remembered(note: Path, file: Path, state: State) -> str | None:
    """The hash in a note, if it is of this file in this state; a damaged note is none."""
    try:
        held = json.loads(note.read_bytes())
        same = held["path"] == str(file) and held["state"] == list(state)
        return str(held["hash"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(note: Path, held: dict[str, object]) -> None:
    """Write a note whole or not at all; a cache that cannot be written costs time, no more."""
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        partial = note.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(held))
        partial.replace(note)


ShippedKind = Literal["configs", "search_spaces"]

_PACKAGE = Path(__file__).parent


def folder(kind: ShippedKind) -> Path:
    """The folder with the shipped files of a kind."""
    packaged = _PACKAGE / "shipped" / kind
    return packaged if packaged.is_dir() else _PACKAGE.parent.parent / kind


def names(kind: ShippedKind) -> list[str]:
    """Names of the shipped files of a kind, without suffix, sorted."""
    return sorted(path.stem for path in folder(kind).glob("*.yaml"))


def find(kind: ShippedKind, name: str, relative_to: Path) -> Path:
    """A YAML file given by path, or a shipped one by name.

    Raises:
        ConfigError: neither exists; names the shipped ones.
    """
    path = relative_to / name
    if path.is_file():
        return path
    shipped = folder(kind) / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    raise ConfigError(
        f"{name}: no such file, and no shipped {kind.removesuffix('s').replace('_', ' ')} of "
        "that name",
        hint=f"shipped: {', '.join(names(kind))}; or give the path of a YAML file",
    )


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
