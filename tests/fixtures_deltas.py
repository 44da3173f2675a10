"""Sources whose deltas make trims and votes exact, and a merge of one tensor.

Deltas are whole multiples of 2^-10 with distinct magnitudes, so that differences and products with
the coefficients used are exact, and a trim at any density is the same set for everyone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fixtures_slots import DictSlot, merged
from mergefront.merging.methods import method_of

NAME: Final = "model.layers.0.mlp.up_proj.weight"
SHAPE: Final = (30, 50)
RECEIVER: Final = {"anchor": "receiver"}
Array = NDArray[np.float64]


def sources(
    seed: int = 0, donors: str = "ab", shape: tuple[int, ...] = SHAPE, anchor: str = "base"
) -> dict[str, Tensor]:
    """Base, receiver and donors; deltas from `anchor` have magnitudes in bins of their own."""
    generator = torch.Generator().manual_seed(seed)
    n = math.prod(shape)
    assert n <= 4096

    def delta() -> Tensor:
        magnitudes = torch.randperm(n, generator=generator) + 1
        signs = torch.randint(0, 2, (n,), generator=generator) * 2 - 1
        return (magnitudes * signs / 1024).reshape(shape).float()

    base = (torch.randint(-2000, 2000, shape, generator=generator) / 1024).float()
    named = {"base": base, "receiver": base + delta()}
    for alias in donors:
        named |= {alias: named[anchor] + delta(), f"base:{alias}": base}
    return named


def ours(
    method: str,
    named: Mapping[str, Tensor],
    row: Mapping[str, float],
    parameters: Mapping[str, Any] = RECEIVER,
    dtype: torch.dtype = torch.float32,
    **slot: Any,
) -> Tensor:
    donors = [name for name in named if len(name) == 1]
    where = DictSlot(named, NAME, **slot)
    return merged(method_of(method, parameters), where, row, donors, dtype)


def largest(delta: Array, density: float) -> Array:
    """1 on the int(density n) largest magnitudes, at least one."""
    order = np.argsort(-np.abs(delta), axis=None)
    mask = np.zeros(delta.size)
    if density > 0:
        mask[order[: max(1, int(density * delta.size + 1e-9))]] = 1
    return mask.reshape(delta.shape)
