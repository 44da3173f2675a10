"""The safetensors file format: reading a file's header, writing a file from tensors.

A file is 8 bytes (the header's length, little endian), a JSON header, then the tensors' bytes. A
tensor's `data_offsets` count from the end of the header. Not here: folders of such files
(`checkpoint`, `writer`), and reading tensors, which the safetensors library does.

Reference: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from mergefront.errors import CheckpointError
from mergefront.json_file import parse_json
from mergefront.records import Dtype

DTYPES: Final[Mapping[str, torch.dtype]] = MappingProxyType(
    {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U64": torch.uint64,
        "U32": torch.uint32,
        "U16": torch.uint16,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }
)
"""safetensors' names of element types -> torch's."""

FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})
"""Those that a weight may have, and be rounded from and to; 8-bit floats come with scales."""
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
LONGEST_HEADER: Final = 100_000_000
"""Bytes of a header: the format's own limit."""


def damaged(problem: str) -> CheckpointError:
    """Return the error of a file that is damaged or missing."""
    return CheckpointError(problem, hint="download it again")


@dataclass(frozen=True)
class TensorHeader:
    """One tensor in a file's header: `dtype` is the format's name of its type, e.g. "BF16"."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensor's data in the file."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def written_type(self, dtype: Dtype) -> torch.dtype:
        """Return the type in which the tensor is written in a checkpoint of `dtype`.

        Integers, truth values and 8-bit floats keep theirs.
        """
        keeps = dtype == "auto" or self.dtype not in FLOATS
        written: torch.dtype = DTYPES[self.dtype] if keeps else getattr(torch, dtype)
        return written


def read_header(file: Path) -> list[TensorHeader]:
    """Return the tensors that a safetensors file announces, checked against the file's size.

    Raises:
        CheckpointError: if the header is damaged or names a tensor twice, a tensor's data lies
            beyond the end of the file (an interrupted download), or its dtype is not read.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if len(start) == 8 and length > LONGEST_HEADER:
            raise damaged(
                f"{file}: damaged or no safetensors file: its header should have {length:,} "
                f"bytes, expected at most {LONGEST_HEADER:,}"
            )
        if len(start) < 8 or length > size - 8:
            raise damaged(
                f"{file}: truncated or no safetensors file: it has {size} bytes, "
                f"its header alone should have {length}"
            )
        try:
            entries = parse_json(stream.read(length), LONGEST_HEADER)
        except ValueError as problem:
            raise damaged(f"{file}: damaged header: {problem}") from problem
    if not isinstance(entries, dict):
        raise damaged(f"{file}: damaged header: no JSON object")
    return [
        _entry(file, name, entry, size - 8 - length)
        for name, entry in entries.items()
        if name != "__metadata__"
    ]


def _entry(file: Path, name: str, entry: Mapping[str, Any], data_bytes: int) -> TensorHeader:
    """Check one tensor's entry against the bytes of data that follow the header."""
    try:
        first, last = entry["data_offsets"]
        header = TensorHeader(name, str(entry["dtype"]), tuple(entry["shape"]), file)
        whole = all(type(number) is int and number >= 0 for number in (first, last, *header.shape))
    except (KeyError, TypeError, ValueError) as problem:
        raise damaged(f"{file}: damaged header entry of {name!r}") from problem
    if not whole:
        raise damaged(
            f"{file}: damaged header entry of {name!r}: sizes and offsets must be whole numbers "
            f"from 0, found shape {list(header.shape)}, offsets {[first, last]}"
        )
    if header.dtype not in DTYPES:
        raise CheckpointError(
            f"{file}: tensor {name!r} has dtype {header.dtype}, which is not read "
            f"(expected one of {', '.join(DTYPES)})",
            hint="use the checkpoint in F32, BF16 or F16 from which it was made",
        )
    if last > data_bytes:
        raise damaged(
            f"{file}: truncated: tensor {name!r} ends at byte {last} of the data, "
            f"the file has {data_bytes}"
        )
    if last - first != header.n_bytes:
        raise CheckpointError(
            f"{file}: damaged: tensor {name!r} has {last - first} bytes, "
            f"{header.dtype} {list(header.shape)} needs {header.n_bytes}"
        )
    return header


@dataclass(frozen=True)
class Layout:
    """Where everything goes in a file: its first bytes, its size, and each tensor's offset."""

    start: bytes
    offsets: Mapping[str, int]
    n_bytes: int

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> Layout:
        """Lay out a file of these tensors, of which only dtypes and shapes are looked at.

        Wide element types come first and the header is padded to 8 bytes, so that every tensor is
        aligned to its element size, which memory-mapping readers need.
        """
        order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset, offsets = 0, {}
        for name in order:
            tensor = tensors[name]
            end = offset + tensor.nbytes
            header[name] = {
                "dtype": _NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [offset, end],
            }
            offsets[name], offset = offset, end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        start = struct.pack("<Q", len(text)) + text
        places = {name: len(start) + at for name, at in offsets.items()}
        return cls(start, MappingProxyType(places), len(start) + offset)


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """Return a tensor's bytes as they are written, without a copy if it is contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
