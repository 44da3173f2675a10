"""What a command costs from start to end: CPU and wall seconds, and memory (Linux)."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from pathlib import Path


def run(command: list[str], cache: Path | None = None) -> dict[str, float]:
    """Run a command, with our cache in `cache` if given.

    Returns:
        {"cpu_s", "wall_s", "peak_gb": resident memory, "own_gb": what of it no file backs}.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    environment = os.environ | ({} if cache is None else {"MERGEFRONT_CACHE": str(cache)})
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    peak = {"rss": 0.0, "anonymous": 0.0}
    watcher = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    watcher.start()
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{command[0]} failed: {errors.decode()[-2000:]}")
    watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    wall = time.perf_counter() - start
    return {"cpu_s": cpu, "wall_s": wall, "peak_gb": peak["rss"], "own_gb": peak["anonymous"]}


def _watch(process: subprocess.Popen[bytes], peak: dict[str, float]) -> None:
    """Follow a process's memory: resident, and what of it is not mapped from files (Linux)."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:
            return
        for key, field in (("rss", "VmRSS"), ("anonymous", "RssAnon")):
            if field in lines:
                peak[key] = max(peak[key], int(lines[field].split()[0]) / 1e6)
        time.sleep(0.02)
