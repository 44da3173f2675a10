"""RAM and RAM+: what only one donor changed is kept whole, what several changed is averaged.

    W = W_receiver + sum_k c_k s_k(j) d_k(j),   over donors with |d_k(j)| > epsilon

for element j: s_k = 1 / n(j) where n(j) > 1 donors changed it; where one did, s_k = 1 in RAM, and
in its rescaled variant RAM+

    s_k = 1 + r clamp(rho_k, 0, alpha),  rho_k = shared_k / unique_k

with the tensor's counts of elements that donor k changed with others and alone. The published
merges are c_k = 1. Counts are taken over all donors, whatever their coefficients: setting one to
zero leaves the others where they are. `epsilon` is not searchable in RAM+, for its counts depend
on it. RAM+ is tensor-local, as in mergekit: the published counts are over the whole model.

Reference: arXiv:2601.13572.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mergefront.merging.arithmetic import as_float32
from mergefront.merging.method import DELTA, Measures, Mix, Slot
from mergefront.merging.methods.base import ANCHORS, DeltaMethod, coefficients, delta

_RANGE = (0.0, 1.0)
_EPSILON = 1e-5


class Ram(DeltaMethod):
    """The join counts donors element by element."""

    name = "ram"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"epsilon": _RANGE}
    searchable: ClassVar[Mapping[str, tuple[float, float]]] = ranges

    def alone(self, donor: str, parameters: Mapping[str, Any], measures: Measures) -> float:
        """The factor of elements that only this donor changed."""
        return 1.0

    def mix(
        self,
        row: Mapping[str, float],
        donors: Sequence[str],
        parameters: Mapping[str, Any],
        measures: Measures,
    ) -> Mix:
        """The receiver and all deltas."""
        given = coefficients(row, donors)
        if not any(given.values()):
            return Mix.sum({"receiver": 1.0})
        epsilon = as_float32(float(parameters.get("epsilon", _EPSILON)))
        scale = [as_float32(c) for c in given.values()]
        alone = [as_float32(self.alone(donor, parameters, measures)) for donor in donors]
        rescaled = any(own != 1.0 for own in alone)

        def join(parts: Sequence[Tensor]) -> Tensor:
            receiver, *deltas = parts
            n, work = torch.zeros_like(receiver), torch.empty_like(receiver)
            for one in deltas:
                torch.hardshrink(one, epsilon, out=one)  # 0 where |d| <= epsilon
                n.add_(torch.ne(one, 0.0, out=work))
            only = torch.eq(n, 1.0, out=torch.empty_like(n)) if rescaled else None
            share = n.clamp_(min=1.0).reciprocal_()
            if only is not None:
                share.sub_(only)  # 0 where one donor is alone
            for one, c, own in zip(deltas, scale, alone, strict=True):
                factor = share
                if only is not None:
                    factor = torch.mul(only, own, out=work).add_(share)
                receiver.add_(one.mul_(factor).mul_(c))
            return receiver

        return Mix(("receiver", *(DELTA + donor for donor in donors)), join=join)


class RamPlus(Ram):
    """RAM with what one donor changed alone scaled up; measured are its ratios rho."""

    name = "ram_plus"
    legal: ClassVar[Mapping[str, tuple[Any, ...]]] = {"anchor": ANCHORS}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "epsilon": _RANGE,
        "r": (0.0, 10.0),
        "alpha": (0.0, 10.0),
    }
    searchable: ClassVar[Mapping[str, tuple[float, float]]] = {
        "r": (0.0, 10.0),
        "alpha": (0.0, 10.0),
    }

    def measure(self, slot: Slot, donors: Sequence[str], parameters: Mapping[str, Any]) -> Measures:
        """Donor -> rho."""
        epsilon = as_float32(float(parameters.get("epsilon", _EPSILON)))
        changed = [delta(slot, donor, parameters).abs_() > epsilon for donor in donors]
        n = torch.stack(changed).sum(dim=0)
        found = {}
        for donor, mask in zip(donors, changed, strict=True):
            shared, unique = int((mask & (n > 1)).sum()), int((mask & (n == 1)).sum())
            found[donor] = shared / max(unique, _EPSILON)
        return found

    def alone(self, donor: str, parameters: Mapping[str, Any], measures: Measures) -> float:
        """1 + r min(rho, alpha)."""
        r, alpha = float(parameters.get("r", 0.1)), float(parameters.get("alpha", 0.2))
        return 1.0 + r * min(float(measures[donor]), alpha)
