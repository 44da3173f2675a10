"""Engines whose processes are killed, stopped or orphaned, for real: vLLM's core on the CPU.

Each fault costs a start of an engine with its own process (30 to 60 s).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from engine_contract import SETTINGS, Kind, make_items, make_models, open_case
from mergefront.engine import open_engine
from mergefront.engine.watchdog import identified_process, process_identity
from mergefront.errors import EngineError
from mergefront.models.locate import locate_models

pytest.importorskip("vllm", reason="vLLM is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.engine]

OWN_PROCESS = SETTINGS.model_copy(update={"multiprocess": True, "stall_seconds": 6.0})
PATIENCE_SECONDS = 90.0
"""A call on a dead engine that takes longer counts as hanging."""


def in_time(call: Callable[[], object]) -> BaseException | object:
    """What a call returns or raises; fails the test if it does not end in time."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert results, f"the call still waits after {PATIENCE_SECONDS:.0f} s"
    return results[0]


def engine_processes() -> list[psutil.Process]:
    """The processes of engines that this process has started."""
    names = ("VLLM", "EngineCore", "multiprocessing.spawn")
    children = psutil.Process().children(recursive=True)
    return [c for c in children if any(name in " ".join(c.cmdline()) for name in names)]


def send_later(signal_number: int, processes: list[psutil.Process], seconds: float) -> None:
    def send() -> None:
        for process in processes:
            os.kill(process.pid, signal_number)

    threading.Timer(seconds, send).start()


@pytest.mark.parametrize(
    ("signal_number", "reason"),
    [(signal.SIGKILL, "has ended"), (signal.SIGSTOP, "no progress for 6 s")],
)
def test_a_dead_or_stopped_engine_is_an_error_and_a_fresh_one_goes_on(
    tmp_path: Path, signal_number: int, reason: str
) -> None:
    """The core is hit while it answers; a later call raises too, and nothing is left behind."""
    case = open_case(tmp_path, Kind(), OWN_PROCESS)
    recipe, items = case.recipe(0.5, 0.5), make_items(4)
    answers = case.ask(recipe, items)
    processes = engine_processes()
    identities = [process_identity(process.pid) for process in processes]
    assert processes
    many = make_items(600, length=40)
    send_later(signal_number, processes, 0.3)
    error = in_time(lambda: case.engine.generate(many))
    assert isinstance(error, EngineError)
    assert reason in error.message
    assert isinstance(in_time(lambda: case.ask(recipe, items)), EngineError)
    in_time(case.engine.close)
    assert not any(identified_process(identity) for identity in identities)
    if signal_number == signal.SIGKILL:
        fresh = open_engine(SETTINGS, case.sources.folders)
        again = replace(case, settings=SETTINGS, engine=fresh)
        try:
            assert again.ask(recipe, items) == answers
        finally:
            fresh.close()


def test_an_engine_that_starts_too_slowly_is_ended(tmp_path: Path) -> None:
    models = locate_models(make_models(tmp_path, Kind()))
    settings = OWN_PROCESS.model_copy(update={"start_seconds": 4.0})
    error = in_time(lambda: open_engine(settings, models))
    assert isinstance(error, EngineError)
    assert "not within 4 s (engine.start_seconds)" in error.message
    assert not engine_processes()


def test_an_engine_does_not_outlive_its_driver(tmp_path: Path) -> None:
    """SIGKILL of the driver: its engine's processes end by themselves."""
    code = (
        "import time; from pathlib import Path; import engine_contract as c\n"
        f"case = c.open_case(Path({str(tmp_path)!r}), c.Kind(), "
        "c.SETTINGS.model_copy(update={'multiprocess': True}))\n"
        "print('ready', flush=True); time.sleep(600)\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline().strip() == "ready"
    children = psutil.Process(driver.pid).children(recursive=True)
    assert children
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_an_identity_names_one_process_and_no_later_one_of_the_same_number() -> None:
    identity = process_identity(os.getpid())
    process = identified_process(identity)
    assert process is not None
    assert process.pid == os.getpid()
    assert identified_process(f"{os.getpid()}:{time.time() - 1e6:.2f}") is None
    assert identified_process("no identity") is None
