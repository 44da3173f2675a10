"""Low-rank deltas: only the top singular directions of every donor's task vector.

    d = U S V^T;   W = W_receiver + sum_k c_k s U_r S_r V_r^T

with the first r = `rank` directions (default 1); s is 1, or, with `rescale` (the default),
|d|_F / |U_r S_r V_r^T|_F, which gives back the delta's norm. Vectors (norms, biases) have one
direction and are taken whole. A decomposition costs minutes for a layer of 7 B parameters on one
core, once a run.

Reference: arXiv:2602.19058 (masked low-rank deltas between LLM and VLM), arXiv:2510.14387; the
rescaled top direction is described for reinforcement-learned donors in an anonymous 2026 preprint
("Selective-RL").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from mergefront.lowrank import product

from .common import ANCHORS, DELTA, DeltaMethod, added, delta
from .method import Measures, Mix, Slot
from .sparse import check_integer
from .spectral import svd

TOP: Final = "top:"


class LowRankDeltas(DeltaMethod):
    """Terms are the receiver and each donor's truncated delta."""

    name = "low_rank"
    legal: ClassVar[Mapping[str, tuple[Any, ...]]] = {"anchor": ANCHORS, "rescale": (True, False)}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"rank": (1, 65_536)}

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Accept `anchor`, `rescale` and a whole number of directions (default 1)."""
        super().check(parameters)
        check_integer(self.name, "rank", parameters)

    def terms(self, donors: Sequence[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """The receiver, then the donors' truncated deltas in their order."""
        self.check(parameters)
        return ("receiver", *(TOP + donor for donor in donors))

    def prepare(self, term: str, slot: Slot, parameters: Mapping[str, Any]) -> Tensor:
        """The source itself, or its truncated delta in fp32."""
        if not term.startswith((TOP, DELTA)):
            return slot.read(term)
        whole = delta(slot, term.partition(":")[2], parameters)
        if term.startswith(DELTA) or whole.dim() < 2:
            return whole
        return truncated(
            whole, int(parameters.get("rank", 1)), bool(parameters.get("rescale", True))
        )

    def mix(
        self,
        row: Mapping[str, float],
        donors: Sequence[str],
        parameters: Mapping[str, Any],
        measures: Measures,
    ) -> Mix:
        """One for the receiver, the coefficients for the truncated deltas."""
        return added(TOP, row, donors)


def truncated(whole: Tensor, rank: int, rescale: bool) -> Tensor:
    """Return the best approximation of rank `rank`, rescaled to the norm of the whole or not.

    Dimensions before the last two are a batch of matrices (the experts of a layer).
    """
    if whole.dim() > 2:
        return torch.stack([truncated(one, rank, rescale) for one in whole])
    u, s, vt = svd(whole)
    kept = float(s[:rank].square().sum())
    scale = (float(s.square().sum()) / kept) ** 0.5 if rescale and kept > 0.0 else 1.0
    return product(u[:, :rank] * (s[:rank] * scale), vt[:rank]).float()
