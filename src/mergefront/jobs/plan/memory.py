"""How much GPU and host memory one engine needs, and what it would put where.

The rules are those of the engine. vLLM takes its share of a GPU for weights, activations and KV
cache. The terms of a merge and the encoded images lie beside that share; a term that does not fit
there waits in pinned host memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from mergefront.config import RunConfig
from mergefront.engine.inplace import STAGING_ROOM
from mergefront.engine.prompts import MAX_CONTEXT
from mergefront.jobs.plan.backbone import Backbone
from mergefront.jobs.plan.cost import GroupSizes
from mergefront.jobs.plan.facts import ModelFacts
from mergefront.merging.methods import method_of
from mergefront.models.safetensors import DTYPES
from mergefront.records import Part
from mergefront.space.file import SpaceSpec

T = TypeVar("T")

GIB: Final = float(1 << 30)
ACTIVATIONS: Final = 2.0
"""GiB that vLLM is assumed to need for activations and CUDA graphs of a model of 7-8 B."""
UTILIZATION: Final = 0.92
"""vLLM's share of a GPU unless the configuration sets it."""
_ADVISED_SEQUENCES: Final = 16
"""A share is advised only if the KV cache then holds so many answers of full length."""

_ENGINE_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Memory:
    """GiB of one engine on each of its GPUs; None where not known.

    `terms` are (name, GiB) of what the method keeps beside the model, `encoder_cache` the encoded
    images, `kv_token_kib` the KV cache of one token in KiB. `context` is the longest prompt plus
    answer in tokens. The rest needs the memory of a GPU: `kv_room` is left for the KV cache,
    `placement` maps a term to "device" or "pinned RAM", and `best_utilization` is the largest share
    for vLLM at which every term stays on the device, None if there is none or none is needed.
    """

    weights: float | None
    terms: tuple[tuple[str, float], ...]
    encoder_cache: float
    kv_token_kib: float | None
    context: int
    gpus: int
    gpu_gib: float | None = None
    kv_room: float | None = None
    placement: Mapping[str, str] | None = None
    best_utilization: float | None = None

    @property
    def pinned(self) -> float:
        """GiB of pinned host memory, over all GPUs."""
        place = self.placement or {}
        return self.gpus * sum(size for name, size in self.terms if place.get(name) != "device")

    @property
    def on_device(self) -> float:
        """GiB of the terms that stay on each GPU."""
        place = self.placement or {}
        return sum(size for name, size in self.terms if place.get(name) == "device")

    def answers(self, n: int = 1) -> float:
        """Return the GiB of KV cache for n answers of full length."""
        return n * self.context * (self.kv_token_kib or 0.0) / (1 << 20)


