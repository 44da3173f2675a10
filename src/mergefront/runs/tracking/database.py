"""MLflow's SQLite database: made aside and renamed into place, moved away if it is broken.

MLflow makes its tables in some hundred steps. A process that is killed between two of them leaves a
database that no later MLflow opens, and all runs beside it would lose their tracking. Nothing is
ever deleted here: a broken database stays under another name.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from mergefront.files import whole_file

logger = logging.getLogger(__name__)

_COMPANIONS: Final = ("-journal", "-wal", "-shm")
"""SQLite's files beside a database: what was not written back yet."""
_LARGEST_CHECKED: Final = 1 << 26
"""Bytes up to which every page is checked; SQLite reads hundreds of MB a second."""


def prepare_database(path: Path, create: Callable[[Path], None]) -> None:
    """Make sure that there is a database that MLflow can open, or one that only it can judge.

    Args:
        path: the database's file, absolute.
        create: makes MLflow's tables in a new file.

    Raises:
        OSError: the folder cannot be written.
        sqlite3.OperationalError: the database cannot be opened, or another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if _has_runs(path):  # MLflow itself says what to do with those of an older release
        return
    with _sole_creator(path):
        damage = _damage(path)
        if not damage and _has_runs(path):
            return
        empty = not path.exists() or path.stat().st_size == 0
        with _new_database(path, create) as fresh:
            if not (empty or damage) and _version(path) != _version(fresh):
                damage = "its tables were never finished"
            if damage:
                _move_away(path, damage)
            if damage or empty:
                with whole_file(path) as partial:
                    fresh.replace(partial)


def _has_runs(path: Path) -> bool:
    """Return whether a database is whole enough to hold a run; others are looked at closely."""
    if not path.exists():
        return False
    try:
        with closing(_connect(path)) as database:
            return database.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is not None and (
                path.stat().st_size > _LARGEST_CHECKED or not _damage(path)
            )
    except sqlite3.DatabaseError:
        return False


def _damage(path: Path) -> str:
    """Return what is broken in a database's file; empty if nothing is, or it does not exist."""
    if not path.exists():
        return ""
    try:
        with closing(_connect(path)) as database:
            if path.stat().st_size > _LARGEST_CHECKED:
                database.execute("PRAGMA schema_version")
                return ""
            (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
            return "" if verdict == "ok" else str(verdict)
    except sqlite3.OperationalError:  # locked, a folder, not to be read: no damage
        raise
    except sqlite3.DatabaseError as error:
        return str(error)


def _version(path: Path) -> str | None:
    """Return the version of MLflow's tables; None if they have none."""
    try:
        with closing(_connect(path)) as database:
            row = database.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.DatabaseError:
        return None
    return None if row is None else str(row[0])


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=10)


@contextmanager
def _sole_creator(path: Path) -> Iterator[None]:
    """Let one process at a time make or replace a database; the kernel frees it if that dies."""
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for leftover in path.parent.glob(f".{path.name}.new-*"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _new_database(path: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    """Yield a new database beside `path`, closed and whole; it is removed at the end."""
    draft = path.with_name(f".{path.name}.new-{os.getpid()}")
    copy = draft.with_name(f"{draft.name}-copy")
    try:
        create(draft)
        # MLflow keeps its connection to the draft; the copy is nobody's.
        with closing(_connect(draft)) as source, closing(_connect(copy)) as target:
            source.backup(target)
        yield copy
    finally:
        for file in (draft, copy):
            for suffix in ("", *_COMPANIONS):
                file.with_name(file.name + suffix).unlink(missing_ok=True)


def _move_away(path: Path, damage: str) -> None:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    aside = path.with_name(f"{path.name}.broken-{stamp}-{os.getpid()}")
    for suffix in _COMPANIONS:
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(aside.with_name(aside.name + suffix))
    path.rename(aside)
    logger.warning(
        "MLflow's database %s is broken (%s). It was moved to %s, and a new one is made in its "
        "place; mergefront rebuild RUN adds a finished run to it.",
        path,
        damage,
        aside,
    )
