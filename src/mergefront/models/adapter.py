"""LoRA and DoRA adapters in PEFT's format, as what they make of the model they were trained on.

An adapter is opened onto its model's checkpoint: the adapter's whole tensors (`modules_to_save`,
biases, a resized embedding) replace the model's, and `Adapter.apply` adds the low-rank updates. An
updated tensor is W + scale * B @ A in fp32, rounded once and never to the model's dtype. All other
tensors are the model's, in their own dtype.

Every other kind of adapter is refused, and so are settings under which the file does not determine
the weights (`_UNREAD_SETTINGS`, `_CHANGED_START`). Not here: the arithmetic (`exact_product`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from mergefront.errors import CheckpointError, PairingError
from mergefront.models.anatomy import Anatomy
from mergefront.models.checkpoint import ADAPTER_CONFIG, Checkpoint, read_json
from mergefront.models.exact_product import LowRankUpdate
from mergefront.models.safetensors import FLOATS, TensorHeader, read_header
from mergefront.models.tower import VISION

WEIGHTS: Final = "adapter_model.safetensors"
_UNREAD_SETTINGS: Final = (
    *("layer_replication", "target_parameters", "trainable_token_indices", "arrow_config"),
    *("alora_invocation_tokens", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config"),
)
# These start from weights that are not the model's, and the adapter's file does not hold those.
_CHANGED_START: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")
_PREFIX: Final = "base_model.model."
_FACTOR: Final = re.compile(
    r"(?P<module>.+)\.(?P<factor>lora_(?:embedding_)?[AB]|lora_magnitude_vector)"
    r"(?:\.default)?(?:\.(?P<kind>weight|bias))?$"
)
_WRAPPED: Final = re.compile(r"\.(?:modules_to_save(?:\.default)?|base_layer)(?=\.)")
_LAYER: Final = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+\..+)$")
_MERGE: Final = "merge it into its model with peft (merge_and_unload) and name the folder as model"


@dataclass(frozen=True)
class _Update:
    """The adapter's names of one module's factors: the update is scale * B @ A.

    PEFT stores an embedding's factors, and those of a Conv1D (`fan_in_fan_out`), for the transpose
    of the weight: then `transposed` is set, and the update is scale * (B @ A).T.
    """

    a: str
    b: str
    scale: float
    transposed: bool
    magnitude: str | None


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter on its model: `model` is the checkpoint with the adapter's whole tensors in it.

    `_updates` and `_shifts` go by the model's tensor names; a shift is (adapter's name, scale).
    """

    folder: Path
    model: Checkpoint
    _file: Checkpoint
    _updates: Mapping[str, _Update]
    _shifts: Mapping[str, tuple[str, float]]

    @classmethod
    def open(cls, folder: Path, model: Checkpoint, anatomy: Anatomy) -> Adapter:
        """Read an adapter's config and headers, and find the weight in `model` for each tensor.

        Raises:
            CheckpointError: files are missing or damaged, or the adapter is of a kind that is not
                read.
            PairingError: a tensor belongs to a module that the model's language tower lacks, or
                does not have its weight's shape.
        """
        folder = Path(folder)
        config = read_json(folder / ADAPTER_CONFIG, "every adapter has one; is this a model?")
        _refuse(folder, config)
        file = _open_file(folder, config)
        sorter = _TensorSorter(file, model, anatomy)
        headers = dict(model.headers)
        for name, weight in sorter.whole_tensors():
            headers[weight] = file.headers[name]
        base = replace(model, headers=MappingProxyType(headers))
        updates = dict(sorter.updates(base))
        return cls(folder, base, file, MappingProxyType(updates), dict(sorter.shifts()))

    @property
    def changed(self) -> tuple[str, ...]:
        """The model's tensors that low-rank updates or bias shifts change."""
        return (*self._updates, *self._shifts)

    def apply(self, name: str, tensor: Tensor, rows: slice | None = None) -> Tensor:
        """Return the model's tensor `name` with the adapter's change, in fp32; unchanged if none.

        With `rows` (of the first dimension), `tensor` holds only those rows.

        Raises:
            CheckpointError: if a factor holds NaN or infinity.
        """
        if name in self._shifts:
            shift_name, scale = self._shifts[name]
            shift = self._finite(shift_name).double() * scale
            return (tensor.double() + (shift if rows is None else shift[rows])).float()
        update = self._updates.get(name)
        if update is None:
            return tensor
        a, b = self._finite(update.a), self._finite(update.b)
        factors = (a.T, b.T) if update.transposed else (b, a)
        magnitude = None if update.magnitude is None else self._finite(update.magnitude)
        return LowRankUpdate(*factors, update.scale, magnitude).apply(tensor, rows)

    def check_finite(self) -> None:
        """Refuse NaN and infinity in the factors. Raises CheckpointError."""
        for name in self._file.headers:
            self._finite(name)

    def file_hashes(self) -> dict[str, str]:
        """Return the hash of the adapter's files, by path in its folder."""
        return self._file.file_hashes()

    def _finite(self, name: str) -> Tensor:
        tensor = self._file.tensor(name)
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"adapter {self.folder}: tensor {name!r} holds NaN or infinity",
                hint="the adapter is damaged or its training diverged",
            )
        return tensor


