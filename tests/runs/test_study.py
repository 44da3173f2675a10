"""The journal of a run: torn lines, missing files, locks of dead processes."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import signal
from pathlib import Path

import optuna
import pytest

from mergefront.errors import RunError
from mergefront.runs.study import finished, open_study


def fill(path: Path, trials: int) -> None:
    study = open_study(path, name="s", n_objectives=2, create=True)
    for _ in range(trials):
        trial = study.ask()
        study.tell(trial, [trial.suggest_float("x", 0, 1), 0.5])


def test_a_study_is_made_once_and_then_continued(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    fill(path, 2)
    fill(path, 3)
    study = open_study(path, name="s", n_objectives=2, create=False)
    assert [t.number for t in finished(study)] == [0, 1, 2, 3, 4]


def test_a_line_torn_anywhere_is_cut_off_and_the_study_goes_on(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    fill(whole, 2)
    data = whole.read_bytes()
    start = data[:-1].rfind(b"\n") + 1
    for end in range(start, len(data)):
        path = tmp_path / f"torn{end}"
        path.write_bytes(data[:end])
        study = open_study(path, name="s", n_objectives=2, create=False)
        assert path.read_bytes() == data[:start]
        assert len(finished(study)) == 1  # the torn line was the tell of trial 1
        trial = study.ask()
        study.tell(trial, [trial.suggest_float("x", 0, 1), 0.5])
        again = open_study(path, name="s", n_objectives=2, create=False)
        assert [t.number for t in finished(again)] == [0, 2]


def test_what_is_missing_or_different_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    with pytest.raises(RunError, match=r"there is no study at .*study\.journal"):
        open_study(path, name="s", n_objectives=2, create=False)
    assert not path.exists()
    fill(path, 1)
    with pytest.raises(RunError, match="holds no study called 'other'"):
        open_study(path, name="other", n_objectives=2, create=False)
    with pytest.raises(RunError, match="has 2 objectives, not 3"):
        open_study(path, name="s", n_objectives=3, create=False)


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    fill(path, 2)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b'{"broken\n', *lines[2:]]))
    with pytest.raises(RunError, match=r"study.journal is damaged"):
        open_study(path, name="s", n_objectives=2, create=False)


def append_for_ever(path: str) -> None:
    fill(Path(path), 1_000_000)


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_a_study_that_opens(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    context = multiprocessing.get_context("spawn")
    seen = 0
    for _ in range(3):
        writer = context.Process(target=append_for_ever, args=(str(path),))
        writer.start()
        while not path.exists() or path.stat().st_size < (seen + 1) * 3000:
            assert writer.is_alive()
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        study = open_study(path, name="s", n_objectives=2, create=False)
        before = len(finished(study))
        study.tell(study.ask(), [0.1, 0.2])  # the lock of the dead is free at once
        assert len(finished(study)) == before + 1
        seen = path.stat().st_size // 3000 + 1


def test_trials_finish_in_the_order_of_the_journal_and_not_of_the_clock(tmp_path: Path) -> None:
    """Also those that are added finished, and for a reader that follows a writer."""
    path = tmp_path / "study.journal"
    writer = open_study(path, name="s", n_objectives=2, create=True)
    reader = open_study(path, name="s", n_objectives=2, create=False)
    trials = [writer.ask() for _ in range(3)]
    writer.tell(trials[2], [0.1, 0.2])
    assert [t.number for t in finished(reader)] == [2]
    past = datetime.datetime(2001, 1, 1)
    early = optuna.trial.create_trial(values=[0.5, 0.5])
    early.datetime_start = early.datetime_complete = past
    writer.add_trial(early)
    writer.tell(trials[1], state=optuna.trial.TrialState.FAIL)
    writer.tell(trials[0], [0.3, 0.4])
    for study in (writer, reader, open_study(path, name="s", n_objectives=2, create=False)):
        assert [t.number for t in finished(study)] == [2, 3, 1, 0]
