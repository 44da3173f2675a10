"""Safetensors folders: opening reads headers only, tensors come one at a time, memory-mapped.

Not here: what a tensor is for (`anatomy`), and what is written when two of them are merged
(`merging.build`). Writing lives in `writing`, the file
format in `safetensors_file`; both are re-exported. No pickle is ever read.

Reading order: `Checkpoint.open`, `locate`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from safetensors import safe_open

from mergefront.errors import CheckpointError, UserError
from mergefront.safetensors_file import DTYPES, TensorHeader, read_header
from mergefront.writing import (
    SHARD_BYTES,
    WEIGHT_INDEX,
    CheckpointWriter,
    copy_companions,
    whole_folder,
)

__all__ = [
    "DTYPES",
    "SHARD_BYTES",
    "Checkpoint",
    "CheckpointWriter",
    "TensorHeader",
    "copy_companions",
    "locate",
    "whole_folder",
]

_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SHARD: Final = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")
_WANTED: Final = (  # no pickles
    *("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py"),
    *("LICENSE*", "NOTICE*"),
)
_PROMPTING: Final = (
    *("*.json", "*.jinja", "additional_chat_templates/*.jinja"),
    *("*.model", "*.tiktoken", "vocab*.txt", "merges*.txt"),
)
_SECOND_COPIES: Final = ["original/*", "consolidated*"]


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
                tensor in two files; a folder with pickles, an adapter or no weights at all.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such model folder")
        config = _read_json(folder / "config.json", "every Hugging Face checkpoint has one")
        index = _read_index(folder)
        files = _shards_of(folder, index) if index is not None else _weight_files(folder)
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
            _check_index(folder, index, headers)
        if not headers:
            raise CheckpointError(f"{folder}: its weight files hold no tensors")
        return cls(folder, config, MappingProxyType(headers))

    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor by name, memory-mapped: read it, never write into it.

        Raises:
            CheckpointError: if the checkpoint has no tensor of that name.
        """
        header = self.headers.get(name)
        if header is None:
            raise CheckpointError(f"{self.folder}: no tensor {name!r}")
        handle = self._handles.get(header.file)
        if handle is None:
            handle = safe_open(header.file, framework="pt", device="cpu")
            self._handles[header.file] = handle
        tensor: torch.Tensor = handle.get_tensor(name)
        return tensor

    def file_hashes(self) -> dict[str, str]:
        """Return the SHA-256 of all that decides answers, by path in the folder.

        These are the weight files and whatever makes prompts: config, generation config,
        tokenizer, processor and chat templates. Not the weights' index, licences or pages.
        """
        files = {header.file for header in self.headers.values()}
        files |= {file for pattern in _PROMPTING for file in self.folder.glob(pattern)}
        return {
            file.relative_to(self.folder).as_posix(): _sha256(file)
            for file in sorted(files)
            if file.is_file() and not file.name.endswith(".index.json")
        }

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(header.n_bytes for header in self.headers.values())


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
    if folder.is_dir():
        return folder
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


def _read_json(file: Path, why: str) -> dict[str, Any]:
    if not file.is_file():
        raise CheckpointError(f"{file.parent}: {file.name} is missing", hint=why)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise CheckpointError(f"{file}: not valid JSON: {problem}") from problem
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected a JSON object")
    return content


def _read_index(folder: Path) -> dict[str, str] | None:
    """Return tensor name -> file name from the index, or None if there is no index."""
    file = folder / WEIGHT_INDEX
    if not file.is_file():
        return None
    weight_map = _read_json(file, "")["weight_map"]
    return {str(name): str(shard) for name, shard in weight_map.items()}


def _shards_of(folder: Path, index: Mapping[str, str]) -> list[Path]:
    files = [folder / shard for shard in sorted(set(index.values()))]
    for file in files:
        if not file.is_file():
            raise CheckpointError(
                f"{folder}: shard {file.name} is missing, named by {WEIGHT_INDEX}",
                hint="download it again",
            )
    return files


def _check_index(folder: Path, index: Mapping[str, str], headers: Mapping[str, Any]) -> None:
    for name, shard in index.items():
        found = headers.get(name)
        if found is None or found.file.name != shard:
            raise CheckpointError(
                f"{folder}: tensor {name!r} is not in {shard}, where {WEIGHT_INDEX} says it is"
            )
    unlisted = sorted(set(headers) - set(index))
    if unlisted:
        raise CheckpointError(
            f"{folder}: tensor {unlisted[0]!r} in {headers[unlisted[0]].file.name} "
            f"is not listed in {WEIGHT_INDEX} ({len(unlisted)} such tensors)"
        )


def _weight_files(folder: Path) -> list[Path]:
    """Weight files of a folder without an index."""
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    files = sorted(folder.glob("*.safetensors"))
    if any(file.name.startswith("adapter_") for file in files):
        raise CheckpointError(
            f"{folder}: holds an adapter, not a model",
            hint="merge the adapter into its model first, for example with peft",
        )
    if files:
        _check_numbering(folder, files)
        return files
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    if pickles:
        raise CheckpointError(
            f"{folder}: only pickled weights ({pickles[0]}), which are never read",
            hint="convert them in a sandbox: load with transformers, save_pretrained writes "
            "safetensors",
        )
    raise CheckpointError(
        f"{folder}: no *.safetensors weights in this folder",
        hint="pickled weights are neither read nor downloaded",
    )


def _check_numbering(folder: Path, files: Iterable[Path]) -> None:
    """Refuse `...-00001-of-00003.safetensors` without its fellows."""
    for file in files:
        match = _SHARD.search(file.name)
        if match is None:
            continue
        for number in range(1, int(match[2]) + 1):
            name = f"{file.name[: match.start()]}-{number:05d}-of-{match[2]}.safetensors"
            if not (folder / name).is_file():
                raise CheckpointError(
                    f"{folder}: shard {name} is missing", hint="download it again"
                )


def _sha256(file: Path) -> str:
    """Hash a file, once a process as long as its size and time stay: 7 B models take a minute."""
    state = file.stat()
    return _hash_content(file.resolve(), state.st_size, state.st_mtime_ns, state.st_ino)


@lru_cache(maxsize=4096)
def _hash_content(file: Path, *_state: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