class _TensorSorter:
    """Tells what each tensor of an adapter is: whole, a factor, or a shift of a bias; or fails."""

    def __init__(self, file: Checkpoint, model: Checkpoint, anatomy: Anatomy) -> None:
        self._file, self._model, self._anatomy = file, model, anatomy
        self._factors: dict[str, dict[str, str]] = {}
        self._whole_names: list[str] = []
        for name, header in file.headers.items():
            if header.dtype not in FLOATS:
                raise self._error(name, f"has dtype {header.dtype}, expected a float", _MERGE)
            match = _FACTOR.match(name)
            if match is None:
                self._whole_names.append(name)
            else:
                factor = match["factor"] + (".bias" if match["kind"] == "bias" else "")
                self._factors.setdefault(match["module"], {})[factor] = name

    def whole_tensors(self) -> Iterator[tuple[str, str]]:
        """Yield (adapter's name, model's name) of tensors that replace the model's."""
        for name in self._whole_names:
            weight = self._weight(name, _WRAPPED.sub("", name))
            shape, model_shape = self._file.headers[name].shape, self._model.headers[weight].shape
            # An embedding or head may have been resized: its number of rows is free.
            first = 1 if self._anatomy.places[weight].part in ("embedding", "head") else 0
            if shape[first:] != model_shape[first:]:
                message = f"is {list(shape)}, the model's {weight!r} {list(model_shape)}"
                raise self._error(name, message)
            yield name, weight

    def updates(self, base: Checkpoint) -> Iterator[tuple[str, _Update]]:
        """Yield (model's name, update); `base` is the model with the adapter's whole tensors."""
        config = self._file.config
        for module, factors in self._factors.items():
            infix = "embedding_" if "lora_embedding_A" in factors else ""
            first = next(iter(factors.values()))
            a, b = factors.get(f"lora_{infix}A"), factors.get(f"lora_{infix}B")
            if a is None or b is None:
                raise self._error(first, "has no counterpart: A and B belong together", _MERGE)
            weight = self._weight(first, f"{module}.weight")
            transposed = bool(infix) or bool(config.get("fan_in_fan_out"))
            magnitude = factors.get("lora_magnitude_vector")
            if (magnitude is not None) != bool(config.get("use_dora")):
                message = f"does not agree with use_dora in {ADAPTER_CONFIG}"
                raise self._error(first, message, _MERGE)
            if magnitude is not None and transposed:
                raise self._error(magnitude, "is DoRA of an embedding, which is not read", _MERGE)
            self._check_shapes(a, b, transposed, base.headers[weight])
            if magnitude and self._file.headers[magnitude].shape != base.headers[weight].shape[:1]:
                raise self._error(magnitude, f"does not have one value for each row of {weight!r}")
            yield weight, _Update(a, b, self._scale(module, a), transposed, magnitude)

    def shifts(self) -> Iterator[tuple[str, tuple[str, float]]]:
        """Yield (model's bias, (adapter's name, scale)) where B has a bias of its own."""
        for module, factors in self._factors.items():
            name = factors.get("lora_B.bias")
            if name is not None:
                bias = self._weight(name, f"{module}.bias")
                if self._file.headers[name].shape != self._model.headers[bias].shape:
                    raise self._error(name, f"does not have the shape of the model's {bias!r}")
                yield bias, (name, self._scale(module, factors["lora_A"]))

    def _weight(self, adapter_name: str, name: str) -> str:
        """Return the model's name of a weight: layers pair by number, whatever stands before it.

        PEFT prefixes names with the class it wrapped, and a VLM may wrap its language model again.
        """
        name = name.removeprefix(_PREFIX)
        tower = self._anatomy.language_tower
        inside = _LAYER.search(name)
        candidates = [name]
        if inside is not None and not VISION.search(name[: inside.start()]):
            candidates.append(f"{tower.stack}.{inside[1]}")
        elif inside is None:
            candidates += [tower.prefix + name.rpartition("model.")[2], name.removeprefix("model.")]
        for candidate in candidates:
            place = self._anatomy.places.get(candidate)
            if place is not None and place.tower == "language" and place.part != "other":
                return candidate
        raise self._error(
            adapter_name,
            f"is for {name!r}, and the language tower of {self._model.folder} has no such tensor",
            "name the model that it was trained on; an adapter of other modules (vision tower, "
            f"projector, a tied head) is not read: {_MERGE}",
        )

    def _check_shapes(self, a: str, b: str, transposed: bool, header: TensorHeader) -> None:
        """Refuse factors whose ranks differ, or whose product does not have the weight's shape."""
        shape_a, shape_b = self._file.headers[a].shape, self._file.headers[b].shape
        if len(shape_a) == len(shape_b) == len(header.shape) == 2 and shape_a[0] == shape_b[1] > 0:
            product_shape = (shape_b[0], shape_a[1])
            if header.shape == (product_shape[::-1] if transposed else product_shape):
                return
        raise self._error(
            a,
            f"is {list(shape_a)} and {b!r} {list(shape_b)}: their product does not fit "
            f"{header.name!r} {list(header.shape)} of {self._model.folder}",
        )

    def _scale(self, module: str, a: str) -> float:
        """Return alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv:2312.03732)."""
        config = self._file.config
        path = module.removeprefix(_PREFIX)
        rank = _pattern(config.get("rank_pattern"), path, config.get("r"))
        alpha = _pattern(config.get("alpha_pattern"), path, config.get("lora_alpha"))
        stored_rank = self._file.headers[a].shape[0]
        if rank != stored_rank or isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise self._error(
                a,
                f"has rank {stored_rank}, but {ADAPTER_CONFIG} gives it r {rank!r} and lora_alpha "
                f"{alpha!r}",
                "config and weights are not of one adapter: download both again",
            )
        return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)

    def _error(self, name: str, problem: str, hint: str = "") -> PairingError:
        return PairingError(
            f"adapter {self._file.folder}: tensor {name!r} {problem}",
            hint=hint or "name the model that the adapter was trained on",
        )


