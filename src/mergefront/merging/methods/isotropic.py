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
from typing import Any, Final

import torch
from torch import Tensor

from mergefront.errors import ConfigError
from mergefront.merging.method import DELTA, Measures, Mix, Slot
from mergefront.merging.methods.base import DeltaMethod, coefficients, delta
from mergefront.merging.methods.spectral import matmul, svd

ISO: Final = "iso:"


class Isotropic(DeltaMethod):
    """Terms are the receiver and the flattened sum."""

    name = "isotropic"

    def terms(self, donors: Sequence[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """The receiver and the flattened sum, which names its donors."""
        self.check(parameters)
        return ("receiver", ISO + ",".join(donors))

    def reads(self, term: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """The sum reads all donors and their anchors."""
        if not term.startswith(ISO):
            return super().reads(term, parameters)
        donors = term.removeprefix(ISO).split(",")
        read = super().reads
        found = [source for one in donors for source in read(DELTA + one, parameters)]
        return tuple(dict.fromkeys(found))

    def check_row(
        self, row: Mapping[str, float], donors: Sequence[str], parameters: Mapping[str, Any]
    ) -> None:
        """Refuse donors of different coefficients."""
        super().check_row(row, donors, parameters)
        given = coefficients(row, donors)
        if len(set(given.values())) > 1:
            said = ", ".join(f"{donor} {value:g}" for donor, value in given.items())
            raise ConfigError(
                f"method {self.name} has one strength for all donors of a group, found {said}",
                hint="use `donors: tied` in the space, or tsv, which weighs donors one by one",
            )

    def prepare(self, term: str, slot: Slot, parameters: Mapping[str, Any]) -> Tensor:
        """The source itself, or the flattened sum in fp32."""
        if not term.startswith(ISO):
            return super().prepare(term, slot, parameters)
        donors = term.removeprefix(ISO).split(",")
        total = delta(slot, donors[0], parameters)
        for donor in donors[1:]:
            total.add_(delta(slot, donor, parameters))
        return flattened(total) if total.dim() > 1 else total.div_(len(donors))

    def mix(
        self,
        row: Mapping[str, float],
        donors: Sequence[str],
        parameters: Mapping[str, Any],
        measures: Measures,
    ) -> Mix:
        """One for the receiver, the donors' coefficient for the flattened sum."""
        c = next(iter(coefficients(row, donors).values()), 0.0)
        return Mix.sum({"receiver": 1.0, ISO + ",".join(donors): c})


def flattened(total: Tensor) -> Tensor:
    """Return mean(S) U V^T in fp32; dimensions before the last two are a batch of matrices."""
    if total.dim() > 2:
        return torch.stack([flattened(one) for one in total])
    u, s, vt = svd(total)
    return (matmul(u, vt) * s.mean()).float()
