"""SCE: select where donors disagree, weigh them by energy, erase minority signs.

    S: t_k = d_k where Var_k(d_k) is among the largest `density` of the tensor, else 0
    C: w_k = sum t_k^2 / sum_i sum t_i^2                             (one number a tensor and donor)
    E: e_k(j) = 1 where sign t_k(j) is the sign of sum_i t_i(j), else 0
    W = W_receiver + sum_k c_k w_k e_k t_k / sum_k w_k e_k

d_k are the donors' deltas; the published merge is c_k = 1, with the receiver as pivot and as the
deltas' anchor. Selection, weights and signs are taken over all donors, whatever their
coefficients. Variances are trimmed by the table of `thresholds`, for any density. With a single
donor there is no variance to select by, and everything is kept (mergekit keeps nothing then); of
several, mergekit counts the selected share among nonzero variances only.

Reference: arXiv:2408.07990, section 3.3, equations 5 to 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from mergefront.merging.arithmetic import as_float32
from mergefront.merging.method import RECEIVER_TERM, Measures, Mix, Slot, donor_coefficients, number
from mergefront.merging.methods.base import DeltaMethod, difference
from mergefront.merging.methods.thresholds import CHUNK, GRID, step, table

_LEAST: Final = 1e-6


@dataclass(frozen=True)
class Sce(DeltaMethod):
    """Measures the variances' thresholds and the donors' energies above each of them."""

    name = "sce"
    density: float = number(1.0, 0.0, 1.0)

    def measure(self, slot: Slot, donors: Sequence[str]) -> Measures:
        """Thresholds of the variance by density, and energies (K x densities) above them."""
        pairs = [
            (slot.read(donor).reshape(-1), slot.read(self.anchor_of(donor)).reshape(-1))
            for donor in donors
        ]
        size = pairs[0][0].numel()
        spread = torch.empty(size)
        for start in range(0, size, CHUNK):
            at = slice(start, start + CHUNK)
            spread[at] = variance([difference(a[at], b[at]) for a, b in pairs])
        thresholds = table(spread, torch.zeros(()).expand(size))
        rising = thresholds[:0:-1].astype(np.float64)
        energy = np.zeros((len(pairs), GRID + 1))
        for start in range(0, size, CHUNK):
            at = slice(start, start + CHUNK)
            reached = np.searchsorted(rising, spread[at].numpy(), side="right")
            for k, (a, b) in enumerate(pairs):
                square = difference(a[at], b[at]).double().square_().numpy()
                energy[k] += np.bincount(GRID + 1 - reached, square, GRID + 2)[: GRID + 1]
        return {"thresholds": thresholds, "energy": np.cumsum(energy, axis=1)}

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """The receiver and all deltas."""
        coefficients = donor_coefficients(row, donors).values()
        density = step(self.density)
        if not any(coefficients) or density == 0:
            return Mix.sum({RECEIVER_TERM: 1.0})
        energy = measures["energy"][:, density]
        total = float(energy.sum())
        share = energy / total if total > 0.0 else np.full(len(donors), 1.0 / len(donors))
        scale = [as_float32(c) for c in coefficients]
        weights = [as_float32(w) for w in share]
        threshold = float(measures["thresholds"][density]) if density < GRID else 0.0

        def join(parts: Sequence[Tensor]) -> Tensor:
            receiver, *deltas = parts
            if threshold > 0.0:
                selected = variance(deltas).ge_(threshold)
                for delta in deltas:
                    delta.mul_(selected)
            side = _sum(deltas).ge_(0.0).mul_(2.0).sub_(1.0)  # the majority's: 1 or -1
            above, below = torch.zeros_like(receiver), torch.zeros_like(receiver)
            agreeing = torch.empty_like(receiver)
            for delta, c, w in zip(deltas, scale, weights, strict=True):
                torch.mul(delta, side, out=agreeing).gt_(0.0).mul_(w)
                below.add_(agreeing)
                above.add_(delta.mul_(agreeing).mul_(c))
            return receiver.add_(above.div_(below.clamp_(min=_LEAST)))

        return Mix(self.terms(donors), join=join)


def variance(deltas: Sequence[Tensor]) -> Tensor:
    """Return the elementwise variance of K tensors, the population's (their number K below).

    Multiplied by 1 / K, not divided by K: devices do not agree on how to divide by a number.
    """
    share = as_float32(1.0 / len(deltas))
    mean = _sum(deltas).mul_(share)
    total = torch.zeros_like(mean)
    work = torch.empty_like(mean)
    for delta in deltas:
        total.add_(torch.sub(delta, mean, out=work).square_())
    return total.mul_(share)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    """Sum in the given order."""
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total.add_(tensor)
    return total
