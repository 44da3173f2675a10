"""A slot over plain tensors in memory, for trying methods without checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from mergefront.merging.build import mixed_pieces
from mergefront.merging.method import Method, Slot
from mergefront.records import Part

T = TypeVar("T")


def merged(
    method: Method,
    slot: Slot,
    row: Mapping[str, float],
    donors: Sequence[str],
    dtype: torch.dtype,
) -> Tensor:
    """One tensor as `method` makes it at a row of coefficients, as the exporter does."""
    mix = method.mix(row, donors, method.measure(slot, donors))
    pieces = [piece.clone() for piece in mixed_pieces(method, slot, mix, dtype)]
    return torch.cat(pieces).reshape(slot.read("receiver").shape)


@dataclass(frozen=True)
class DictSlot:
    """`tensors`: source -> tensor; `others`: a fellow's name -> source -> tensor."""

    tensors: Mapping[str, Tensor]
    name: str = "model.layers.0.mlp.up_proj.weight"
    layer: int | None = 0
    n_layers: int = 1
    part: Part = "mlp"
    others: Mapping[str, Mapping[str, Tensor]] | None = None
    memory: MutableMapping[Hashable, Any] = field(default_factory=dict)

    def shared(self, key: Hashable, compute: Callable[[], T]) -> T:
        return compute()

    @property
    def same_layer_tensors(self) -> tuple[str, ...]:
        return (self.name, *(self.others or {}))

    def read(self, source: str, name: str | None = None) -> Tensor:
        if name in (None, self.name):
            return self.tensors[source]
        assert self.others is not None
        return self.others[name][source]
