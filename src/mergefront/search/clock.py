"""The wall seconds that a run has used, over all its sessions; a kill loses at most a few of them.

Within a session the clock is monotonic: setting the wall clock changes nothing. A thread writes the
seconds to `RunDirectory.elapsed` now and then, so that a resume counts what passed between the last
record in the study and a kill. Not here: what must be kept of the time for the end (`stopping`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

BEAT_SECONDS: Final = 5.0
"""Pause between two writes of the seconds used so far."""


@dataclass
class Clock:
    """Wall seconds that a run has used, over all its sessions, against its budget of hours.

    `before` are the seconds of earlier sessions; `started` is when this one began.
    """

    hours: float | None
    before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Return the seconds that all sessions have used so far."""
        return self.before + time.monotonic() - self.started

    def left(self) -> float:
        """Return the seconds that are left; infinite without a budget in hours."""
        return float("inf") if self.hours is None else self.hours * 3600 - self.elapsed()

    def keep(self, path: Path) -> Callable[[], None]:
        """Begin to write the elapsed seconds to a file; returns what writes them last and ends it.

        The text always has the same length and is written at once, without waiting for the disk:
        a killed process leaves a whole number, and a crashed machine perhaps an older one.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        closed = threading.Event()

        def beat() -> None:
            while True:
                last = closed.wait(BEAT_SECONDS)
                os.pwrite(descriptor, f"{self.elapsed():015.3f}\n".encode(), 0)
                if last:
                    os.close(descriptor)
                    return

        thread = threading.Thread(target=beat, name="mergefront-clock", daemon=True)
        thread.start()

        def close() -> None:
            closed.set()
            thread.join()

        return close
