"""What lies in a model's folder: its config and weight files, or why they are refused.

Nothing is read here but JSON. Not here: the weight files' headers (`safetensors_file`) and
tensors (`checkpoint`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from mergefront.errors import CheckpointError
from mergefront.writing import WEIGHT_INDEX

ADAPTER_CONFIG: Final = "adapter_config.json"
"""The file that makes a folder a PEFT adapter's."""
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SHARD: Final = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")
_CONVERT: Final = (
    "convert them in a sandbox: load with transformers, save_pretrained writes safetensors"
)
NO_GGUF: Final = (
    "use the repository in safetensors from which the GGUF was made: it is quantised as a rule, "
    "and its tensors go by other names"
)


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a folder that holds a model in plain floats.

    Raises:
        CheckpointError: the folder holds an adapter or GGUF files, config.json is missing, or it
            says that the weights are quantised.
    """
    _refuse_adapter(folder)
    _refuse_gguf(folder)
    config = read_json(folder / "config.json", "every Hugging Face checkpoint has one")
    _refuse_quantised(folder, config)
    return config


def read_json(file: Path, why: str) -> dict[str, Any]:
    """Read a JSON object of a model folder; `why` is the hint if it is missing.

    Raises:
        CheckpointError: if the file is missing or holds no JSON object.
    """
    if not file.is_file():
        raise CheckpointError(f"{file.parent}: {file.name} is missing", hint=why)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise CheckpointError(f"{file}: not valid JSON: {problem}") from problem
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected a JSON object")
    return content


def read_index(folder: Path) -> dict[str, str] | None:
    """Return tensor name -> file name from the index, or None if there is no index.

    Raises:
        CheckpointError: the index is damaged, or names files that are not read.
    """
    file = folder / WEIGHT_INDEX
    if not file.is_file():
        return None
    weight_map = read_json(file, "").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{file}: found no `weight_map`, expected tensor names and their files",
            hint="download it again",
        )
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{file}: tensor {name!r} is said to be in {shard!r}, expected a *.safetensors "
                "file of this folder",
                hint=_CONVERT,
            )
    return dict(weight_map)


def shards_of(folder: Path, index: Mapping[str, str]) -> list[Path]:
    """Return the files that an index names, in order. Raises CheckpointError if one is missing."""
    files = [folder / shard for shard in sorted(set(index.values()))]
    for file in files:
        if not file.is_file():
            raise CheckpointError(
                f"{folder}: shard {file.name} is missing, named by {WEIGHT_INDEX}",
                hint="download it again",
            )
    return files


def check_index(folder: Path, index: Mapping[str, str], headers: Mapping[str, Any]) -> None:
    """Compare an index with what the files hold (tensor name -> `TensorHeader`).

    Raises:
        CheckpointError: a tensor is not where the index says, or is not in the index.
    """
    for name, shard in index.items():
        found = headers.get(name)
        if found is None or found.file.name != shard:
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


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder without an index.

    Raises:
        CheckpointError: there are none in safetensors, or a numbered shard is missing.
    """
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
    weights = sorted(one.name for one in folder.glob("adapter_model*"))
    if not file.is_file() and not weights:
        return
    said = read_json(file, "").get("base_model_name_or_path") if file.is_file() else None
    base = said if isinstance(said, str) and said else "THE_MODEL_IT_WAS_TRAINED_ON"
    raise CheckpointError(
        f"{folder}: holds an adapter ({', '.join(weights) or file.name}), not a model",
        hint=f"as a donor name both, `{{model: {base}, adapter: {folder}}}`; if the folder holds a "
        "whole model as well, move one of them elsewhere",
    )


def _refuse_gguf(folder: Path) -> None:
    files = sorted(file.name for file in folder.glob("*.gguf"))
    if files and not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder}: holds GGUF weights ({files[0]}), expected *.safetensors", hint=NO_GGUF
        )


def _refuse_quantised(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose config, or whose part of a config, says that it is quantised."""
    parts = {"": config} | {k: v for k, v in config.items() if isinstance(v, Mapping)}
    for part, content in parts.items():
        said = content.get("quantization_config") or content.get("compression_config")
        if said:
            kind = said.get("quant_method", "?") if isinstance(said, Mapping) else said
            field = f"{part}.quantization_config".removeprefix(".")
            raise CheckpointError(
                f"{folder}: config.json says that its weights are quantised ({field}: {kind}), "
                "expected plain F32, BF16 or F16",
                hint="use the checkpoint from which it was quantised; if there is none, load it "
                "with transformers, call dequantize() and save it: its rounding errors stay",
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
