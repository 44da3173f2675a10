"""Writing a checkpoint: its weights, streamed shard by shard, and the files beside them.

Not here: reading (`checkpoint`), what the tensors are (`merging.build`), and how the folder appears
whole or not at all (`files.whole_folder`).

A checkpoint may be written in another floating type than that of its source: `set_config_dtype`
lets config.json follow.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, Final

import torch

from mergefront.models.checkpoint import WEIGHT_INDEX, read_json
from mergefront.models.safetensors import Layout, raw_bytes
from mergefront.records import Dtype

SHARD_BYTES: Final = 4 * 10**9
_WEIGHTS: Final = re.compile(
    r"\.(safetensors|bin|pt|pth|ckpt|pkl|gguf|h5|msgpack|onnx|npz|npy|tflite)$"
)
_CONFIG_KEYS: Final = ("dtype", "torch_dtype")
_LEFT_BEHIND: Final = frozenset({"README.md", WEIGHT_INDEX, "pytorch_model.bin.index.json"})


class CheckpointWriter:
    """Write tensors in any order, each straight to its place in its shard; keep none in memory.

    `planned` names the tensors: name -> a tensor of the right dtype and shape, on any device
    ("meta" too). They fill the shards in this order; a tensor larger than `shard_bytes` gets its
    own shard. Use it as a context manager: leaving it without an error checks that all tensors were
    added and, if there is more than one shard, writes the index.
    """

    def __init__(
        self, folder: Path, planned: Mapping[str, torch.Tensor], shard_bytes: int = SHARD_BYTES
    ) -> None:
        self.folder = folder
        self.total_bytes = sum(tensor.nbytes for tensor in planned.values())
        self._unwritten = dict(planned)
        self._files: dict[str, str] = {}
        self._offsets: dict[str, int] = {}
        shards = _dealt_out(planned, shard_bytes)
        for number, tensors in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            file = file if len(shards) > 1 else "model.safetensors"
            layout = Layout.of(tensors)
            self._offsets |= layout.offsets
            self._files |= dict.fromkeys(tensors, file)
            with (folder / file).open("wb") as stream:  # empty room for the tensors
                stream.write(layout.start)
                stream.truncate(layout.n_bytes)

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Check that nothing is missing, and write the index if there are several shards.

        Raises:
            ValueError: naming a tensor that was planned but not added.
        """
        if kind is not None:
            return
        if self._unwritten:
            raise ValueError(f"tensor {next(iter(self._unwritten))!r} was planned, but not added")
        if len(set(self._files.values())) > 1:
            index = {
                "metadata": {"total_size": self.total_bytes},
                "weight_map": dict(sorted(self._files.items())),
            }
            (self.folder / WEIGHT_INDEX).write_text(json.dumps(index, indent=2) + "\n")

    def add(self, name: str, pieces: Iterable[torch.Tensor]) -> None:
        """Write a tensor to its place: its pieces in row-major order, each as soon as it comes.

        Raises:
            ValueError: if the tensor was not planned like that, or was added before.
        """
        planned = self._unwritten.pop(name, None)
        if planned is None:
            problem = "added twice" if name in self._files else "not planned"
            raise ValueError(f"tensor {name!r} was {problem}")
        written = 0
        with (self.folder / self._files[name]).open("r+b", buffering=0) as stream:
            stream.seek(self._offsets[name])
            for piece in pieces:
                written += piece.numel()
                if piece.dtype != planned.dtype or written > planned.numel():
                    raise _not_as_planned(name, planned, f"{piece.dtype} of {written} entries")
                _write_all(stream, raw_bytes(piece))
        if written != planned.numel():
            raise _not_as_planned(name, planned, f"{planned.dtype} of {written} entries")


def _not_as_planned(name: str, planned: torch.Tensor, actual: str) -> ValueError:
    return ValueError(
        f"tensor {name!r} was planned as {planned.dtype} {list(planned.shape)}, but is {actual}"
    )


def _write_all(stream: FileIO, data: memoryview) -> None:
    """Write all bytes: one call may write fewer, and never more than 2 GiB."""
    while len(data):
        data = data[stream.write(data) :]


def _dealt_out(
    planned: Mapping[str, torch.Tensor], shard_bytes: int
) -> list[dict[str, torch.Tensor]]:
    """Deal tensors out to shards of at most `shard_bytes`, in their order; at least one shard."""
    shards: list[dict[str, torch.Tensor]] = [{}]
    room = shard_bytes
    for name, tensor in planned.items():
        if shards[-1] and tensor.nbytes > room:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = tensor
        room -= tensor.nbytes
    return shards


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


def set_config_dtype(file: Path, dtype: Dtype) -> None:
    """Change config.json so that it names `dtype` as the type of all weights.

    `dtype` and `torch_dtype` are replaced wherever they name a type, in the whole and in every part
    (text_config, vision_config, ...). A config that names none gets `torch_dtype`, which
    transformers 4 and 5 both read.

    Raises:
        CheckpointError: the file holds no JSON object.
    """
    config = read_json(file)
    _rename_dtypes(config, dtype)
    if not any(config.get(key) for key in _CONFIG_KEYS):
        config["torch_dtype"] = dtype
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _rename_dtypes(config: dict[str, Any], dtype: Dtype) -> None:
    for key, value in config.items():
        if isinstance(value, dict):
            _rename_dtypes(value, dtype)
        elif key in _CONFIG_KEYS and isinstance(value, str):
            config[key] = dtype
