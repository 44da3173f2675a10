"""A tensor and its counterparts in every source: methods prepare and measure from these."""

from __future__ import annotations

from collections.abc import Callable, Hashable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor

from mergefront.models.sources import Sources
from mergefront.records import Part

T = TypeVar("T")
_SHARED: WeakKeyDictionary[Sources, dict[Hashable, Any]] = WeakKeyDictionary()


@dataclass(frozen=True)
class SourceSlot:
    """One of the receiver's mergeable tensors (see `method.Slot`).

    Unless `checked`, NaN and infinity pass: the caller then looks for them in the merged tensor.
    """

    sources: Sources
    name: str
    memory: MutableMapping[Hashable, Any] = field(default_factory=dict, repr=False)
    checked: bool = True

    @property
    def layer(self) -> int | None:
        """Language layer from 0; None for embedding, head and final norm."""
        return self.sources.anatomy.places[self.name].layer

    @property
    def n_layers(self) -> int:
        """Language layers of the receiver."""
        return self.sources.anatomy.n_layers

    @property
    def part(self) -> Part:
        """Part of the layer."""
        return self.sources.anatomy.places[self.name].part

    @property
    def same_layer_tensors(self) -> tuple[str, ...]:
        """Names of all mergeable tensors of the same layer, this one included."""
        if self.layer is None:
            return (self.name,)
        return tuple(
            name
            for group in self.sources.groups
            if group.layer == self.layer
            for name in group.tensors
        )

    def read(self, source: str, name: str | None = None) -> Tensor:
        """Return a source's tensor in its own dtype: of this slot, or `name` of the same layer."""
        return self.sources.tensor(source, name or self.name, checked=self.checked)

    def shared(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what `compute` returns, computed once as long as these sources are open."""
        values = _SHARED.setdefault(self.sources, {})
        if key not in values:
            values[key] = compute()
        value: T = values[key]
        return value
