"""LoRA and DoRA adapters in PEFT's format, as what they make of the model they were trained on.

An adapter is opened onto its model's checkpoint: whole tensors that it brings (`modules_to_save`,
biases, a resized embedding) take the place of the model's, and `Adapter.apply` adds the low-rank
updates. A tensor that an update touches is W + scale * B @ A in fp32, rounded once, and is never
rounded to the model's dtype; all others are the model's own, in their own dtype.

Refused, by name: every other kind of adapter, and settings under which the file does not say what
the weights became (`_UNREAD`, `_CHANGED_START`). Not here: the arithmetic (`lowrank`).

Reading order: `Adapter.open`.
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
from mergefront.models.safetensors import TensorHeader, read_header
from mergefront.models.tower import VISION

WEIGHTS: Final = "adapter_model.safetensors"
_UNREAD: Final = (
    *("layer_replication", "target_parameters", "trainable_token_indices", "arrow_config"),
    *("alora_invocation_tokens", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config"),
)
_CHANGED_START: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")
_FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})
_PREFIX: Final = "base_model.model."
_FACTOR: Final = re.compile(
    r"(?P<module>.+)\.(?P<what>lora_(?:embedding_)?[AB]|lora_magnitude_vector)"
    r"(?:\.default)?(?:\.(?P<kind>weight|bias))?$"
)
_WRAPPED: Final = re.compile(r"\.(?:modules_to_save(?:\.default)?|base_layer)(?=\.)")
_LAYER: Final = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+\..+)$")
_MERGE: Final = "merge it into its model with peft (merge_and_unload) and name the folder as model"


@dataclass(frozen=True)
class _Update:
    """The adapter's own names of one module's factors."""

    a: str
    b: str
    scale: float
    transposed: bool
    magnitude: str | None


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter on its model. `model` is the checkpoint with the adapter's whole tensors in it."""

    folder: Path
    model: Checkpoint
    _file: Checkpoint
    _updates: Mapping[str, _Update]
    _shifts: Mapping[str, tuple[str, float]]

    @classmethod
    def open(cls, folder: Path, model: Checkpoint, anatomy: Anatomy) -> Adapter:
        """Read an adapter's config and headers and find each of its tensors' weight in `model`.

        Raises:
            CheckpointError: files are missing or damaged, or the adapter is of a kind that is not
                read.
            PairingError: a tensor belongs to a module that the model's language tower has not, or
                has another shape than its weight.
        """
        folder = Path(folder)
        config = read_json(folder / ADAPTER_CONFIG, "every adapter has one; is this a model?")
        _refuse(folder, config)
        file = _opened(folder, config)
        made = _Reader(file, model, anatomy)
        headers = dict(model.headers)
        for own, weight in made.wholes():
            headers[weight] = file.headers[own]
        base = replace(model, headers=MappingProxyType(headers))
        updates = dict(made.updates(base))
        return cls(folder, base, file, MappingProxyType(updates), dict(made.shifts()))

    @property
    def changed(self) -> tuple[str, ...]:
        """The model's tensors that low-rank updates or bias shifts change."""
        return (*self._updates, *self._shifts)

    def apply(self, name: str, tensor: Tensor, rows: slice | None = None) -> Tensor:
        """Return what the adapter makes of the model's tensor `name`: fp32, or itself if nothing.

        With `rows` (of the first dimension), `tensor` holds only those.

        Raises:
            CheckpointError: if a factor holds NaN or infinity.
        """
        if name in self._shifts:
            own, scale = self._shifts[name]
            shift = self._finite(own).double() * scale
            return (tensor.double() + (shift if rows is None else shift[rows])).float()
        update = self._updates.get(name)
        if update is None:
            return tensor
        a, b = self._finite(update.a), self._finite(update.b)
        left, right = (a.T, b.T) if update.transposed else (b, a)
        size = None if update.magnitude is None else self._finite(update.magnitude)
        return LowRankUpdate(left, right, update.scale, size).apply(tensor, rows)

    def check_finite(self) -> None:
        """Refuse NaN and infinity in the factors. Raises CheckpointError."""
        for name in self._file.headers:
            self._finite(name)

    def file_hashes(self) -> dict[str, str]:
        """Return the hash of the adapter's files, by path in its folder."""
        return self._file.file_hashes()

    def _finite(self, own: str) -> Tensor:
        tensor = self._file.tensor(own)
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"adapter {self.folder}: tensor {own!r} holds NaN or infinity",
                hint="the adapter is damaged or its training diverged",
            )
        return tensor


