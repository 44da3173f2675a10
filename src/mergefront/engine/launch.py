"""Starting vLLM and shutting it down: arguments, environment variables, several engines at once.

vLLM takes part of its configuration from environment variables. Those that hold for the whole
process are set here, before vLLM's first import, and only where the user has not set them. Those
that belong to one engine are put back once it has started.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from multiprocessing import resource_tracker
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import torch

from mergefront.config import EngineConfig
from mergefront.engine.prompts import context_length
from mergefront.engine.watchdog import (
    DRIVER_VARIABLE,
    StartGuard,
    Watchdog,
    kill_processes,
    process_identity,
)
from mergefront.errors import EngineError

GIB = 1 << 30
MAX_IMAGES = 16
"""Images in one question."""
_SOCKETS = "mergefront-sockets-"
SHUTDOWN_SECONDS = 30.0
"""Time for an engine's processes to end by themselves before they are killed."""
CPU_BLOCK = 32
"""Tokens of a KV block on a CPU; vLLM's 128 there would never share a short prefix."""

_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set unless the user has set them: quiet, nothing on stdout, no telemetry, no core pinning."""


def start(settings: EngineConfig, folder: Path) -> tuple[Any, Watchdog | None]:
    """Start vLLM on a folder.

    Returns:
        The LLM, and what watches its processes; None where its core is in this process.

    Raises:
        EngineError: it did not start, or not within `engine.start_seconds`.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # vLLM configures its logger only when it starts, and warns while it is imported.
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as error:
        raise EngineError(
            f"vLLM does not import: {error}", hint="run `mergefront doctor`"
        ) from error
    cpu = current_platform.is_cpu()
    own_process = settings.multiprocess
    if own_process is None:
        own_process = not cpu or settings.tensor_parallel_size > 1
    children = own_process or settings.tensor_parallel_size > 1
    guard = StartGuard(settings.start_seconds)
    with _start_environment(settings, own_process), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            with _deaf_children() if children else nullcontext(), guard:
                llm = LLM(**_arguments(settings, folder, cpu))
        except BaseException as error:
            kill_processes(guard.new_processes())
            _IN_PROCESS.clean_up()
            if not isinstance(error, Exception):
                raise
            late = f"not within {settings.start_seconds:.0f} s (engine.start_seconds)"
            reason = late if guard.expired else error
            raise EngineError(f"vLLM did not start on {folder}: {reason}") from error
    if not own_process:
        _IN_PROCESS.opened()
        return llm, None
    processes = guard.new_processes()
    return llm, Watchdog(llm.llm_engine.engine_core, processes, settings.stall_seconds)


def _arguments(settings: EngineConfig, folder: Path, cpu: bool) -> dict[str, Any]:
    """Return the arguments of vLLM's `LLM` that follow from the settings."""
    arguments: dict[str, Any] = {
        "model": str(folder),
        "dtype": settings.dtype,
        "trust_remote_code": settings.trust_remote_code,
        "seed": 0,
        "worker_extension_cls": "mergefront.engine.worker.MergeWorker",
        "max_model_len": settings.max_model_len or context_length(folder),
        "max_num_seqs": settings.max_num_seqs,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enforce_eager": cpu if settings.enforce_eager is None else settings.enforce_eager,
        "limit_mm_per_prompt": {"image": MAX_IMAGES, "video": 0},
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
    }
    memory = settings.memory_gb or (1.0 if cpu else None)
    if memory is not None:
        arguments["kv_cache_memory_bytes"] = int(memory * GIB)
    if settings.gpu_memory_utilization is not None:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
    if cpu:
        arguments["block_size"] = CPU_BLOCK
    if settings.encoder_cache_gb > 0:
        arguments["ec_manager_config"] = {
            "encoder_cache_manager_cls": (
                "mergefront.engine.encoder_cache.PinningEncoderCacheManager"
            ),
            "manager_config": {"bytes": int(settings.encoder_cache_gb * GIB)},
        }
    return arguments


@cache
def _socket_folder() -> str:
    """The folder of this process's sockets; it goes when the process ends.

    Those of drivers that were killed are removed here, since vLLM leaves them in the temporary
    folder for ever.
    """
    root = Path(tempfile.gettempdir())
    for folder in root.glob(f"{_SOCKETS}*"):
        pid = folder.name.removeprefix(_SOCKETS).partition("-")[0]
        if not (pid.isdigit() and psutil.pid_exists(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_SOCKETS}{os.getpid()}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(folder)


@contextmanager
def _start_environment(settings: EngineConfig, own_process: bool) -> Iterator[None]:
    """Set environment variables and threads while vLLM starts, and leave torch as it was.

    vLLM's CPU worker replaces `torch.set_num_threads` by a function that warns, in our process
    too. It is put back, because vLLM itself calls it for every image.
    """
    changed = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if own_process else "0",
        "HF_HUB_OFFLINE": "1",
        DRIVER_VARIABLE: process_identity(os.getpid()),
        "VLLM_RPC_BASE_PATH": _socket_folder(),
    }
    if settings.threads is not None:
        changed["OMP_NUM_THREADS"] = str(settings.threads)
        if not own_process:
            torch.set_num_threads(settings.threads)
    before = {name: os.environ.get(name) for name in changed}
    set_threads = torch.set_num_threads
    os.environ.update(changed)
    try:
        yield
    finally:
        torch.set_num_threads = set_threads
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Keep SIGINT from processes that are started meanwhile, and from those that they start.

    Ctrl-C reaches every process of the terminal. vLLM's core would abort its answers and end, while
    this process may want to finish its candidate and end the core itself, by SIGTERM. A blocked
    signal is inherited, and in this process it is only held back until the start is over. Python's
    resource tracker is started first, because its start unblocks the signal.
    """
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _InProcess:
    """The engines whose core is in this process.

    Shutting one down destroys vLLM's process-wide distributed state, which the others still use;
    so they are shut down together, when the last is closed.
    """

    def __init__(self) -> None:
        self._open = 0
        self._closing: list[Any] = []

    def opened(self) -> None:
        self._open += 1

    def close(self, llm: Any) -> None:
        self._closing.append(llm)
        self._open -= 1
        if self._open == 0:
            for closing in self._closing:
                closing.llm_engine.engine_core.shutdown()
            self._closing.clear()
        self.clean_up()

    def clean_up(self) -> None:
        """Drop the process-wide state, unless an engine still uses it."""
        if self._open:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()


_IN_PROCESS = _InProcess()


def shut_down(llm: Any, watchdog: Watchdog | None) -> None:
    """End an engine that `start` has started, and everything that it has started."""
    if watchdog is None:
        _IN_PROCESS.close(llm)
        return
    watchdog.close()
    # vLLM's shutdown may wait for ever for an output thread that has ended: not in this thread.
    ending = Thread(target=llm.llm_engine.engine_core.shutdown, daemon=True)
    ending.start()
    ending.join(SHUTDOWN_SECONDS)
    watchdog.kill()
