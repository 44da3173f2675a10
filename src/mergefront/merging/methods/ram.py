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
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from mergefront.merging.arithmetic import as_float32
from mergefront.merging.method import RECEIVER_TERM, Measures, Mix, Slot, donor_coefficients, number
from mergefront.merging.methods.base import DeltaMethod

_EPSILON: Final = 1e-5


@dataclass(frozen=True)
class Ram(DeltaMethod):
    """The join counts donors element by element."""

    name = "ram"
    epsilon: float = number(_EPSILON, 0.0, 1.0)

    def unique_factor(self, donor: str, measures: Measures) -> float:
        """Return the factor of elements that only this donor changed."""
        return 1.0

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """The receiver and all deltas."""
        coefficients = donor_coefficients(row, donors).values()
        if not any(coefficients):
            return Mix.sum({RECEIVER_TERM: 1.0})
        epsilon = as_float32(self.epsilon)
        scale = [as_float32(c) for c in coefficients]
        unique = [as_float32(self.unique_factor(donor, measures)) for donor in donors]
        rescaled = any(factor != 1.0 for factor in unique)

        def join(parts: Sequence[Tensor]) -> Tensor:
            receiver, *deltas = parts
            n, work = torch.zeros_like(receiver), torch.empty_like(receiver)
            for delta in deltas:
                torch.hardshrink(delta, epsilon, out=delta)  # 0 where |d| <= epsilon
                n.add_(torch.ne(delta, 0.0, out=work))
            only = torch.eq(n, 1.0, out=torch.empty_like(n)) if rescaled else None
            share = n.clamp_(min=1.0).reciprocal_()
            if only is not None:
                share.sub_(only)  # 0 where a single donor changed the element
            for delta, c, unique_factor in zip(deltas, scale, unique, strict=True):
                factor = share
                if only is not None:
                    factor = torch.mul(only, unique_factor, out=work).add_(share)
                receiver.add_(delta.mul_(factor).mul_(c))
            return receiver

        return Mix(self.terms(donors), join=join)


@dataclass(frozen=True)
class RamPlus(Ram):
    """RAM with what one donor changed alone scaled up; measures its ratios rho."""

    name = "ram_plus"
    epsilon: float = number(_EPSILON, 0.0, 1.0, searchable=False)
    r: float = number(0.1, 0.0, 10.0)
    alpha: float = number(0.2, 0.0, 10.0)

    def measure(self, slot: Slot, donors: Sequence[str]) -> Measures:
        """Donor -> rho."""
        epsilon = as_float32(self.epsilon)
        changed = [self.delta(slot, donor).abs_() > epsilon for donor in donors]
        n = torch.stack(changed).sum(dim=0)
        ratios = {}
        for donor, mask in zip(donors, changed, strict=True):
            shared, unique = int((mask & (n > 1)).sum()), int((mask & (n == 1)).sum())
            ratios[donor] = shared / max(unique, _EPSILON)
        return ratios

    def unique_factor(self, donor: str, measures: Measures) -> float:
        """1 + r min(rho, alpha)."""
        return 1.0 + self.r * min(float(measures[donor]), self.alpha)
