"""A tensor with its counterparts in every source: what methods prepare and measure from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor

from mergefront.models.sources import Sources
from mergefront.records import Part

T = TypeVar("T")
_MEMORY: WeakKeyDictionary[Sources, dict[Hashable, Any]] = WeakKeyDictionary()


@dataclass(frozen=True)
class SourceSlot:
    """One of the receiver's mergeable tensors (see `method.Slot`).

    Not `checked`, NaN and infinity pass: for who finds them in the result.
    """

    sources: Sources
    name: str
    kept: MutableMapping[Hashable, Any] = field(default_factory=dict, repr=False)
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
    def fellows(self) -> tuple[str, ...]:
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
        """A source's tensor in its own dtype: this one's counterpart, or that of a fellow."""
        return self.sources.tensor(source, name or self.name, checked=self.checked)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns, computed once as long as these sources are open."""
        known = _MEMORY.setdefault(self.sources, {})
        if key not in known:
            known[key] = make()
        found: T = known[key]
        return found
