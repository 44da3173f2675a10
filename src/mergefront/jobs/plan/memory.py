"""What one engine needs of its GPUs and of host memory, and where it would put it.

The rules are those of the engine: vLLM takes its share of a GPU for weights, activations and KV
cache; the sources of a merge and the encoded images lie beside that share; a source that does not
fit waits in pinned host memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from mergefront.config import RunConfig
from mergefront.engine.prompts import MAX_CONTEXT
from mergefront.jobs.plan.backbone import Backbone
from mergefront.jobs.plan.cost import Stack
from mergefront.jobs.plan.facts import ModelFacts
from mergefront.merging.methods import METHODS, Method
from mergefront.models.safetensors import DTYPES
from mergefront.records import Part
from mergefront.space.file import SpaceSpec

T = TypeVar("T")

GIB: Final = float(1 << 30)
ACTIVATIONS: Final = 2.0
"""GiB that vLLM is assumed to need for activations and CUDA graphs of a model of 7-8 B."""
UTILIZATION: Final = 0.92
"""vLLM's share of a GPU where the configuration does not say."""
ROOM: Final = 1.25
"""The worker keeps a term on the device only if that leaves a quarter more than it needs."""

_ENGINE_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Memory:
    """GiB of one engine, on each of its GPUs; None where not known.

    `terms`: (name, GiB) of what the method holds beside the model. `kv_token_kib`: KV cache of a
    token. `placed`: term -> "device" or "pinned RAM", given the GPU's memory.
    """

    weights: float | None
    terms: tuple[tuple[str, float], ...]
    encoded: float
    kv_token_kib: float | None
    context: int
    gpus: int
    gpu_gib: float | None = None
    kv_room: float | None = None
    placed: Mapping[str, str] | None = None
    best_utilization: float | None = None

    @property
    def pinned(self) -> float:
        """GiB of pinned host memory, over all GPUs."""
        there = {} if self.placed is None else self.placed
        return self.gpus * sum(size for name, size in self.terms if there.get(name) != "device")


def local_gpu_gib() -> float | None:
    """Return the memory of this machine's first GPU in GiB; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    return float(torch.cuda.get_device_properties(0).total_memory) / GIB


def memory_of(
    config: RunConfig,
    spec: SpaceSpec,
    receiver: ModelFacts,
    stack: Stack,
    backbone: Backbone | None,
    gpu_gib: float | None,
) -> Memory:
    """What an engine needs, and where it would put it on GPUs of `gpu_gib` GiB each."""
    gpus = config.engine.tensor_parallel_size
    weights = _weights(config, receiver, stack)
    terms = tuple((name, size / gpus / GIB) for name, size in _terms(config, spec, stack).items())
    kv = None
    if backbone and backbone.layers and backbone.kv_heads and backbone.head_dim:
        each = 2 * backbone.layers * backbone.kv_heads * backbone.head_dim
        kv = each * _engine_size(config, receiver) / gpus / 1024
    context = context_of(config, backbone)
    need = Memory(
        None if weights is None else weights / gpus / GIB,
        terms, config.engine.encoder_cache_gb, kv, context, gpus,
    )  # fmt: skip
    return need if gpu_gib is None else _placed(need, config, gpu_gib)


def context_of(config: RunConfig, backbone: Backbone | None) -> int:
    """Longest prompt plus answer in tokens, as the engine would take it."""
    own = backbone.positions if backbone is not None else None
    return config.engine.max_model_len or min(MAX_CONTEXT, own or MAX_CONTEXT)


def _placed(need: Memory, config: RunConfig, gpu_gib: float) -> Memory:
    """Put the terms where the worker would: in order, on the device while it has room."""
    settings = config.engine
    share = settings.gpu_memory_utilization or UTILIZATION
    weights = need.weights or 0.0
    room = settings.memory_gb or share * gpu_gib - weights - ACTIVATIONS
    free = gpu_gib - (weights + ACTIVATIONS + room) - need.encoded
    placed = {}
    for name, size in need.terms:
        on_device = settings.snapshot_device != "cpu" and (
            settings.snapshot_device == "device" or free > ROOM * size
        )
        placed[name] = "device" if on_device else "pinned RAM"
        free -= size if on_device else 0.0
    largest = max((size for _, size in need.terms), default=0.0)
    wanted = sum(size for _, size in need.terms) + (ROOM - 1) * largest + need.encoded
    best = math.floor(100 * (gpu_gib - wanted) / gpu_gib) / 100
    fits = best * gpu_gib - weights - ACTIVATIONS >= _sequences(need, 16)
    return Memory(
        need.weights, need.terms, need.encoded, need.kv_token_kib, need.context, need.gpus,
        gpu_gib, room, placed, best if fits and "pinned RAM" in placed.values() else None,
    )  # fmt: skip


def _sequences(need: Memory, n: int) -> float:
    """GiB of KV cache for n answers of full length."""
    return n * need.context * (need.kv_token_kib or 0.0) / (1 << 20)


def one_sequence(need: Memory) -> float:
    """GiB of KV cache for one answer of full length."""
    return _sequences(need, 1)


def _engine_size(config: RunConfig, receiver: ModelFacts) -> int:
    """Bytes of a value in the engine."""
    if config.engine.dtype != "auto":
        return _ENGINE_BYTES[config.engine.dtype]
    for header in (receiver.headers or {}).values():
        if header.dtype == "F32":
            return 4
        if header.dtype in ("F16", "BF16"):
            return 2
    said = (receiver.config or {}).get("dtype", (receiver.config or {}).get("torch_dtype"))
    return _ENGINE_BYTES.get(str(said), 2)


def _weights(config: RunConfig, receiver: ModelFacts, stack: Stack) -> float | None:
    """Bytes of the receiver in the engine; of its language model alone without headers."""
    size = _engine_size(config, receiver)
    if receiver.headers is not None:
        return float(size * sum(math.prod(h.shape) for h in receiver.headers.values()))
    return None if stack.values is None else float(size * sum(stack.values.values()))


def _terms(config: RunConfig, spec: SpaceSpec, stack: Stack) -> dict[str, float]:
    """Bytes of the terms that the method keeps of all groups that a candidate may change."""
    if stack.values is None:
        return {}
    moved = {part for line in spec.knobs for part in line.parts}
    held = [group for group in stack.groups if group.part in moved]
    method = METHODS[spec.method]
    sizes: dict[str, float] = {}
    for term in method.terms(tuple(config.donors), spec.start_parameters):
        bytes_of = {
            dtype: _item_size(method, term, spec.start_parameters, DTYPES[dtype])
            for dtype in {group.dtype for group in held}
        }
        sizes[term] = float(sum(stack.values[g.name] * bytes_of[g.dtype] for g in held))
    return sizes


@dataclass(frozen=True)
class _Specimen:
    """A tensor of a few values with its counterparts: shows in which dtype a method keeps what."""

    dtype: torch.dtype
    name: str = "specimen"
    layer: int | None = 0
    n_layers: int = 1
    part: Part = "mlp"
    fellows: tuple[str, ...] = ("specimen",)

    def read(self, source: str, name: str | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(len(source) + sum(source.encode()))
        return torch.randn(4, 4, generator=generator).to(self.dtype)

    @property
    def kept(self) -> dict[Hashable, Any]:
        return {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        return make()


def _item_size(method: Method, term: str, parameters: Mapping[str, Any], dtype: torch.dtype) -> int:
    """Bytes of a value of a term, as the method itself prepares it of tensors of `dtype`."""
    return method.prepare(term, _Specimen(dtype), parameters).element_size()
