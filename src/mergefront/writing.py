"""Writing a model folder: streamed shard by shard, whole or not at all.

Not here: reading (`checkpoint`) and what the tensors are (`merging.build`). `checkpoint`
re-exports everything public of this module.

Reading order: `whole_folder`, `CheckpointWriter`, `copy_companions`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch

from mergefront.errors import UserError
from mergefront.safetensors_file import write_safetensors

WEIGHT_INDEX: Final = "model.safetensors.index.json"
SHARD_BYTES: Final = 4 * 10**9
_WEIGHTS: Final = re.compile(
    r"\.(safetensors|bin|pt|pth|ckpt|pkl|gguf|h5|msgpack|onnx|npz|npy|tflite)$"
)
_LEFT_BEHIND: Final = frozenset({"README.md", WEIGHT_INDEX, "pytorch_model.bin.index.json"})


class CheckpointWriter:
    """Write tensors one at a time into shards; holds at most one shard in memory.

    Use as a context manager: leaving it without an error writes the last shard and, if there is
    more than one, the index. Tensors larger than `shard_bytes` get a shard of their own.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self.total_bytes = 0
        self._pending: dict[str, torch.Tensor] = {}
        self._pending_bytes = 0
        self._shards: list[tuple[Path, tuple[str, ...]]] = []
        self._names: set[str] = set()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish()

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Add a tensor; it is kept by reference until its shard is written.

        Raises:
            ValueError: if a tensor of that name was added before.
        """
        if name in self._names:
            raise ValueError(f"tensor {name!r} was added twice")
        n_bytes = tensor.numel() * tensor.element_size()
        if self._pending and self._pending_bytes + n_bytes > self.shard_bytes:
            self._flush()
        self._names.add(name)
        self._pending[name] = tensor
        self._pending_bytes += n_bytes
        self.total_bytes += n_bytes

    def finish(self) -> None:
        """Write what is left, name the shards and write the index if there are several."""
        if self._pending or not self._shards:
            self._flush()
        if len(self._shards) == 1:
            self._shards[0][0].rename(self.folder / "model.safetensors")
            return
        weight_map: dict[str, str] = {}
        for number, (file, names) in enumerate(self._shards, start=1):
            final = f"model-{number:05d}-of-{len(self._shards):05d}.safetensors"
            file.rename(self.folder / final)
            weight_map.update(dict.fromkeys(names, final))
        index = {
            "metadata": {"total_size": self.total_bytes},
            "weight_map": dict(sorted(weight_map.items())),
        }
        (self.folder / WEIGHT_INDEX).write_text(json.dumps(index, indent=2) + "\n")

    def _flush(self) -> None:
        file = self.folder / f"shard-{len(self._shards)}.part"
        write_safetensors(file, self._pending)
        self._shards.append((file, tuple(self._pending)))
        self._pending, self._pending_bytes = {}, 0


@contextlib.contextmanager
def whole_folder(out: Path, needs_bytes: int = 0) -> Iterator[Path]:
    """Yield a hidden sibling of `out` that becomes `out` only if the body succeeds.

    On any error or interrupt it is removed; leavings of a process that was killed are removed by
    the next call for the same `out`.

    Raises:
        UserError: if `out` exists, or the disk has less than `needs_bytes` free or fills up.
    """
    out = Path(out)
    if out.exists() or out.is_symlink():
        raise UserError(
            f"output folder {out} exists already", hint="give another, or delete it first"
        )
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent, out.name)
    free = shutil.disk_usage(parent).free
    if free < needs_bytes:
        raise UserError(
            f"no space for {out}: {needs_bytes / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free",
            hint="free some disk space, or write to another disk",
        )
    partial = parent / f".{out.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        yield partial
        partial.rename(out)
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"no space left while writing {out}",
                hint="free some disk space, or write to another disk",
            ) from problem
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sweep(parent: Path, name: str) -> None:
    """Remove partial folders of `name` whose process is gone, or that are this process's own."""
    marker = f".{name}.partial-"
    for leaving in parent.glob(f"{marker}*"):
        pid = leaving.name.removeprefix(marker)
        alive = pid.isdigit() and int(pid) != os.getpid() and Path(f"/proc/{pid}").exists()
        if pid.isdigit() and not alive:
            shutil.rmtree(leaving, ignore_errors=True)


def copy_companions(src: Path, dst: Path) -> list[str]:
    """Copy every file of a model folder that is not weights; return the names copied.

    Config, generation config, tokenizer, processor, chat templates, licence and the model's own
    Python files go along; weights in any format, the model card and hidden files do not. Of
    subfolders only those of chat templates are taken.
    """
    copied = []
    for file in sorted(src.iterdir()):
        hidden = file.name.startswith(".")
        if file.is_dir():
            if "chat_template" in file.name and not hidden:
                shutil.copytree(file, dst / file.name)
                copied.append(file.name)
        elif not hidden and not _WEIGHTS.search(file.name) and file.name not in _LEFT_BEHIND:
            shutil.copyfile(file, dst / file.name)
            copied.append(file.name)
    return copied
