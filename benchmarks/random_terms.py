"""Random sources of a small tensor, and random terms of a whole model's shapes.

Times do not depend on what the numbers are, so that terms of a large model need no sources: they
are drawn at random, of the dtypes that a method prepares for a small tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from mergefront.errors import ConfigError
from mergefront.merging.method import Method, Mix, Term

T = TypeVar("T")
SIZES = {  # hidden, intermediate, layers, heads, key-value heads
    "tiny": (64, 160, 2, 4, 2),
    "2b": (1536, 8960, 28, 12, 2),
    "7b": (3584, 18944, 28, 28, 4),
}
DONORS = ("first", "second")
ROWS: tuple[Mapping[str, float], ...] = (
    {"first": 0.3, "second": 0.2},
    {"first": 0.3, "second": 0.3},  # methods of one strength for all
    {"first": 0.3, "second": 0.0},  # methods of one donor
)


@dataclass(frozen=True)
class Small:
    """A small tensor with its counterparts in all sources (see `merging.method.Slot`)."""

    tensors: Mapping[str, Tensor]
    name: str = "model.layers.20.mlp.up_proj.weight"
    layer: int | None = 20
    n_layers: int = 28
    part: Any = "mlp"
    same_layer_tensors: tuple[str, ...] = ("model.layers.20.mlp.up_proj.weight",)

    @classmethod
    def random(cls, shape: tuple[int, ...], dtype: torch.dtype) -> Small:
        """Sources around a base; some entries are zero, equal in all, or subnormal in fp32."""
        generator = torch.Generator().manual_seed(0)

        def near(scale: float) -> Tensor:
            return torch.randn(shape, generator=generator) * scale

        base = near(0.05)
        named = {"base": base, "receiver": base + near(0.01)}
        for alias in DONORS:
            named |= {alias: base + near(0.01), f"base:{alias}": base}
        for tensor in named.values():
            flat = tensor.view(-1)
            flat[:100], flat[100:200] = 0.0, base.view(-1)[100:200]
            flat[200:300] = 1e-39 * torch.randn(100, generator=generator)
        return cls({name: tensor.to(dtype) for name, tensor in named.items()})

    def read(self, source: str, name: str | None = None) -> Tensor:
        return self.tensors[source]

    @property
    def memory(self) -> dict[Hashable, Any]:
        return {}

    def shared(self, key: Hashable, compute: Callable[[], T]) -> T:
        return compute()


def row_of(method: Method, small: Small) -> Mapping[str, float]:
    """The first row of coefficients that the method takes."""
    problems = []
    for row in [{"first": 1e-3, "second": 1e-3}] if method.name == "nearswap" else ROWS:
        try:
            method.check_row(row, DONORS)
            method.mix(row, DONORS, method.measure(small, DONORS))
        except ConfigError as problem:
            problems.append(str(problem))
        else:
            return row
    raise SystemExit(f"method {method.name} takes none of the rows: {problems}")


def mix_of(method: Method, small: Small) -> Mix:
    """The method's mix at the row that `row_of` finds."""
    return method.mix(row_of(method, small), DONORS, method.measure(small, DONORS))


def layer_shapes(size: str) -> tuple[list[torch.Size], int]:
    """The shapes of one layer's tensors in a Qwen2 language model, and how many layers it has."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    hidden, intermediate, layers, heads, groups = SIZES[size]
    config = Qwen2Config(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=1,
        num_attention_heads=heads, num_key_value_heads=groups, vocab_size=64,
    )  # fmt: skip
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    named = model.named_parameters()
    return [tensor.shape for name, tensor in named if ".layers.0." in name], layers


@dataclass(frozen=True)
class Pool:
    """Terms and outputs of some layers' tensors, made at need and used by all methods."""

    device: str
    shapes: Sequence[torch.Size]
    layers: int
    n_distinct: int
    held: dict[tuple[Hashable, ...], Tensor]

    def jobs(self, terms: Mapping[Term, torch.dtype]) -> list[tuple[list[Tensor], Tensor]]:
        """For every tensor of the model: its terms, and where the result goes."""
        found = []
        for layer in range(self.layers):
            for place, shape in enumerate(self.shapes):
                at = (layer % self.n_distinct, place)
                tensors = [self._one((*at, t), shape, dtype) for t, dtype in self.kinds(terms)]
                found.append((tensors, self._one((*at, "out"), shape, torch.bfloat16)))
        return found

    @staticmethod
    def kinds(terms: Mapping[Term, torch.dtype]) -> Iterator[tuple[Hashable, torch.dtype]]:
        """What may be shared between methods: terms of one dtype, counted."""
        seen: dict[torch.dtype, int] = {}
        for dtype in terms.values():
            seen[dtype] = seen.get(dtype, 0) + 1
            yield (dtype, seen[dtype]), dtype

    def _one(self, key: tuple[Hashable, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        if key not in self.held:
            if dtype.is_floating_point:
                made = torch.randn(shape, device=self.device).mul_(0.01).to(dtype)
            else:
                made = torch.randint(0, 1 << 15, shape, device=self.device, dtype=dtype)
            self.held[key] = made
        return self.held[key]
