"""TSV-Merge: every donor's top singular directions, made orthogonal to the other donors'.

    d_k = U_k S_k V_k^T, of which the first r = floor(rank / K) directions are kept
    U = [U_1 ... U_K], V likewise; U', V' the nearest matrices with orthonormal columns
    W = W_receiver + sum_k c_k U'_k S_k V'_k^T

for K donors and matrices of rank min(m, n). The published merge is one c for all. The result is
linear in the coefficients, since orthogonalisation does not depend on them: it costs a weighted
sum per candidate, once each matrix was decomposed (minutes a layer at 7 B on one core). All
donors take part in it, whatever their coefficients. Vectors (norms, biases) enter as
c_k d_k / K, their mean where all c_k are one.

Reference: arXiv:2412.00081, section 4.2 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mergefront.merging.method import RECEIVER_TERM, Measures, Mix, Slot, Term, donor_coefficients
from mergefront.merging.methods.base import DeltaMethod
from mergefront.merging.methods.spectral import matmul, orthogonalised, svd


class TaskSingularVectors(DeltaMethod):
    """Terms are the receiver and each donor's share of the orthogonalised sum."""

    name = "tsv"

    def terms(self, donors: Sequence[str]) -> tuple[Term, ...]:
        """The receiver, then the donors' shares, each of which depends on all donors."""
        return (RECEIVER_TERM, *(Term("share", donor, donors=tuple(donors)) for donor in donors))

    def prepare(self, term: Term, slot: Slot) -> Tensor:
        """The source itself, or a donor's share in fp32."""
        if term.kind != "share":
            return super().prepare(term, slot)
        deltas = [self.delta(slot, donor) for donor in term.donors]
        return shares(deltas)[term.donors.index(term.source)]

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """One for the receiver, the coefficients for the shares."""
        weights = (1.0, *donor_coefficients(row, donors).values())
        return Mix.sum(dict(zip(self.terms(donors), weights, strict=True)))


def shares(deltas: Sequence[Tensor]) -> list[Tensor]:
    """Return each donor's share U'_k S_k V'_k^T of K deltas of one shape, in fp32."""
    first = deltas[0]
    if first.dim() < 2:
        return [delta / len(deltas) for delta in deltas]
    if first.dim() > 2:
        batches = [shares(matrices) for matrices in zip(*deltas, strict=True)]
        return [torch.stack(matrices) for matrices in zip(*batches, strict=True)]
    rank = max(1, min(first.shape) // len(deltas))
    parts = [svd(delta) for delta in deltas]
    u_all = orthogonalised(torch.cat([u[:, :rank] for u, _, _ in parts], dim=1))
    v_all = orthogonalised(torch.cat([vt[:rank] for _, _, vt in parts], dim=0).T)
    products = []
    for k, (_, s, _) in enumerate(parts):
        at = slice(k * rank, (k + 1) * rank)
        products.append(matmul(u_all[:, at] * s[:rank], v_all[:, at].T).float())
    return products