class _Reader:
    """Sorts an adapter's tensors: whole ones, factors, shifts of a bias; every one, or an error."""

    def __init__(self, file: Checkpoint, model: Checkpoint, anatomy: Anatomy) -> None:
        self._file, self._model, self._anatomy = file, model, anatomy
        self._modules: dict[str, dict[str, str]] = {}
        self._wholes: list[str] = []
        for name, header in file.headers.items():
            if header.dtype not in _FLOATS:
                raise self._wrong(name, f"has dtype {header.dtype}, expected a float", _MERGE)
            match = _FACTOR.match(name)
            if match is None:
                self._wholes.append(name)
            else:
                what = match["what"] + (".bias" if match["kind"] == "bias" else "")
                self._modules.setdefault(match["module"], {})[what] = name

    def wholes(self) -> Iterator[tuple[str, str]]:
        """Yield (adapter's name, model's name) of tensors that replace the model's."""
        for own in self._wholes:
            weight = self._weight(own, _WRAPPED.sub("", own))
            mine, theirs = self._file.headers[own].shape, self._model.headers[weight].shape
            rows = self._anatomy.places[weight].part in ("embedding", "head")  # may be resized
            if mine[1 if rows else 0 :] != theirs[1 if rows else 0 :]:
                raise self._wrong(own, f"is {list(mine)}, the model's {weight!r} {list(theirs)}")
            yield own, weight

    def updates(self, base: Checkpoint) -> Iterator[tuple[str, _Update]]:
        """Yield (model's name, update); `base` is the model with the adapter's whole tensors."""
        for module, found in self._modules.items():
            inner = "embedding_" if "lora_embedding_A" in found else ""
            some = next(iter(found.values()))
            a, b = found.get(f"lora_{inner}A"), found.get(f"lora_{inner}B")
            if a is None or b is None:
                raise self._wrong(some, "has no counterpart: A and B belong together", _MERGE)
            weight = self._weight(some, f"{module}.weight")
            flipped = bool(inner) or bool(self._file.config.get("fan_in_fan_out"))
            magnitude = found.get("lora_magnitude_vector")
            if (magnitude is not None) != bool(self._file.config.get("use_dora")):
                raise self._wrong(some, f"does not agree with use_dora in {ADAPTER_CONFIG}", _MERGE)
            if magnitude is not None and flipped:
                raise self._wrong(magnitude, "is DoRA of an embedding, which is not read", _MERGE)
            self._check_shapes(a, b, flipped, base.headers[weight])
            if magnitude and self._file.headers[magnitude].shape != base.headers[weight].shape[:1]:
                raise self._wrong(magnitude, f"has not one value for each row of {weight!r}")
            scale = self._scale(module, a)
            yield weight, _Update(a, b, scale, flipped, magnitude)

    def shifts(self) -> Iterator[tuple[str, tuple[str, float]]]:
        """Yield (model's bias, (adapter's name, scale)) where B has a bias of its own."""
        for module, found in self._modules.items():
            own = found.get("lora_B.bias")
            if own is not None:
                bias = self._weight(own, f"{module}.bias")
                if self._file.headers[own].shape != self._model.headers[bias].shape:
                    raise self._wrong(own, f"has not the shape of the model's {bias!r}")
                yield bias, (own, self._scale(module, found["lora_A"]))

    def _weight(self, own: str, name: str) -> str:
        """Return the model's name of a weight; layers count by number, whatever precedes them."""
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
        raise self._wrong(
            own,
            f"is for {name!r}, and the language tower of {self._model.folder} has no such tensor",
            "name the model that it was trained on; an adapter of other modules (vision tower, "
            f"projector, a tied head) is not read: {_MERGE}",
        )

    def _check_shapes(self, a: str, b: str, flipped: bool, header: TensorHeader) -> None:
        """Refuse factors whose product has not the weight's shape, or whose ranks differ."""
        of_a, of_b = self._file.headers[a].shape, self._file.headers[b].shape
        if len(of_a) == len(of_b) == len(header.shape) == 2 and of_a[0] == of_b[1] > 0:
            made = (of_b[0], of_a[1])
            if header.shape == (made[::-1] if flipped else made):
                return
        raise self._wrong(
            a,
            f"is {list(of_a)} and {b!r} {list(of_b)}: their product does not fit "
            f"{header.name!r} {list(header.shape)} of {self._model.folder}",
        )

    def _scale(self, module: str, a: str) -> float:
        """alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv:2312.03732); patterns as PEFT's."""
        config = self._file.config
        path = module.removeprefix(_PREFIX)
        rank = _pattern(config.get("rank_pattern"), path, config.get("r"))
        alpha = _pattern(config.get("alpha_pattern"), path, config.get("lora_alpha"))
        found = self._file.headers[a].shape[0]
        if rank != found or isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise self._wrong(
                a,
                f"has rank {found}, but {ADAPTER_CONFIG} gives it r {rank!r} and lora_alpha "
                f"{alpha!r}",
                "config and weights are not of one adapter: download both again",
            )
        return float(alpha) / (math.sqrt(found) if config.get("use_rslora") else found)

    def _wrong(self, own: str, what: str, hint: str = "") -> PairingError:
        return PairingError(
            f"adapter {self._file.folder}: tensor {own!r} {what}",
            hint=hint or "name the model that the adapter was trained on",
        )


def _pattern(patterns: Any, path: str, default: Any) -> Any:
    """Return the value whose key, a regular expression, ends the module's path."""
    for key, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({key})$", path):  # as PEFT matches them
            return value
    return default


def _refuse(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse adapters whose file does not say what their model's weights become."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{folder}: {ADAPTER_CONFIG}: peft_type is {kind!r}, expected LORA", hint=_MERGE
        )
    for name in _UNREAD:
        if config.get(name):
            raise CheckpointError(
                f"{folder}: {ADAPTER_CONFIG}: {name} is {config[name]!r:.60}, which is not read",
                hint=_MERGE,
            )
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(_CHANGED_START):
        raise CheckpointError(
            f"{folder}: {ADAPTER_CONFIG}: init_lora_weights is {start!r}: the model's own weights "
            "were changed before training, and this file does not hold how",
            hint="convert it to a plain LoRA (peft: path_initial_model_for_weight_conversion), or "
            + _MERGE,
        )


def _opened(folder: Path, config: dict[str, Any]) -> Checkpoint:
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
