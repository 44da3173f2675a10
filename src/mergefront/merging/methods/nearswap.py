"""NearSwap: every weight moves towards the donor by at most t.

    W = W_receiver + sum_k sign(d_k) min(|d_k|, t_k),   d_k = W_donor_k - W_receiver

t_k, in the units of the weights, is the donor's coefficient: where a donor's weight is nearer than
that, it replaces the receiver's. This is the published weight min(1, t / |d|) written without the
division; several donors' moves add. t = 0 is the receiver; useful values are 1e-5 to 1e-3.

Reference: published with the model alchemonaut/QuartetAnemoi-70B-t0.0001, without a paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from mergefront.errors import ConfigError
from mergefront.merging.arithmetic import as_float32
from mergefront.merging.method import RECEIVER_TERM, Measures, Method, Mix, Term, donor_coefficients


class NearSwap(Method):
    """Terms are the sources; the join clips differences."""

    name = "nearswap"

    def check_row(self, row: Mapping[str, float], donors: Sequence[str]) -> None:
        """Refuse negative distances."""
        super().check_row(row, donors)
        for donor, t in donor_coefficients(row, donors).items():
            if t < 0.0:
                raise ConfigError(
                    f"method {self.name}: donor {donor!r} has coefficient {t}, which is a distance "
                    "and cannot be negative",
                    hint="useful values are 1e-5 to 1e-3",
                )

    def copied_source(self, row: Mapping[str, float], donors: Sequence[str]) -> str | None:
        """None: a coefficient of one is a distance, not a weight."""
        return None

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """The receiver and the donors that may move it."""
        limits = {donor: as_float32(t) for donor, t in donor_coefficients(row, donors).items() if t}
        if not limits:
            return Mix.sum({RECEIVER_TERM: 1.0})

        def join(parts: Sequence[Tensor]) -> Tensor:
            receiver, *donor_parts = parts
            moves = [
                part.sub_(receiver).clamp_(-t, t)
                for part, t in zip(donor_parts, limits.values(), strict=True)
            ]
            for move in moves:
                receiver.add_(move)
            return receiver

        return Mix((RECEIVER_TERM, *(Term("source", donor) for donor in limits)), join=join)
