"""Opening the Optuna study of a run: a journal file that survives kill -9.

One coordinator process writes; others may read (status, front) while it does. Appends and the
repair of a torn last line exclude each other through `flock`, which the kernel releases when a
process dies. (Optuna's own lock file outlives a killed process and blocks the next for 30 s.)
"""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal._file import BaseJournalFileLock, get_lock_file
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from mergefront.errors import RunError
from mergefront.records import Split
from mergefront.sampling.tell_order import OrderedJournal, finished_trials

_OPENINGS: Final = "openings"


class _FileLock(BaseJournalFileLock):
    """An exclusive `flock` on a file beside the journal."""

    def __init__(self, journal: Path) -> None:
        self._path = journal.with_name(journal.name + ".lock")
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_study(path: Path, *, name: str, n_objectives: int, create: bool) -> optuna.Study:
    """Open the study `name` (all objectives maximised) in the journal file `path`.

    A last line that a kill left unfinished is cut off first. With `create` a study that is
    missing is made, and one that is there is continued. The study comes with Optuna's default
    sampler; the caller sets its own.

    Raises:
        RunError: the journal or the study in it is missing (without `create`), a line of it is
            damaged, or the study has another number of objectives.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not path.is_file() and not create:
        raise RunError(
            f"there is no study at {path}", hint="start the search, or check the run's folder"
        )
    lock = _FileLock(path)
    _cut_torn_line(path, lock)
    try:
        storage = JournalStorage(OrderedJournal(str(path), lock))
    except ValueError as error:  # also json.JSONDecodeError
        raise RunError(
            f"the study {path} is damaged: {error}", hint="restore the file from a copy"
        ) from error
    if name in optuna.get_all_study_names(storage):
        study = optuna.load_study(storage=storage, study_name=name)
    elif create:
        directions = [StudyDirection.MAXIMIZE] * n_objectives
        study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    else:
        raise RunError(f"{path} holds no study called {name!r}")
    if len(study.directions) != n_objectives:
        raise RunError(
            f"the study {name!r} in {path} has {len(study.directions)} objectives, not "
            f"{n_objectives}",
            hint="a run keeps its objectives: choose another run name",
        )
    return study


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the finished trials (complete or failed) in the order in which they finished."""
    return finished_trials(study)


def _cut_torn_line(path: Path, lock: _FileLock) -> None:
    """Truncate the journal after its last newline; Optuna would glue its next record on."""
    if not path.is_file() or _ends_whole(path):
        return
    # Once the lock is ours, a writer in mid-append has finished.
    with get_lock_file(lock), path.open("r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            file.truncate(whole)
            os.fsync(file.fileno())


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


@dataclass(frozen=True)
class Opening:
    """One reading of a split: by which model, after how many candidates, and when."""

    split: Split
    model: str
    candidates: int
    time: str


def openings(study: optuna.Study) -> tuple[Opening, ...]:
    """Return every recorded reading of validation and test items."""
    return tuple(Opening(**opening) for opening in study.user_attrs.get(_OPENINGS, []))


def record_opening(study: optuna.Study, split: Split, model: str, candidates: int) -> None:
    """Record the reading of a split: by which model, after how many candidates."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    opening = Opening(split, model, candidates, stamp)
    study.set_user_attr(_OPENINGS, [vars(entry) for entry in (*openings(study), opening)])
