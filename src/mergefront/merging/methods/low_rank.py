"""Low-rank deltas: only the top singular directions of every donor's task vector.

    d = U S V^T;   W = W_receiver + sum_k c_k s U_r S_r V_r^T

with the first r = `rank` directions (default 1); s is 1, or, with `rescale` (the default),
|d|_F / |U_r S_r V_r^T|_F, which gives back the delta's norm. Vectors (norms, biases) have one
direction and are taken whole. A decomposition costs minutes for a layer of 7 B parameters on one
core, once a run.

`rank` is a number of directions, as in the papers, and not a share of the full rank: the changes of
fine-tuning lie in few of them, whatever the matrix's size, and a matrix of a lower rank is whole.
Searched, it is a whole number between the space's bounds, the same in all groups. A matrix is then
decomposed once and its first `KEPT` directions are kept on the host, a few percent of the
delta; a candidate of another rank costs their product and its way through the model's loader. Where
higher ranks are asked for, matrices are decomposed again, at every doubling, and more is kept: 2 r
numbers of fp64 for each row and column. Bounds up to `KEPT` cost one decomposition.

Reference: arXiv:2602.19058 (masked low-rank deltas between LLM and VLM), arXiv:2510.14387; the
rescaled top direction is described for reinforcement-learned donors in an anonymous 2026 preprint
("Selective-RL").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from mergefront.merging.method import Measures, Mix, Slot
from mergefront.merging.methods.base import ANCHORS, DeltaMethod, added, anchor_of, delta
from mergefront.merging.methods.spectral import svd
from mergefront.models.exact_product import exact_product

TOP: Final = "top:"
KEPT: Final = 64
"""Directions that a first decomposition leaves for other ranks."""


class LowRankDeltas(DeltaMethod):
    """Terms are the receiver and each donor's delta of that rank, "top:<rank>:<donor>"."""

    name = "low_rank"
    legal: ClassVar[Mapping[str, tuple[Any, ...]]] = {"anchor": ANCHORS, "rescale": (True, False)}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"rank": (1, 65_536)}
    searchable: ClassVar[Mapping[str, tuple[float, float]]] = ranges
    whole = ("rank",)

    def terms(self, donors: Sequence[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """The receiver, then the donors' truncated deltas in their order."""
        self.check(parameters)
        return ("receiver", *(_prefix(parameters) + donor for donor in donors))

    def lasting(self, term: str) -> bool:
        """All but the truncated deltas: those of another rank are other terms."""
        return not term.startswith(TOP)

    def prepare(self, term: str, slot: Slot, parameters: Mapping[str, Any]) -> Tensor:
        """The source itself, or its delta in fp32, truncated to the rank that the term names."""
        if not term.startswith(TOP):
            return super().prepare(term, slot, parameters)
        rank, donor = term.removeprefix(TOP).split(":", 1)
        rescale = bool(parameters.get("rescale", True))
        return _truncated(slot, donor, int(rank), rescale, parameters)

    def mix(
        self,
        row: Mapping[str, float],
        donors: Sequence[str],
        parameters: Mapping[str, Any],
        measures: Measures,
    ) -> Mix:
        """One for the receiver, the coefficients for the truncated deltas."""
        return added(_prefix(parameters), row, donors)


@dataclass(frozen=True)
class Directions:
    """The first R singular directions of a matrix (m, n) and all of its singular values, fp64."""

    left: Tensor
    values: Tensor
    right: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Directions:
        """All directions."""
        return cls(*svd(matrix))

    def first(self, number: int) -> Directions:
        """A copy of at most so many, which lets go of the rest."""
        return Directions(self.left[:, :number].clone(), self.values, self.right[:number].clone())

    def serves(self, rank: int) -> bool:
        """Whether the best approximation of that rank can be made of these."""
        return self.left.shape[1] >= min(rank, len(self.values))

    def product(self, rank: int, rescale: bool) -> Tensor:
        """The best approximation (m, n) of that rank in fp32, with the whole's norm or not."""
        s = self.values
        kept = float(s[:rank].square().sum())
        scale = (float(s.square().sum()) / kept) ** 0.5 if rescale and kept > 0.0 else 1.0
        return exact_product(self.left[:, :rank] * (s[:rank] * scale), self.right[:rank]).float()


def _prefix(parameters: Mapping[str, Any]) -> str:
    return f"{TOP}{int(parameters.get('rank', 1))}:"


def _truncated(
    slot: Slot, donor: str, rank: int, rescale: bool, parameters: Mapping[str, Any]
) -> Tensor:
    """A donor's truncated delta, of kept directions if they reach that far.

    Dimensions before the last two are a batch of matrices (the experts of a layer).
    """
    key = (slot.name, donor, anchor_of(donor, parameters))
    known: tuple[torch.Size, list[Directions]] | None = slot.kept.get(key)
    if known is None or not all(one.serves(rank) for one in known[1]):
        whole = delta(slot, donor, parameters)
        if whole.dim() < 2:
            return whole
        keep = KEPT if known is None else max(KEPT, 1 << (rank - 1).bit_length())
        made, kept = [], []
        for matrix in whole.reshape(-1, *whole.shape[-2:]):
            found = Directions.of(matrix)
            made.append(found.product(rank, rescale))
            kept.append(found.first(keep))
        slot.kept[key] = whole.shape, kept
        return torch.stack(made).reshape(whole.shape)
    shape, parts = known
    return torch.stack([one.product(rank, rescale) for one in parts]).reshape(shape)
