"""Worker processes that compare pairs of formulas, each killed if a pair takes too long.

The workers are plain child processes that speak JSON lines. They start when they are first needed
and end with this process. So they need no `__main__` guard, no signal handler in this process and
no main thread, and they can always be killed. If a worker does not survive a pair, that pair alone
has no verdict (None): another worker takes the next one.

Two clocks end a pair: `CPU_SECONDS` of the worker's own processor time, kept by the kernel, so that
a busy machine changes no verdict; and `WALL_SECONDS`, if a worker should hang without computing.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mergefront.errors import MergefrontError

CPU_SECONDS = 2.0
WALL_SECONDS = 30.0
START_SECONDS = 120.0
MOST_WORKERS = 4
PAIRS_PER_WORKER = 200
"""So many pairs repay the second that one more worker takes to start."""


@dataclass(frozen=True)
class FormulaPair:
    """A gold and an answer in LaTeX, and the rule's `digits` and tolerances."""

    gold: str
    answer: str
    digits: int | None = None
    absolute: float = 0.0
    relative: float = 0.0


class FormulaWorker:
    """One process: `send` a pair, then `receive` when its pipe can be read."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[3])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        # -P: nothing in the current folder is imported by accident. The worker has its own session:
        # Ctrl-C goes to the run, which then ends its workers itself.
        module = "mergefront.tasks.scoring.formula_worker"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(CPU_SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self.place: int | None = None  # of the pair that it compares now
        self.started_at = time.monotonic()
        self.ready = False

    @property
    def is_late(self) -> bool:
        limit = WALL_SECONDS if self.ready else START_SECONDS
        return time.monotonic() - self.started_at > limit

    def send(self, place: int, pair: FormulaPair) -> None:
        self.place, self.started_at = place, time.monotonic()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died, which `receive` will notice
            self.process.stdin.write(json.dumps(asdict(pair)).encode() + b"\n")
            self.process.stdin.flush()

    def receive(self) -> dict[str, Any] | None:
        """Read its next line; return None if it has died."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return dict(json.loads(line)) if line.endswith(b"\n") else None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


_workers: list[FormulaWorker] = []
_lock = threading.Lock()
_owner = os.getpid()


def verdicts(pairs: Sequence[FormulaPair]) -> list[bool | None]:
    """Compare pairs in parallel: equal or not; None if one is no expression or took too long.

    Raises:
        MergefrontError: no worker starts; says why.
    """
    with _lock:
        _forget_workers_of_parent()
        return _compare(pairs)


def pids() -> list[int]:
    """Return the process ids of the running workers."""
    return [worker.process.pid for worker in _workers]


def close() -> None:
    """End the workers; the next pairs start new ones."""
    with _lock:
        _forget_workers_of_parent()
        while _workers:
            _workers.pop().close()


def _compare(pairs: Sequence[FormulaPair]) -> list[bool | None]:
    results: list[bool | None] = [None] * len(pairs)
    queue = deque(range(len(pairs)))
    open_pairs = len(pairs)
    while open_pairs:
        _start_workers(len(queue))
        for worker in _workers:
            if worker.ready and worker.place is None and queue:
                place = queue.popleft()
                worker.send(place, pairs[place])
        for worker in _workers_to_read():
            finished_place = worker.place
            reply = None if worker.is_late else worker.receive()
            if reply is None or "ready" in reply:
                _note_start_or_end(worker, reply)
            if finished_place is not None:
                results[finished_place] = reply["equal"] if reply else None
                worker.place = None
                open_pairs -= 1
    return results


def _start_workers(waiting_pairs: int) -> None:
    """Start workers for the pairs that wait: one, and one more for each two hundred."""
    cores = len(os.sched_getaffinity(0))
    busy = sum(worker.place is not None for worker in _workers)
    count = min(MOST_WORKERS, cores, busy + -(-waiting_pairs // PAIRS_PER_WORKER))
    while len(_workers) < count:
        _workers.append(FormulaWorker())


def _workers_to_read() -> list[FormulaWorker]:
    """Wait up to a second; return the workers that have written, died, or are late."""
    with selectors.DefaultSelector() as selector:
        active = [worker for worker in _workers if worker.place is not None or not worker.ready]
        for worker in active:
            assert worker.process.stdout is not None
            selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
        readable = [key.data for key, _ in selector.select(1.0)]
    return readable + [worker for worker in active if worker.is_late and worker not in readable]


def _note_start_or_end(worker: FormulaWorker, reply: dict[str, Any] | None) -> None:
    """Note that a worker is ready, or end one that has died or is late."""
    if reply is not None and reply["ready"]:
        worker.ready = True
        return
    _workers.remove(worker)
    worker.close()
    if not worker.ready:
        raise MergefrontError(
            "the process that compares mathematical expressions does not start: "
            f"{reply['error'] if reply else 'it ended at once, or took too long'}",
            hint='it needs math-verify: pip install "math-verify[antlr4_13_2]"',
        )


def _forget_workers_of_parent() -> None:
    """Forget the workers in a forked child: their pipes belong to the parent."""
    global _owner
    if _owner != os.getpid():
        _owner = os.getpid()
        _workers.clear()


atexit.register(close)
