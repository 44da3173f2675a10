"""Model folders: which files a checkpoint has, what their headers say, and one tensor at a time.

Opening reads JSON and the weight files' headers. Tensors are memory-mapped. No pickle is ever read;
folders with adapters, GGUF files or quantised weights are refused, and the message says what to do.

Not here: one file's format (`safetensors`), writing (`writer`), what a tensor is for (`anatomy`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from mergefront.errors import CheckpointError
from mergefront.files import file_hash
from mergefront.json_file import LARGEST_DOCUMENT, LARGEST_INDEX, parse_json
from mergefront.models.locate import NO_GGUF
from mergefront.models.safetensors import DTYPES, FLOATS, TensorHeader, damaged, read_header
from mergefront.records import Dtype

ADAPTER_CONFIG: Final = "adapter_config.json"
"""The file that makes a folder a PEFT adapter's."""
WEIGHT_INDEX: Final = "model.safetensors.index.json"
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SHARD: Final = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")
_CONVERT: Final = (
    "convert them in a sandbox: load with transformers, save_pretrained writes safetensors"
)
_PROMPT_FILES: Final = (
    *("*.json", "*.jinja", "additional_chat_templates/*.jinja"),
    *("*.model", "*.tiktoken", "vocab*.txt", "merges*.txt"),
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened model folder. Its tensors are memory-mapped: never write into them."""

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
        _refuse_adapter(folder)
        _refuse_gguf(folder)
        config = read_json(folder / "config.json", "every Hugging Face checkpoint has one")
        _refuse_quantised(folder, config)
        index = _read_index(folder)
        headers: dict[str, TensorHeader] = {}
        for file in _weight_files(folder, index):
            for header in read_header(file):
                if header.name in headers:
                    raise CheckpointError(
                        f"{folder}: tensor {header.name!r} is in two files, "
                        f"{headers[header.name].file.name} and {file.name}",
                        hint="delete the file that does not belong to this checkpoint",
                    )
                headers[header.name] = header
        if index:
            _check_index(folder, index, headers)
        if not headers:
            raise CheckpointError(f"{folder}: its weight files hold no tensors")
        return cls(folder, config, MappingProxyType(headers))

    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor by name, memory-mapped: read it, never write into it.

        Raises:
            CheckpointError: if the checkpoint has no tensor of that name, or its file is damaged.
        """
        handle, stored_name = self._open_file(name)
        tensor: torch.Tensor = handle.get_tensor(stored_name)
        return tensor

    def rows(self, name: str, rows: slice) -> torch.Tensor:
        """Return some rows (along the first dimension) of a tensor, and read no others."""
        handle, stored_name = self._open_file(name)
        tensor: torch.Tensor = handle.get_slice(stored_name)[rows]
        return tensor

    def _open_file(self, name: str) -> tuple[Any, str]:
        """Return the opened file that holds a tensor, and the tensor's name there.

        The names differ where an adapter's file holds a tensor of its model.
        """
        header = self.headers.get(name)
        if header is None:
            raise CheckpointError(f"{self.folder}: no tensor {name!r}")
        handle = self._handles.get(header.file)
        if handle is None:
            try:
                handle = safe_open(header.file, framework="pt", device="cpu")
            except SafetensorError as problem:
                raise damaged(f"{header.file}: damaged: {problem}") from problem
            self._handles[header.file] = handle
        return handle, header.name

    def file_hashes(self) -> dict[str, str]:
        """Return the hash of each file that answers depend on, by path in the folder.

        These are the weight files and the files that make prompts: config, generation config,
        tokenizer, processor and chat templates. The weights' index, licences and pages are left
        out, and so are files of another folder (an adapter's), which that folder hashes.
        """
        files = {header.file for header in self.headers.values()}
        files |= {file for pattern in _PROMPT_FILES for file in self.folder.glob(pattern)}
        return {
            file.relative_to(self.folder).as_posix(): file_hash(file)
            for file in sorted(files)
            if file.is_relative_to(self.folder)
            and file.is_file()
            and not file.name.endswith(".index.json")
        }

    def planned_tensors(self, dtype: Dtype = "auto") -> dict[str, torch.Tensor]:
        """Return name -> a tensor without data, of the shape and type to be written in `dtype`."""
        return {
            name: torch.empty(header.shape, dtype=header.written_type(dtype), device="meta")
            for name, header in self.headers.items()
        }

    def written_bytes(self, dtype: Dtype = "auto") -> int:
        """Bytes of all tensors together, written in `dtype`."""
        return sum(tensor.nbytes for tensor in self.planned_tensors(dtype).values())

    def changes_type(self, dtype: Dtype) -> bool:
        """Whether writing in `dtype` rounds or widens any tensor."""
        return dtype != "auto" and set(self.float_types()) != {dtype}

    def float_types(self) -> tuple[str, ...]:
        """Return the floating types of its tensors, by torch's names, those with most bytes first.

        8-bit floats do not count: they are never rounded.
        """
        n_bytes: Counter[str] = Counter()
        for header in self.headers.values():
            n_bytes[header.dtype] += header.n_bytes
        ordered = (dtype for dtype, _ in n_bytes.most_common() if dtype in FLOATS)
        return tuple(str(DTYPES[dtype]).removeprefix("torch.") for dtype in ordered)


def architecture_of(config: Mapping[str, Any], unknown: str = "?") -> str:
    """Return the model class that a config.json names first, or `unknown`."""
    names = config.get("architectures")
    return str(names[0]) if names else unknown


def read_json(file: Path, why: str = "", most_bytes: int = LARGEST_DOCUMENT) -> dict[str, Any]:
    """Read a JSON object of a model folder; `why` is the hint if it is missing.

    Raises:
        CheckpointError: if the file is missing or holds no JSON object.
    """
    if not file.is_file():
        raise CheckpointError(f"{file.parent}: {file.name} is missing", hint=why)
    try:
        content = parse_json(file.read_bytes(), most_bytes)
    except ValueError as problem:
        raise CheckpointError(f"{file}: not valid JSON: {problem}") from problem
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected a JSON object")
    return content


def _read_index(folder: Path) -> dict[str, str]:
    """Return tensor name -> file name from the index; empty if there is no index."""
    file = folder / WEIGHT_INDEX
    if not file.is_file():
        return {}
    weight_map = read_json(file, most_bytes=LARGEST_INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise damaged(f"{file}: found no `weight_map`, expected tensor names and their files")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{file}: tensor {name!r} is said to be in {shard!r}, expected a *.safetensors "
                "file of this folder",
                hint=_CONVERT,
            )
    return dict(weight_map)


def _check_index(folder: Path, index: Mapping[str, str], headers: Mapping[str, Any]) -> None:
    """Compare an index with what the files hold (tensor name -> `TensorHeader`)."""
    for name, shard in index.items():
        header = headers.get(name)
        if header is None or header.file.name != shard:
            raise CheckpointError(
                f"{folder}: tensor {name!r} is not in {shard}, where {WEIGHT_INDEX} says it is",
                hint="download shard and index again: they are not of one checkpoint",
            )
    unlisted = sorted(set(headers) - set(index))
    if unlisted:
        raise CheckpointError(
            f"{folder}: tensor {unlisted[0]!r} in {headers[unlisted[0]].file.name} "
            f"is not listed in {WEIGHT_INDEX} ({len(unlisted)} such tensors)",
            hint="download shard and index again: they are not of one checkpoint",
        )


def _weight_files(folder: Path, index: Mapping[str, str]) -> list[Path]:
    """Return the files that the index names, in order; without an index all in safetensors."""
    if index:
        files = [folder / shard for shard in sorted(set(index.values()))]
        for file in files:
            if not file.is_file():
                raise damaged(f"{folder}: shard {file.name} is missing, named by {WEIGHT_INDEX}")
        return files
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    files = sorted(folder.glob("*.safetensors"))
    if files:
        _check_numbering(folder, files)
        return files
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise CheckpointError(
            f"{folder}: only pickled weights ({pickles[0]}), which are never read",
            hint=_CONVERT,
        )
    raise CheckpointError(
        f"{folder}: no *.safetensors weights in this folder",
        hint="pickled and GGUF weights are neither read nor downloaded",
    )


def _refuse_adapter(folder: Path) -> None:
    """Refuse a folder that holds an adapter, alone or beside a model, and say what to write."""
    file = folder / ADAPTER_CONFIG
    weights = sorted(path.name for path in folder.glob("adapter_model*"))
    if not file.is_file() and not weights:
        return
    model = read_json(file).get("base_model_name_or_path") if file.is_file() else None
    if not isinstance(model, str) or not model:
        model = "THE_MODEL_IT_WAS_TRAINED_ON"
    raise CheckpointError(
        f"{folder}: holds an adapter ({', '.join(weights) or file.name}), not a model",
        hint=f"as a donor name both, `{{model: {model}, adapter: {folder}}}`; if the folder holds "
        "a whole model as well, move one of them elsewhere",
    )


def _refuse_gguf(folder: Path) -> None:
    files = sorted(file.name for file in folder.glob("*.gguf"))
    if files and not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder}: holds GGUF weights ({files[0]}), expected *.safetensors", hint=NO_GGUF
        )


def _refuse_quantised(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose config, as a whole or in a part, says that it is quantised."""
    parts = {"": config} | {k: v for k, v in config.items() if isinstance(v, Mapping)}
    for part, content in parts.items():
        scheme = content.get("quantization_config") or content.get("compression_config")
        if scheme:
            kind = scheme.get("quant_method", "?") if isinstance(scheme, Mapping) else scheme
            field = f"{part}.quantization_config".removeprefix(".")
            raise CheckpointError(
                f"{folder}: config.json says that its weights are quantised ({field}: {kind}), "
                "expected plain F32, BF16 or F16",
                hint="use the checkpoint from which it was quantised; if there is none, load it "
                "with transformers, call dequantize() and save it: its rounding errors stay",
            )


def _check_numbering(folder: Path, files: Iterable[Path]) -> None:
    """Refuse `...-00001-of-00003.safetensors` if one of the three shards is missing."""
    for file in files:
        match = _SHARD.search(file.name)
        if match is None:
            continue
        for number in range(1, int(match[2]) + 1):
            name = f"{file.name[: match.start()]}-{number:05d}-of-{match[2]}.safetensors"
            if not (folder / name).is_file():
                raise damaged(f"{folder}: shard {name} is missing")
