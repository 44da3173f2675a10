"""Low-rank deltas: only the top singular directions of every donor's task vector.

    d = U S V^T;   W = W_receiver + sum_k c_k s U_r S_r V_r^T

with the first r = `rank` directions (default 1); s is 1, or, with `rescale` (the default),
|d|_F / |U_r S_r V_r^T|_F, which gives back the delta's norm. Vectors (norms, biases) have one
direction and are taken whole. A decomposition costs minutes for a layer of 7 B parameters on one
core, once a run.

`rank` is a number of directions, as in the papers, and not a share of the full rank: the changes of
fine-tuning lie in few of them, whatever the matrix's size, and a matrix of a lower rank is whole.
Searched, it is a whole number between the space's bounds, the same in all groups. A matrix is then
decomposed once and its first `MIN_DIRECTIONS` directions are kept on the host, a few percent of the
delta; a candidate of another rank costs their product and its way through the model's loader. Where
higher ranks are asked for, matrices are decomposed again, at every doubling, and more is kept: 2 r
numbers of fp64 for each row and column. Bounds up to `MIN_DIRECTIONS` cost one decomposition.

Reference: arXiv:2602.19058 (masked low-rank deltas between LLM and VLM), arXiv:2510.14387; the
rescaled top direction is described for reinforcement-learned donors in an anonymous 2026 preprint
("Selective-RL").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

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
from mergefront.merging.methods.spectral import svd
from mergefront.models.exact_product import exact_product

MIN_DIRECTIONS: Final = 64
"""Directions that the first decomposition of a matrix leaves for other ranks."""


@dataclass(frozen=True)
class LowRankDeltas(DeltaMethod):
    """Terms are the receiver and each donor's delta of that rank."""

    name = "low_rank"
    rescale: bool = choice(True, False)
    rank: int = number(1, 1, 65_536)

    def terms(self, donors: Sequence[str]) -> tuple[Term, ...]:
        """The receiver, then the donors' truncated deltas in their order."""
        return (RECEIVER_TERM, *(Term("truncated", donor, self.rank) for donor in donors))

    def prepare(self, term: Term, slot: Slot) -> Tensor:
        """The source itself, or its delta in fp32, truncated to the rank of the term."""
        if term.kind != "truncated":
            return super().prepare(term, slot)
        return self._truncated(slot, term.source, term.rank)

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """One for the receiver, the coefficients for the truncated deltas."""
        weights = (1.0, *donor_coefficients(row, donors).values())
        return Mix.sum(dict(zip(self.terms(donors), weights, strict=True)))

    def _truncated(self, slot: Slot, donor: str, rank: int) -> Tensor:
        """A donor's truncated delta, made of remembered directions if they reach that far.

        Dimensions before the last two are a batch of matrices (the experts of a layer).
        """
        key = (slot.name, donor, self.anchor_of(donor))
        remembered: tuple[torch.Size, list[Directions]] | None = slot.memory.get(key)
        if remembered is not None and all(part.serves(rank) for part in remembered[1]):
            shape, parts = remembered
            return torch.stack([part.product(rank, self.rescale) for part in parts]).reshape(shape)
        whole = self.delta(slot, donor)
        if whole.dim() < 2:
            return whole
        number_kept = MIN_DIRECTIONS
        if remembered is not None:
            number_kept = max(number_kept, 1 << (rank - 1).bit_length())
        products, first_directions = [], []
        for matrix in whole.reshape(-1, *whole.shape[-2:]):
            directions = Directions.of(matrix)
            products.append(directions.product(rank, self.rescale))
            first_directions.append(directions.first(number_kept))
        slot.memory[key] = whole.shape, first_directions
        return torch.stack(products).reshape(whole.shape)


@dataclass(frozen=True)
class Directions:
    """The first R singular directions of a matrix (m, n) and all of its singular values, fp64."""

    u: Tensor
    values: Tensor
    vt: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Directions:
        """All directions."""
        return cls(*svd(matrix))

    def first(self, number: int) -> Directions:
        """A copy of at most so many, which lets go of the rest."""
        return Directions(self.u[:, :number].clone(), self.values, self.vt[:number].clone())

    def serves(self, rank: int) -> bool:
        """Whether the best approximation of that rank can be made of these."""
        return self.u.shape[1] >= min(rank, len(self.values))

    def product(self, rank: int, rescale: bool) -> Tensor:
        """The best approximation (m, n) of that rank in fp32, with the whole's norm or not."""
        s = self.values
        energy = float(s[:rank].square().sum())
        scale = (float(s.square().sum()) / energy) ** 0.5 if rescale and energy > 0.0 else 1.0
        return exact_product(self.u[:, :rank] * (s[:rank] * scale), self.vt[:rank]).float()