def _pattern(patterns: Any, path: str, default: Any) -> Any:
    """Return the value whose key, a regular expression, ends the module's path, as PEFT does."""
    for key, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return default


def _refuse(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse adapters whose file does not determine the model's weights."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{folder}: {ADAPTER_CONFIG}: peft_type is {kind!r}, expected LORA", hint=_MERGE
        )
    for name in _UNREAD_SETTINGS:
        if config.get(name):
            raise CheckpointError(
                f"{folder}: {ADAPTER_CONFIG}: {name} is {config[name]!r:.60}, which is not read",
                hint=_MERGE,
            )
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(_CHANGED_START):
        raise CheckpointError(
            f"{folder}: {ADAPTER_CONFIG}: init_lora_weights is {start!r}: the model's weights were "
            "changed before training, and this file does not hold the change",
            hint="convert it to a plain LoRA (peft: path_initial_model_for_weight_conversion), or "
            + _MERGE,
        )


def _open_file(folder: Path, config: dict[str, Any]) -> Checkpoint:
    file = folder / WEIGHTS
    if (folder / "adapter_model.bin").is_file() and not file.is_file():
        raise CheckpointError(
            f"{folder}: only pickled weights (adapter_model.bin), which are never read",
            hint="convert them in a sandbox: load with peft, save_pretrained writes safetensors",
        )
    if not file.is_file():
        raise CheckpointError(f"{folder}: {WEIGHTS} is missing", hint="download it again")
    headers = {header.name: header for header in read_header(file)}
    if not headers:
        raise CheckpointError(f"{file}: holds no tensors")
    return Checkpoint(folder, config, MappingProxyType(headers))
