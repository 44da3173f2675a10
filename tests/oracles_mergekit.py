"""mergekit as a peer: its own methods on the same tensors, in fp32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup
from torch import Tensor


def mergekit(
    method: str, tensors: Mapping[str, Tensor], base: str | None = None, **parameters: Any
) -> Tensor:
    """Merge one tensor of each source as mergekit 0.1.5 does.

    Parameters by source are mappings (source -> value) or one value for all; `lambda` is given as
    `lambda_`.
    """
    names = list(tensors)
    group = TensorGroup.from_tensors(
        list(tensors.values()),
        ids=names,
        base_index=None if base is None else names.index(base),
        name="model.layers.0.mlp.up_proj.weight",
    )
    given = {name.removesuffix("_"): value for name, value in parameters.items()}
    merged: Tensor
    (merged,) = registry.get(method)([group], parameters=given, dtype=torch.float32)
    return merged


@contextmanager
def masks_from(codes: Sequence[Tensor], levels: int) -> Iterator[None]:
    """Let torch.bernoulli keep an entry where its code is below probability * levels.

    Each call takes the next of `codes`, so that a peer draws the very masks that we drew.
    """
    waiting = list(codes)

    def drawn(probabilities: Tensor, *_: Any, **__: Any) -> Tensor:
        mine = waiting.pop(0).reshape(probabilities.shape)
        return (mine.double() < probabilities.double() * levels).to(probabilities.dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "bernoulli", drawn)
        yield
    assert not waiting, "the peer drew fewer masks"
