"""Arcee Fusion: only the elements that matter most move to the donor.

    I = |d| KL(softmax(W_donor) || softmax(W_receiver))      (KL over the last dimension)
    W = W_receiver + c d [I >= median(I) + 1.5 (Q3(I) - Q1(I))],   d = W_donor - W_receiver

The published rule has one donor and c = 1; several donors' moves add. The mask does not depend on
the coefficients, so that it is made once. Quartiles are of all elements, of each tensor; mergekit
samples a million of them at random where there are more. Needs no base.

Reference: published with mergekit by Arcee, without a paper ("arcee_fusion" in its documentation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from mergefront.merging.method import RECEIVER_TERM, Measures, Method, Mix, Slot, Term
from mergefront.merging.methods.base import sum_of_terms

_EPS: Final = 1e-8
_ROWS: Final = 1 << 20


class ArceeFusion(Method):
    """Terms are the receiver and each donor's masked difference."""

    name = "arcee_fusion"

    def terms(self, donors: Sequence[str]) -> tuple[Term, ...]:
        """The receiver, then the donors' masked differences in their order."""
        return (RECEIVER_TERM, *(Term("fused", donor) for donor in donors))

    def reads(self, term: Term) -> tuple[str, ...]:
        """A masked difference reads donor and receiver."""
        return (term.source, "receiver") if term.kind == "fused" else (term.source,)

    def copied_source(self, row: Mapping[str, float], donors: Sequence[str]) -> str | None:
        """None: the donor never comes whole."""
        return None

    def prepare(self, term: Term, slot: Slot) -> Tensor:
        """The source itself, or the masked difference in fp32."""
        if term.kind != "fused":
            return slot.read(term.source)
        donor, receiver = slot.read(term.source).float(), slot.read("receiver").float()
        scores = importance(donor, receiver)
        q1, median, q3 = quartiles(scores)
        return (donor - receiver).mul_(scores >= median + 1.5 * (q3 - q1))

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """One for the receiver, the coefficients for the masked differences."""
        return sum_of_terms("fused", row, donors)


def importance(donor: Tensor, receiver: Tensor) -> Tensor:
    """Return |donor - receiver| times the divergence of their rows' softmax, in fp32.

    Computed row by row in fp64, so that it does not depend on the number of threads.
    """
    width = donor.shape[-1] if donor.dim() else 1
    rows = donor.reshape(-1, width), receiver.reshape(-1, width)
    step = max(1, _ROWS // rows[0].shape[-1])
    divergence = []
    for start in range(0, len(rows[0]), step):
        p, q = (side[start : start + step].double().softmax(dim=-1) + _EPS for side in rows)
        divergence.append((p * (p / q).log()).sum(dim=-1, keepdim=True))
    scores = (rows[0] - rows[1]).abs_().mul_(torch.cat(divergence).float())
    return scores.reshape(donor.shape)


def quartiles(scores: Tensor) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile, each an element of `scores`."""
    flat = scores.reshape(-1).numpy()
    places = [int(q * (flat.size - 1)) for q in (0.25, 0.5, 0.75)]
    values = np.partition(flat, places)[places]
    return float(values[0]), float(values[1]), float(values[2])
