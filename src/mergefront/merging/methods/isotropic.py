"""Isotropic merging (Iso-C): the donors' summed delta with all singular values made equal.

    sum_k d_k = U S V^T;   W = W_receiver + c mean(S) U V^T

The spectrum of the sum is flattened, so that no donor's strong directions drown the others'. The
sum is of all donors, unweighted, and there is one strength: in every group the donors must have
one coefficient (`donors: tied` in a space). Vectors (norms, biases) enter as c times the donors'
mean delta. A decomposition costs minutes a layer at 7 B on one core, once a run. Iso-CTS, the
published extension with task-specific subspaces, is not offered.

Reference: arXiv:2502.04959, section 4.1, equation 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mergefront.errors import ConfigError
from mergefront.merging.method import RECEIVER_TERM, Measures, Mix, Slot, Term, donor_coefficients
from mergefront.merging.methods.base import DeltaMethod
from mergefront.merging.methods.spectral import matmul, svd


class Isotropic(DeltaMethod):
    """Terms are the receiver and the flattened sum."""

    name = "isotropic"

    def terms(self, donors: Sequence[str]) -> tuple[Term, ...]:
        """The receiver and the flattened sum, which depends on all donors."""
        return (RECEIVER_TERM, Term("flattened", donors=tuple(donors)))

    def check_row(self, row: Mapping[str, float], donors: Sequence[str]) -> None:
        """Refuse donors of different coefficients."""
        super().check_row(row, donors)
        coefficients = donor_coefficients(row, donors)
        if len(set(coefficients.values())) > 1:
            listed = ", ".join(f"{donor} {value:g}" for donor, value in coefficients.items())
            raise ConfigError(
                f"method {self.name} has one strength for all donors of a group, found {listed}",
                hint="use `donors: tied` in the space, or tsv, which weighs donors one by one",
            )

    def prepare(self, term: Term, slot: Slot) -> Tensor:
        """The source itself, or the flattened sum in fp32."""
        if term.kind != "flattened":
            return super().prepare(term, slot)
        total = self.delta(slot, term.donors[0])
        for donor in term.donors[1:]:
            total.add_(self.delta(slot, donor))
        return flattened(total) if total.dim() > 1 else total.div_(len(term.donors))

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """One for the receiver, the donors' coefficient for the flattened sum."""
        c = next(iter(donor_coefficients(row, donors).values()), 0.0)
        return Mix.sum({RECEIVER_TERM: 1.0, Term("flattened", donors=tuple(donors)): c})


def flattened(total: Tensor) -> Tensor:
    """Return mean(S) U V^T in fp32; dimensions before the last two are a batch of matrices."""
    if total.dim() > 2:
        return torch.stack([flattened(matrix) for matrix in total])
    u, s, vt = svd(total)
    return (matmul(u, vt) * s.mean()).float()
