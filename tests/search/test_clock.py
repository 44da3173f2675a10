"""What a run has used of its hours, whatever happens to the process and to the wall clock."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from fixtures_cli import ZOO_RUN
from mergefront.config import RunConfig
from mergefront.runs.directory import RunDirectory
from mergefront.runs.history import open_study, record_elapsed, spent_seconds
from mergefront.search.clock import Clock
from mergefront.yaml_file import validate


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create_or_resume(tmp_path, validate(ZOO_RUN, RunConfig, "run.yaml"))


def test_the_time_between_the_last_record_and_a_kill_is_counted(run: RunDirectory) -> None:
    code = (
        "import time; from pathlib import Path; from mergefront.search import clock\n"
        "clock.BEAT_SECONDS = 0.05; began = time.monotonic()\n"
        f"clock.Clock(1.0, before=40.0, started=began - 2.0).keep(Path({str(run.elapsed)!r}))\n"
        "time.sleep(0.5); print(time.monotonic() - began, flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lasted = float(process.stdout.readline())
    process.kill()
    process.wait()
    study = open_study(run, create=True)
    record_elapsed(study, 41.0)
    assert 42.0 + lasted - 0.2 <= spent_seconds(study, run) < 42.0 + lasted + 60.0
    record_elapsed(study, 5000.0)
    assert spent_seconds(study, run) == 5000.0
    for text in ("", "12", "no number"):  # what a crashed machine may leave
        run.elapsed.write_text(text)
        assert spent_seconds(study, run) == 5000.0


def test_a_session_begins_with_what_earlier_ones_used_and_ends_with_its_own(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(hours=0.5, before=100.0)
    close = clock.keep(run.elapsed)
    monkeypatch.setattr(time, "time", lambda: 0.0)  # the wall clock is of no account
    close()
    assert run.elapsed_seconds() == pytest.approx(clock.elapsed(), abs=1.0)
    assert clock.left() == pytest.approx(1800.0 - clock.elapsed(), abs=0.1)
    assert Clock(None).left() == float("inf")
    longer = run.elapsed.read_text()
    close = Clock(None, before=7.0).keep(run.elapsed)
    close()
    assert len(run.elapsed.read_text()) == len(longer)
    assert 7.0 <= run.elapsed_seconds() < 100.0
