"""The founding paper's own variants, as its code computes them: for reproducing its Table 5.

The paper merges tau_vlm and tau_reason on their base, with coefficients a1 (here the "receiver"
row, default 1) and a2 (the donor's), density 0.2:

- paper_dare_linear  W = W_base + a1 m1 tau_1 + a2 m2 tau_2: DARE without its rescaling (in the
  code the division's result is discarded);
- paper_ties         trim; elect s = sign(tau_1 + tau_2) before the coefficients come in, + where
  that is 0; W = W_base + (sum over those that agree of a_k tau_k) / (their number): TIES in PEFT's
  form, so that a1 + a2 need not be 1 and an entry on which both agree is halved;
- paper_dare_ties    the same with DARE's masks, not rescaled, instead of trimming;
- paper_layer_swap   layers 0 to `base_layer_num` (default 5, that layer included: six layers) stay
  the VLM's, all else that is merged, final norm included, is linear with a2 = 1 - a1 = 0.1.

Reference: arXiv:2505.05464, Table 5, and its repository's merge.py and merge_utils.py at commit
a42fa38. Differences: fp32 arithmetic and one rounding where that code computes in fp16; masks from
a seed; trimming as `thresholds` resolves it. All donors at 0 and a1 = 1 is the receiver, untouched.
For the methods as published use `dare_linear`, `ties`, `dare_ties` and `layer_swap`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from mergefront.merging.method import RECEIVER_TERM, Measures, Mix, Slot, number
from mergefront.merging.methods.dare import DareLinear
from mergefront.merging.methods.linear import Linear
from mergefront.merging.methods.sparse import Fuse
from mergefront.merging.methods.ties import Ties


@dataclass(frozen=True)
class PaperDareLinear(DareLinear):
    """Dropped at random, not rescaled, added to the base."""

    name = "paper_dare_linear"
    scale_receiver: bool = field(default=True, init=False)
    density: float = number(0.2, 0.0, 1.0)
    rescale: bool = field(default=False, init=False)


class PaperDareTies(PaperDareLinear):
    """Dropped at random, not rescaled, signs elected without coefficients."""

    name = "paper_dare_ties"

    def fusion(self, values: Sequence[float]) -> Fuse:
        """PEFT's disjoint mean."""
        return peft_mean


@dataclass(frozen=True)
class PaperTies(Ties):
    """Trimmed, signs elected without coefficients."""

    name = "paper_ties"
    scale_receiver: bool = field(default=True, init=False)
    normalize: bool = field(default=True, init=False)

    def fusion(self, values: Sequence[float]) -> Fuse:
        """PEFT's disjoint mean."""
        return peft_mean


@dataclass(frozen=True)
class PaperLayerSwap(Linear):
    """Linear, but for the first layers."""

    name = "paper_layer_swap"
    base_layer_num: int = number(5, -1, 10_000)

    def measure(self, slot: Slot, donors: Sequence[str]) -> Measures:
        """The tensor's layer."""
        return {"layer": slot.layer}

    def copied_source(self, row: Mapping[str, float], donors: Sequence[str]) -> str | None:
        """None: whether a donor is copied depends on the layer."""
        return None

    def mix(self, row: Mapping[str, float], donors: Sequence[str], measures: Measures) -> Mix:
        """The receiver up to the layer, then the weighted mean."""
        layer = measures["layer"]
        if layer is not None and layer <= self.base_layer_num:
            return Mix.sum({RECEIVER_TERM: 1.0})
        return super().mix(row, donors, measures)


def peft_mean(origin: Tensor, votes: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """Add the mean, over those that have the sign of the votes' sum, of factor * vote."""
    sign = votes[0].clone()
    for vote in votes[1:]:
        sign.add_(vote)
    sign.sign_().add_(0.5).sign_()  # +1 where the sum is 0
    for vote in votes:
        vote.mul_(sign).clamp_(min=0.0)
    number_agreeing = votes[0].sign()
    for vote in votes[1:]:
        number_agreeing.add_(vote.sign())
    total = votes[0].mul_(factors[0])
    for vote, factor in zip(votes[1:], factors[1:], strict=True):
        total.add_(vote.mul_(factor))
    return origin.add_(total.div_(number_agreeing.clamp_(min=1.0)).mul_(sign))
