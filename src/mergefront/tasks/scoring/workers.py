"""Worker processes that judge pairs of expressions, each killed if a pair takes too long.

Plain child processes speaking JSON lines, started when first needed and ended with this process:
they need no `__main__` guard, no signal handler in this process, and no main thread, and they can
always be killed. A pair that its worker does not survive has no verdict (None), and only that one:
another worker takes the next pair.

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
class Pair:
    """Two expressions in LaTeX, and the rule's `digits` and tolerances."""

    gold: str
    said: str
    digits: int | None = None
    absolute: float = 0.0
    relative: float = 0.0


class Worker:
    """One process: `send` a pair, then `receive` when its pipe can be read."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[3])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        # -P: nothing in the current folder is imported by accident. Its own session: Ctrl-C is
        # for the run, which then ends its workers itself.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mergefront.tasks.scoring.worker", str(CPU_SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self.place: int | None = None  # of the pair it judges
        self.since = time.monotonic()
        self.ready = False

    @property
    def late(self) -> bool:
        limit = WALL_SECONDS if self.ready else START_SECONDS
        return time.monotonic() - self.since > limit

    def send(self, place: int, pair: Pair) -> None:
        self.place, self.since = place, time.monotonic()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died; reading from it will say so
            self.process.stdin.write(json.dumps(asdict(pair)).encode() + b"\n")
            self.process.stdin.flush()

    def receive(self) -> dict[str, Any] | None:
        """Its next line, or None if it has died."""
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


_workers: list[Worker] = []
_lock = threading.Lock()
_owner = os.getpid()


def verdicts(pairs: Sequence[Pair]) -> list[bool | None]:
    """Judge pairs in parallel: equal, not equal, or None if one is no expression or took too long.

    Raises:
        MergefrontError: no worker starts, with its reason.
    """
    with _lock:
        _disown()
        return _judge(pairs)


def pids() -> list[int]:
    """The process ids of the workers that run."""
    return [worker.process.pid for worker in _workers]


def close() -> None:
    """End the workers; the next pairs start new ones."""
    with _lock:
        _disown()
        while _workers:
            _workers.pop().close()


def _judge(pairs: Sequence[Pair]) -> list[bool | None]:
    found: list[bool | None] = [None] * len(pairs)
    waiting = deque(range(len(pairs)))
    open_places = len(pairs)
    while open_places:
        _hire(len(waiting))
        for worker in _workers:
            if worker.ready and worker.place is None and waiting:
                turn = waiting.popleft()
                worker.send(turn, pairs[turn])
        for worker in _due():
            place = worker.place
            reply = None if worker.late else worker.receive()
            if reply is None or "ready" in reply:
                _started(worker, reply)
            if place is not None:
                found[place] = reply["equal"] if reply else None
                worker.place = None
                open_places -= 1
    return found


def _hire(waiting: int) -> None:
    """Start workers for the pairs that wait: one, and one more for each two hundred."""
    cores = len(os.sched_getaffinity(0))
    busy = sum(worker.place is not None for worker in _workers)
    wanted = min(MOST_WORKERS, cores, busy + -(-waiting // PAIRS_PER_WORKER))
    while len(_workers) < wanted:
        _workers.append(Worker())


def _due() -> list[Worker]:
    """Wait for the workers; return those that have said something, died, or are late."""
    with selectors.DefaultSelector() as selector:
        expected = [worker for worker in _workers if worker.place is not None or not worker.ready]
        for worker in expected:
            assert worker.process.stdout is not None
            selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
        heard = [key.data for key, _ in selector.select(1.0)]
    return heard + [worker for worker in expected if worker.late and worker not in heard]


def _started(worker: Worker, reply: dict[str, Any] | None) -> None:
    """Note that a worker is ready, or bury one that has died or is late."""
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


def _disown() -> None:
    """In a forked child, forget the parent's workers: their pipes are the parent's."""
    global _owner
    if _owner != os.getpid():
        _owner = os.getpid()
        _workers.clear()


atexit.register(close)
