"""Safetensors folders: opening reads headers only, tensors come one at a time, memory-mapped.

Not here: what a tensor is for (`anatomy`), and what is written when two of them are merged
(`merging.build`). Which files a folder has, and which folders are refused, is `folder`'s; writing
lives in `writing`, the file format in `safetensors_file`. No pickle is ever read.

Reading order: `Checkpoint.open`, `locate`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from mergefront.errors import CheckpointError, UserError
from mergefront.file_hashes import Kind, file_hash
from mergefront.folder import (
    NO_GGUF,
    check_index,
    read_config,
    read_index,
    shards_of,
    weight_files,
)
from mergefront.records import Dtype
from mergefront.safetensors_file import DTYPES, TensorHeader, read_header
from mergefront.writing import (
    PLAIN,
    SHARD_BYTES,
    CheckpointWriter,
    copy_companions,
    set_config_dtype,
    whole_folder,
    written_dtype,
)

__all__ = [
    "DTYPES",
    "SHARD_BYTES",
    "Checkpoint",
    "CheckpointWriter",
    "TensorHeader",
    "copy_companions",
    "downloaded",
    "locate",
    "set_config_dtype",
    "whole_folder",
    "written_dtype",
]

_WANTED: Final = (  # no pickles
    *("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py"),
    *("LICENSE*", "NOTICE*"),
)
_PROMPTING: Final = (
    *("*.json", "*.jinja", "additional_chat_templates/*.jinja"),
    *("*.model", "*.tiktoken", "vocab*.txt", "merges*.txt"),
)
_SECOND_COPIES: Final = ["original/*", "consolidated*", "checkpoint-*/*"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened model folder. Tensors returned are memory-mapped: never write into them."""

    folder: Path
    config: dict[str, Any]
    headers: Mapping[str, TensorHeader]
    _handles: dict[Path, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read config.json and every weight file's header; no tensor data is touched.

        Raises:
            CheckpointError: config, shard or index entry missing; a file truncated or damaged; a
                tensor in two files; quantised weights; a folder with pickles, GGUF files, an
                adapter or no weights at all.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such model folder")
        config = read_config(folder)
        index = read_index(folder)
        files = shards_of(folder, index) if index is not None else weight_files(folder)
        headers: dict[str, TensorHeader] = {}
        for file in files:
            for header in read_header(file):
                if header.name in headers:
                    raise CheckpointError(
                        f"{folder}: tensor {header.name!r} is in two files, "
                        f"{headers[header.name].file.name} and {file.name}",
                        hint="delete the file that does not belong to this checkpoint",
                    )
                headers[header.name] = header
        if index is not None:
            check_index(folder, index, headers)
        if not headers:
            raise CheckpointError(f"{folder}: its weight files hold no tensors")
        return cls(folder, config, MappingProxyType(headers))

    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor by name, memory-mapped: read it, never write into it.

        Raises:
            CheckpointError: if the checkpoint has no tensor of that name, or its file is damaged.
        """
        handle, own = self._opened(name)
        tensor: torch.Tensor = handle.get_tensor(own)
        return tensor

    def rows(self, name: str, rows: slice) -> torch.Tensor:
        """Return some rows (along the first dimension) of a tensor, and read no others.

        Raises:
            CheckpointError: as `tensor` does.
        """
        handle, own = self._opened(name)
        tensor: torch.Tensor = handle.get_slice(own)[rows]
        return tensor

    def _opened(self, name: str) -> tuple[Any, str]:
        """Return the opened file that holds a tensor, and the tensor's name there."""
        header = self.headers.get(name)
        if header is None:
            raise CheckpointError(f"{self.folder}: no tensor {name!r}")
        handle = self._handles.get(header.file)
        if handle is None:
            try:
                handle = safe_open(header.file, framework="pt", device="cpu")
            except SafetensorError as problem:
                raise CheckpointError(
                    f"{header.file}: damaged: {problem}", hint="download it again"
                ) from problem
            self._handles[header.file] = handle
        return handle, header.name

    def file_hashes(self, kind: Kind = "xxh3") -> dict[str, str]:
        """Return the hash of all that decides answers, by path in the folder.

        These are the weight files and whatever makes prompts: config, generation config,
        tokenizer, processor and chat templates. Not the weights' index, licences or pages, and
        not files of another folder (an adapter's), which are that folder's to hash.
        """
        files = {header.file for header in self.headers.values()}
        files |= {file for pattern in _PROMPTING for file in self.folder.glob(pattern)}
        return {
            file.relative_to(self.folder).as_posix(): file_hash(file, kind)
            for file in sorted(files)
            if file.is_relative_to(self.folder)
            and file.is_file()
            and not file.name.endswith(".index.json")
        }

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(header.n_bytes for header in self.headers.values())

    def planned(self, dtype: Dtype = "auto") -> dict[str, torch.Tensor]:
        """Return name -> a tensor without data, of the shape and type it has written in `dtype`."""
        return {
            name: torch.empty(
                header.shape, dtype=written_dtype(DTYPES[header.dtype], dtype), device="meta"
            )
            for name, header in self.headers.items()
        }

    def written_bytes(self, dtype: Dtype = "auto") -> int:
        """Bytes of all tensors together, written in `dtype`."""
        return sum(tensor.nbytes for tensor in self.planned(dtype).values())

    def recast(self, dtype: Dtype) -> bool:
        """Whether writing in `dtype` rounds or widens any tensor."""
        return dtype != "auto" and set(self.float_types()) != {dtype}

    def float_types(self) -> tuple[str, ...]:
        """Return the floating types of its tensors, by torch's names, those with most bytes first.

        8-bit floats do not count: they are never rounded.
        """
        total: dict[torch.dtype, int] = {}
        for header in self.headers.values():
            own = DTYPES[header.dtype]
            total[own] = total.get(own, 0) + header.n_bytes
        ordered = sorted((own for own in total if own in PLAIN), key=lambda own: -total[own])
        return tuple(str(own).removeprefix("torch.") for own in ordered)


def locate(model: str, revision: str | None = None) -> Path:
    """Return the folder of a model: `zoo:<name>`, an existing folder, or a Hugging Face hub id.

    A hub id may carry its revision, `owner/name@revision`. A hub model is taken from the local
    cache or downloaded, without any pickle.

    Raises:
        UserError: if there is no such folder and the hub has no such model or cannot be reached.
    """
    if model.startswith("zoo:"):
        from mergefront.zoo import model_folder

        return model_folder(model.removeprefix("zoo:"))
    folder = Path(model).expanduser()
    if folder.is_dir() and model:
        return folder
    if folder.is_file():
        raise UserError(
            f"model {model!r}: a file, expected a model's folder",
            hint=NO_GGUF if folder.suffix == ".gguf" else "give the folder that it lies in",
        )
    name, _, pinned = model.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or model.startswith((".", "/", "~")):
        raise UserError(
            f"model {model!r}: no such folder",
            hint="give a folder, a hub id such as Qwen/Qwen2-VL-7B-Instruct, or zoo:vlm",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision or pinned or None,
                allow_patterns=list(_WANTED),
                ignore_patterns=_SECOND_COPIES,
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as problem:
        first_line = str(problem).strip().splitlines()[:1]
        raise UserError(
            f"model {model!r}: neither a folder here nor obtainable from the hub "
            f"({type(problem).__name__}: {' '.join(first_line)})",
            hint="check the name, the revision, the network and, for gated models, your HF login",
        ) from problem


def downloaded(files: Iterable[str]) -> list[str]:
    """Return those files of a hub repository (paths in it) that `locate` downloads."""
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    return list(
        filter_repo_objects(files, allow_patterns=list(_WANTED), ignore_patterns=_SECOND_COPIES)
    )
