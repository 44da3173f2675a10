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
from typing import Any, Final

import torch
from torch import Tensor

from mergefront.merging.method import DELTA, Measures, Mix, Slot
from mergefront.merging.methods.base import DeltaMethod, coefficients, delta
from mergefront.merging.methods.spectral import matmul, orthogonalised, svd

OWN: Final = "own:"


class TaskSingularVectors(DeltaMethod):
    """Terms are the receiver and each donor's share of the orthogonalised sum."""

    name = "tsv"

    def terms(self, donors: Sequence[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """The receiver, then the donors' shares; a term names all donors, on whom it depends."""
        self.check(parameters)
        return ("receiver", *_terms(donors))

    def reads(self, term: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """A share reads all donors and their anchors."""
        if not term.startswith(OWN):
            return super().reads(term, parameters)
        _, donors = _parsed(term)
        read = super().reads
        found = [source for one in donors for source in read(DELTA + one, parameters)]
        return tuple(dict.fromkeys(found))

    def prepare(self, term: str, slot: Slot, parameters: Mapping[str, Any]) -> Tensor:
        """The source itself, or a donor's share in fp32."""
        if not term.startswith(OWN):
            return super().prepare(term, slot, parameters)
        donor, donors = _parsed(term)
        deltas = [delta(slot, one, parameters) for one in donors]
        return shares(deltas)[donors.index(donor)]

    def mix(
        self,
        row: Mapping[str, float],
        donors: Sequence[str],
        parameters: Mapping[str, Any],
        measures: Measures,
    ) -> Mix:
        """One for the receiver, the coefficients for the shares."""
        given = coefficients(row, donors)
        weights = dict(zip(_terms(donors), given.values(), strict=True))
        return Mix.sum({"receiver": 1.0, **weights})


def shares(deltas: Sequence[Tensor]) -> list[Tensor]:
    """Return each donor's share U'_k S_k V'_k^T of K deltas of one shape, in fp32."""
    first = deltas[0]
    if first.dim() < 2:
        return [one / len(deltas) for one in deltas]
    if first.dim() > 2:
        each = [shares(matrices) for matrices in zip(*deltas, strict=True)]
        return [torch.stack(own) for own in zip(*each, strict=True)]
    rank = max(1, min(first.shape) // len(deltas))
    parts = [svd(one) for one in deltas]
    left = orthogonalised(torch.cat([u[:, :rank] for u, _, _ in parts], dim=1))
    right = orthogonalised(torch.cat([vt[:rank] for _, _, vt in parts], dim=0).T)
    made = []
    for k, (_, s, _) in enumerate(parts):
        at = slice(k * rank, (k + 1) * rank)
        made.append(matmul(left[:, at] * s[:rank], right[:, at].T).float())
    return made


def _terms(donors: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{OWN}{donor}/{','.join(donors)}" for donor in donors)


def _parsed(term: str) -> tuple[str, list[str]]:
    donor, _, donors = term.removeprefix(OWN).partition("/")
    return donor, donors.split(",")
