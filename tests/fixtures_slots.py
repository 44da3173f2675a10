"""A slot over plain tensors in memory, for trying methods without checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from mergefront.records import Part

T = TypeVar("T")


@dataclass(frozen=True)
class DictSlot:
    """`tensors`: source -> tensor; `others`: a fellow's name -> source -> tensor."""

    tensors: Mapping[str, Tensor]
    name: str = "model.layers.0.mlp.up_proj.weight"
    layer: int | None = 0
    n_layers: int = 1
    part: Part = "mlp"
    others: Mapping[str, Mapping[str, Tensor]] | None = None
    kept: MutableMapping[Hashable, Any] = field(default_factory=dict)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        return make()

    @property
    def fellows(self) -> tuple[str, ...]:
        return (self.name, *(self.others or {}))

    def read(self, source: str, name: str | None = None) -> Tensor:
        if name in (None, self.name):
            return self.tensors[source]
        assert self.others is not None
        return self.others[name][source]
