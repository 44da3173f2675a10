"""FRANK: closed-form coefficients from the layers' task vectors, vision first in shallow layers.

    W = W_base + L_V d_V + sum_k L_k d_k          with, in each layer,
    L_t = w_t |d_t|^2 / (w_V |d_V|^2 + w_R sum_k |d_k|^2)
    w_V = exp(-a l) / sum_j exp(-a j),  w_R = 1 - w_V

d_V is the receiver's task vector from the common base, d_k a donor's from its own; norms are over
all mergeable tensors of the layer l; a is the parameter `decay` (published: fitted to how fast
visual attention falls with depth; 0 is no preference between layers). Outside the layer stack
there is no depth, and both weights are one half.

Reading. The paper has one donor and no further strength. With several, each has the reasoning
weight. A donor's coefficient c scales its influence: L_k becomes c_k L_k, and L_V becomes
1 + c (L_V - 1) with c the donors' mean coefficient, so that c = 0 is the receiver and c = 1
the published merge.

Reference: arXiv:2505.16151, equations 13 and 15.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mergefront.merging.method import DELTA, Measures, Mix, Slot
from mergefront.merging.methods.base import DeltaMethod, anchor_of, coefficients
from mergefront.merging.methods.gram import gram


class Frank(DeltaMethod):
    """Measured are the layer's squared norms."""

    name = "frank"
    legal: ClassVar[Mapping[str, tuple[Any, ...]]] = {"anchor": ("own", "base")}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"decay": (0.0, 10.0)}
    searchable: ClassVar[Mapping[str, tuple[float, float]]] = ranges

    def terms(self, donors: Sequence[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """The receiver, its delta, the donors' deltas in their order."""
        receiver, *deltas = super().terms(donors, parameters)
        return (receiver, f"{DELTA}receiver", *deltas)

    def measure(self, slot: Slot, donors: Sequence[str], parameters: Mapping[str, Any]) -> Measures:
        """Squared norms of the layer's deltas by source, the layer, and how many there are."""
        names = slot.fellows

        def squares() -> dict[str, float]:
            return {
                source: math.fsum(_square(slot, source, name, parameters) for name in names)
                for source in ("receiver", *donors)
            }

        key = (self.name, parameters.get("anchor", "own"), names)
        return {"squares": slot.once(key, squares), "layer": slot.layer, "layers": slot.n_layers}

    def mix(
        self,
        row: Mapping[str, float],
        donors: Sequence[str],
        parameters: Mapping[str, Any],
        measures: Measures,
    ) -> Mix:
        """The receiver, corrected by its own delta, and the donors' deltas."""
        given = coefficients(row, donors)
        if not any(given.values()):
            return Mix.sum({"receiver": 1.0})
        squares = measures["squares"]
        vision = _vision_weight(measures["layer"], measures["layers"], parameters)
        others = math.fsum(squares[donor] for donor in donors)
        below = vision * squares["receiver"] + (1.0 - vision) * others
        if below == 0.0:
            return Mix.sum({"receiver": 1.0})
        mean = math.fsum(given.values()) / len(given)
        own = mean * (vision * squares["receiver"] / below - 1.0)
        weights = {
            DELTA + donor: c * (1.0 - vision) * squares[donor] / below for donor, c in given.items()
        }
        return Mix.sum({"receiver": 1.0, f"{DELTA}receiver": own, **weights})


def _vision_weight(layer: int | None, n_layers: int, parameters: Mapping[str, Any]) -> float:
    """w_V of a layer."""
    if layer is None:
        return 0.5
    a = float(parameters.get("decay", 0.0))
    return math.exp(-a * layer) / math.fsum(math.exp(-a * j) for j in range(n_layers))


def _square(slot: Slot, source: str, name: str, parameters: Mapping[str, Any]) -> float:
    """Squared norm of one tensor's delta."""
    base = slot.read(anchor_of(source, parameters), name).float()
    return float(gram([slot.read(source, name).float() - base])[0, 0])
