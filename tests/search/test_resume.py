"""Law 8: killed at any moment, a run goes on to the trajectory of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml

from fixtures_cli import ZOO_RUN
from mergefront.runs.directory import RunDirectory
from mergefront.runs.front import read_front
from mergefront.runs.history import evaluations, open_study
from mergefront.runs.study import finished

pytestmark = pytest.mark.slow

CONFIG = {
    **ZOO_RUN,
    "items": {"search": 24, "validation": 24, "test": 24},
    "budget": {"candidates": 14},
    "report": {"finalists": 5},
    "engine": {"kind": "transformers", "dtype": "float32", "threads": 1},
    "tracking": {"enabled": False},
}


def start(runs: Path) -> subprocess.Popen[str]:
    config = runs.parent / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    command = [sys.executable, "-m", "mergefront.cli", "search", str(config), "--runs", str(runs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finish(runs: Path) -> RunDirectory:
    process = start(runs)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return RunDirectory.open(runs / "x")


def trajectory(run: RunDirectory) -> list[tuple[object, ...]]:
    return [
        (e.number, e.point, e.origin, {k: (v.mean, v.se) for k, v in e.objectives.items()})
        for e in evaluations(open_study(run), run)
    ]


def kill_when(
    process: subprocess.Popen[str], journal: Path, lines: int, how: signal.Signals = signal.SIGKILL
) -> str:
    """Signal the run once its journal has `lines` lines; returns what it wrote to stderr."""
    limit = time.monotonic() + 200
    while time.monotonic() < limit:
        if journal.is_file() and journal.read_bytes().count(b"\n") >= lines:
            break
        assert process.poll() is None, f"it ended too early: {process.communicate()[1]}"
        time.sleep(0.002)
    os.kill(process.pid, how)
    return process.communicate(timeout=200)[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return finish(tmp_path_factory.mktemp("a") / "runs")


def test_killed_and_interrupted_a_run_ends_as_if_undisturbed(
    tmp_path: Path, undisturbed: RunDirectory
) -> None:
    (tmp_path / "b").mkdir()
    total = undisturbed.journal.read_bytes().count(b"\n")
    journal = tmp_path / "b" / "runs" / "x" / "study.journal"
    *moments, last = sorted(random.Random(5).sample(range(total // 4, total - 8), 4))
    for lines in moments:
        kill_when(start(tmp_path / "b" / "runs"), journal, lines)
    # The worst instant is in the middle of a write: leave a torn last line as well.
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "worker_id": "x')
    interrupted = start(tmp_path / "b" / "runs")
    errors = kill_when(interrupted, journal, last, signal.SIGINT)  # Ctrl-C ends cleanly
    assert interrupted.returncode == 0, errors
    assert "the same command goes on from here" in errors
    killed = finish(tmp_path / "b" / "runs")
    assert trajectory(killed) == trajectory(undisturbed)
    assert killed.front.is_file()
    assert not list(killed.path.glob("**/.*.partial*"))


def test_a_clock_that_is_set_back_changes_no_proposal_and_no_front(
    tmp_path: Path, undisturbed: RunDirectory
) -> None:
    """The first half of the run is recorded an hour ahead of what follows."""
    runs = tmp_path / "runs"
    journal = runs / "x" / "study.journal"
    kill_when(start(runs), journal, undisturbed.journal.read_bytes().count(b"\n") // 2)
    records = [json.loads(line) for line in journal.read_bytes().splitlines(keepends=True)
               if line.endswith(b"\n")]  # fmt: skip
    for record in records:
        for key in ("datetime_start", "datetime_complete"):
            if record.get(key):
                moment = datetime.fromisoformat(record[key]) + timedelta(hours=1)
                record[key] = moment.isoformat(timespec="microseconds")
    journal.write_text("".join(json.dumps(record) + "\n" for record in records))
    resumed = finish(runs)
    assert trajectory(resumed) == trajectory(undisturbed)
    assert read_front(resumed).members == read_front(undisturbed).members
    moments = [t.datetime_complete for t in finished(open_study(resumed)) if t.datetime_complete]
    assert moments != sorted(moments)
