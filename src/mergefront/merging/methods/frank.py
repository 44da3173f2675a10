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
from dataclasses import dataclass
from typing import Literal

from mergefront.merging.method import (
    RECEIVER_TERM,
    Measures,
    Mix,
    Slot,
    Term,
    choice,
    donor_coefficients,
    number,
)
from mergefront.merging.methods.base import DeltaMethod
from mergefront.merging.methods.gram import gram


@dataclass(frozen=True)
class Frank(DeltaMethod):
    """Measures the layer's squared norms."""

    name = "frank"
    anchor: Literal["own", "base", "receiver"] = choice("own", "base")
    decay: float = number(0.0, 0.0, 10.0)

    def terms(self, donors: Sequence[str]) -> tuple[Term, ...]:
        """The receiver, its delta, the donors' deltas in their order."""
        return super().terms(("receiver", *donors))

    def measure(self, slot: Slot, donors: Sequence[str]) -> Measures:
        """Squared norms of the layer's deltas by source, the layer, and the number of layers."""
        names = slot.same_layer_tensors

        def squares() -> dict[str, float]:
            return {
                source: math.fsum(self._square(slot, source, name) for name in names)
                for source in ("receiver", *donors)
            }

        key = (self.name, self.anchor, names)
        return {"squares": slot.shared(key, squares), "layer": slot.layer, "layers": slot.n_layers}

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """The receiver, corrected by its own delta, and the donors' deltas."""
        coefficients = donor_coefficients(row, donors)
        if not any(coefficients.values()):
            return Mix.sum({RECEIVER_TERM: 1.0})
        squares = measures["squares"]
        vision = self._vision_weight(measures["layer"], measures["layers"])
        donor_squares = math.fsum(squares[donor] for donor in donors)
        below = vision * squares["receiver"] + (1.0 - vision) * donor_squares
        if below == 0.0:
            return Mix.sum({RECEIVER_TERM: 1.0})
        mean = math.fsum(coefficients.values()) / len(coefficients)
        correction = mean * (vision * squares["receiver"] / below - 1.0)
        weights = {
            Term("delta", donor): c * (1.0 - vision) * squares[donor] / below
            for donor, c in coefficients.items()
        }
        return Mix.sum({RECEIVER_TERM: 1.0, Term("delta", "receiver"): correction, **weights})

    def _vision_weight(self, layer: int | None, n_layers: int) -> float:
        """w_V of a layer."""
        if layer is None:
            return 0.5
        a = self.decay
        return math.exp(-a * layer) / math.fsum(math.exp(-a * j) for j in range(n_layers))

    def _square(self, slot: Slot, source: str, name: str) -> float:
        """Squared norm of one tensor's delta."""
        base = slot.read(self.anchor_of(source), name).float()
        return float(gram([slot.read(source, name).float() - base])[0, 0])