def local_gpu_gib() -> float | None:
    """Return the memory of this machine's first GPU in GiB; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    return float(torch.cuda.get_device_properties(0).total_memory) / GIB


def engine_memory(
    config: RunConfig,
    spec: SpaceSpec,
    receiver: ModelFacts,
    sizes: GroupSizes,
    backbone: Backbone,
    gpu_gib: float | None,
) -> Memory:
    """Return what an engine needs, and where it would put it on GPUs of `gpu_gib` GiB each."""
    gpus = config.engine.tensor_parallel_size
    weights = _weight_bytes(config, receiver, sizes)
    term_bytes = _term_bytes(config, spec, sizes).items()
    terms = tuple((name, size / gpus / GIB) for name, size in term_bytes)
    kv = None
    if backbone.layers and backbone.kv_heads and backbone.head_dim:
        values = 2 * backbone.layers * backbone.kv_heads * backbone.head_dim  # keys and values
        kv = values * _engine_value_bytes(config, receiver) / gpus / 1024
    context = context_of(config, backbone)
    need = Memory(
        None if weights is None else weights / gpus / GIB,
        terms, config.engine.encoder_cache_gb, kv, context, gpus,
    )  # fmt: skip
    return need if gpu_gib is None else _placed(need, config, gpu_gib)


def context_of(config: RunConfig, backbone: Backbone) -> int:
    """Return the longest prompt plus answer in tokens, as the engine would set it."""
    return config.engine.max_model_len or min(MAX_CONTEXT, backbone.positions or MAX_CONTEXT)


def _placed(need: Memory, config: RunConfig, gpu_gib: float) -> Memory:
    """Place the terms as the worker does: in order, on the device while it has room."""
    settings = config.engine
    share = settings.gpu_memory_utilization or UTILIZATION
    weights = need.weights or 0.0
    room = settings.memory_gb or share * gpu_gib - weights - ACTIVATIONS
    free = gpu_gib - (weights + ACTIVATIONS + room) - need.encoder_cache
    placement = {}
    for name, size in need.terms:
        on_device = settings.snapshot_device != "cpu" and (
            settings.snapshot_device == "device" or free > STAGING_ROOM * size
        )
        placement[name] = "device" if on_device else "pinned RAM"
        free -= size if on_device else 0.0
    largest = max((size for _, size in need.terms), default=0.0)
    beside = sum(size for _, size in need.terms) + (STAGING_ROOM - 1) * largest + need.encoder_cache
    best = math.floor(100 * (gpu_gib - beside) / gpu_gib) / 100
    fits = best * gpu_gib - weights - ACTIVATIONS >= need.answers(_ADVISED_SEQUENCES)
    advise = fits and "pinned RAM" in placement.values()
    return replace(
        need,
        gpu_gib=gpu_gib,
        kv_room=room,
        placement=placement,
        best_utilization=best if advise else None,
    )


def _engine_value_bytes(config: RunConfig, receiver: ModelFacts) -> int:
    """Return the bytes of a value in the engine."""
    if config.engine.dtype != "auto":
        return _ENGINE_BYTES[config.engine.dtype]
    for header in (receiver.headers or {}).values():
        if header.dtype == "F32":
            return 4
        if header.dtype in ("F16", "BF16"):
            return 2
    fields = receiver.config or {}
    return _ENGINE_BYTES.get(str(fields.get("dtype", fields.get("torch_dtype"))), 2)


def _weight_bytes(config: RunConfig, receiver: ModelFacts, sizes: GroupSizes) -> float | None:
    """Count the receiver's bytes in the engine; without headers, those of its language model."""
    size = _engine_value_bytes(config, receiver)
    if receiver.headers is not None:
        return float(size * sum(math.prod(h.shape) for h in receiver.headers.values()))
    return None if sizes.parameters is None else float(size * sum(sizes.parameters.values()))


def _term_bytes(config: RunConfig, spec: SpaceSpec, sizes: GroupSizes) -> dict[str, float]:
    """Count the bytes of the terms that the method keeps of all groups that a knob can move."""
    if sizes.parameters is None:
        return {}
    moved = {part for line in spec.knobs for part in line.parts}
    moved_groups = [group for group in sizes.groups if group.part in moved]
    method = method_of(spec.method, spec.start_parameters)
    bytes_by_term: dict[str, float] = {}
    for term in method.terms(tuple(config.donors)):
        value_bytes = {
            dtype: method.prepare(term, _Specimen(DTYPES[dtype])).element_size()
            for dtype in {group.dtype for group in moved_groups}
        }
        bytes_by_term[str(term)] = float(
            sum(sizes.parameters[g.name] * value_bytes[g.dtype] for g in moved_groups)
        )
    return bytes_by_term


@dataclass(frozen=True)
class _Specimen:
    """A tensor of a few values with its counterparts, to see in which dtype a method keeps it."""

    dtype: torch.dtype
    name: str = "specimen"
    layer: int | None = 0
    n_layers: int = 1
    part: Part = "mlp"
    same_layer_tensors: tuple[str, ...] = ("specimen",)

    def read(self, source: str, name: str | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(len(source) + sum(source.encode()))
        return torch.randn(4, 4, generator=generator).to(self.dtype)

    @property
    def memory(self) -> dict[Hashable, Any]:
        return {}

    def shared(self, key: Hashable, compute: Callable[[], T]) -> T:
        return compute()
