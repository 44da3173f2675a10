"""Processes of an engine: ended when they hang, noticed when they die, never left behind.

Three faults, all measured with vLLM 0.32 and an engine core in its own process:

- The core is killed. vLLM's client then waits for ever in its queue or in a future, because its
  output thread leaves without a word. `Watchdog` wakes the client with `EngineDeadError`.
- The core stops (SIGSTOP, a deadlock, a lost device). `Watchdog` counts the seconds without
  progress and kills the engine's processes after `stall_seconds`.
- The driver is killed. `die_with_driver` runs in the engine's processes and ends them.

Not here: what a search does about a dead engine (`search.engine_slot`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import psutil

logger = logging.getLogger(__name__)

DRIVER_VARIABLE: Final = "MERGEFRONT_DRIVER"
"""Environment variable of an engine's processes: who started them, as "pid:start time"."""

POLL_SECONDS: Final = 0.5
"""Pause between two checks of the processes."""


def process_identity(pid: int) -> str:
    """Return "pid:start time", which no later process with the same pid has."""
    return f"{pid}:{psutil.Process(pid).create_time():.2f}"


def identified_process(identity: str) -> psutil.Process | None:
    """Return the running process of an identity; None if it has ended, or is a zombie."""
    pid, _, started = identity.partition(":")
    with contextlib.suppress(psutil.Error, ValueError):
        process = psutil.Process(int(pid))
        same = abs(process.create_time() - float(started)) < 0.1
        if same and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def child_processes() -> list[psutil.Process]:
    """Return all descendants of this process."""
    return psutil.Process().children(recursive=True)


def kill_processes(processes: Sequence[psutil.Process]) -> None:
    """Kill processes and their descendants; ignore the ones that have ended already.

    SIGKILL, because a stopped process acts on no other signal.
    """
    family = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            family += process.children(recursive=True)
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
    # Not psutil.wait_procs: it would reap our children. multiprocessing, which started them, would
    # then report them as running for ever.
    end = time.monotonic() + 10.0
    while any(_is_running(process) for process in family) and time.monotonic() < end:
        time.sleep(0.05)


class StartGuard:
    """Kills the processes that an engine has started if its start takes over `limit_seconds`.

    Use it as a context manager around the start. `expired` says afterwards whether it killed them.
    """

    def __init__(self, limit_seconds: float) -> None:
        self.expired = False
        self._limit = limit_seconds
        self._before: set[int] = set()
        self._timer = threading.Timer(limit_seconds, self._expire)
        self._timer.daemon = True

    def new_processes(self) -> list[psutil.Process]:
        """Return the descendants of this process that were not there before the start."""
        return [process for process in child_processes() if process.pid not in self._before]

    def __enter__(self) -> StartGuard:
        self._before = {process.pid for process in child_processes()}
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()

    def _expire(self) -> None:
        self.expired = True
        logger.error("the engine has not started within %.0f s; ending it", self._limit)
        kill_processes(self.new_processes())


class Watchdog:
    """Watches the processes of one vLLM engine whose core is not in this process.

    `watching` surrounds every call to the engine, and `progress` is called whenever the engine has
    answered something. A dead process, or `stall_seconds` without progress inside a call, ends the
    engine: its processes are killed, and the waiting call raises vLLM's `EngineDeadError`.
    `reason` then says why.
    """

    def __init__(
        self, client: Any, processes: Sequence[psutil.Process], stall_seconds: float
    ) -> None:
        """Start to watch. `client` is vLLM's `SyncMPClient`."""
        self.reason = ""
        self._client = client
        self._processes = list(processes)
        self._stall_seconds = stall_seconds
        self._progress_at: float | None = None
        """Monotonic time of the last sign of life; None outside of calls."""
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="mergefront-watchdog", daemon=True).start()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count the time without progress as long as the context is open."""
        self.progress()
        try:
            yield
        finally:
            self._progress_at = None

    def progress(self) -> None:
        """Begin to count the time without progress anew."""
        self._progress_at = time.monotonic()

    def diagnosis(self) -> str:
        """Check now; return why the engine counts as dead, or an empty string.

        vLLM may notice a dead core before the watching thread checks again.
        """
        if not self.reason:
            self.reason = self._fault()
        return self.reason

    def close(self) -> None:
        """Stop watching; the engine is about to be shut down."""
        self._closed.set()

    def kill(self) -> None:
        """Kill the engine's processes that still run."""
        kill_processes([process for process in self._processes if _is_running(process)])

    def _watch(self) -> None:
        ended = False
        while not self._closed.wait(POLL_SECONDS):
            if not self.diagnosis():
                continue
            if not ended:
                logger.error("engine: %s; ending its processes", self.reason)
                kill_processes(self._processes)
                ended = True
            # Again at every check: a call may have begun to wait since the last one.
            self._wake_client()

    def _fault(self) -> str:
        """Return what is wrong with the engine, or an empty string."""
        for process in self._processes:
            if not _is_running(process):
                return f"its process {process.pid} has ended"
        progress_at = self._progress_at
        if progress_at is not None and time.monotonic() - progress_at > self._stall_seconds:
            return f"no progress for {self._stall_seconds:.0f} s (engine.stall_seconds)"
        return ""

    def _wake_client(self) -> None:
        """Make every wait of vLLM's client end with EngineDeadError.

        vLLM's own monitor sets `engine_dead` and stops the output thread, but it does not
        wake a call that already waits in `outputs_queue.get()` or in a utility's future.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        self._client.resources.engine_dead = True
        for future in list(self._client.utility_results.values()):
            with contextlib.suppress(Exception):  # it was answered just now
                future.set_exception(EngineDeadError())
        if self._progress_at is not None and self._client.outputs_queue.empty():
            self._client.outputs_queue.put_nowait(EngineDeadError())


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def die_with_driver() -> None:
    """End this process, and the engine core that started it, when the driver has ended.

    A daemon thread of an engine's process does it. Nothing happens if the environment names no
    driver, or names this very process (a core inside the driver).
    """
    driver = os.environ.get(DRIVER_VARIABLE, "")
    driver_pid = driver.partition(":")[0]
    if driver_pid in ("", str(os.getpid())):
        return
    parent = os.getppid()
    core = process_identity(parent) if str(parent) != driver_pid else ""

    def follow() -> None:
        while identified_process(driver) is not None:
            time.sleep(1.0)
        # A worker of a tensor-parallel group kills the core too: the core has no thread of ours.
        core_process = identified_process(core) if core else None
        if core_process is not None:
            with contextlib.suppress(psutil.Error):
                core_process.kill()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=follow, name="mergefront-follow-driver", daemon=True).start()
