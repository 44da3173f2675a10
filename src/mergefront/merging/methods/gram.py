"""Inner products between the tensors of one slot: what spherical methods need to know of them.

A mean on a sphere lies in the span of the points it is taken of, so that its weights follow from
their Gram matrix alone: K x K numbers a tensor, measured once, and a candidate costs a weighted
sum like any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_CHUNK: Final = 1 << 18


def gram(tensors: Sequence[Tensor]) -> NDArray[np.float64]:
    """Return the K x K inner products of K tensors of one shape, in fp64.

    Products are summed pairwise within fixed chunks and the chunks' sums exactly, one thread: the
    result is the same on every machine and number of threads.
    """
    flat = [tensor.reshape(-1) for tensor in tensors]
    parts: dict[tuple[int, int], list[float]] = {}
    for start in range(0, flat[0].numel(), _CHUNK):
        chunks = [entries[start : start + _CHUNK].double().numpy() for entries in flat]
        for i, a in enumerate(chunks):
            for j in range(i + 1):
                parts.setdefault((i, j), []).append(float((a * chunks[j]).sum()))
    products = np.zeros((len(flat), len(flat)))
    for (i, j), sums in parts.items():
        products[i, j] = products[j, i] = math.fsum(sums)
    return products


def norms(gram_KK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the K norms."""
    return np.sqrt(np.diag(gram_KK))


def slerp_weights(gram_22: NDArray[np.float64], t: float) -> tuple[float, float]:
    """Return the weights of two vectors, norms kept, at t along the arc between them.

        sin((1 - t) theta) / sin(theta),  sin(t theta) / sin(theta)

    Where the arc is undefined (parallel, opposite or zero vectors) they are 1 - t and t.
    """
    a, b = norms(gram_22)
    if a == 0.0 or b == 0.0:
        return 1.0 - t, t
    cosine = float(gram_22[0, 1] / a / b)
    if 1.0 - abs(cosine) < _PARALLEL:
        return 1.0 - t, t
    theta = math.acos(cosine)
    return math.sin((1.0 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)


_PARALLEL: Final = 1e-12
"""1 - |cosine| below this is rounding of an fp64 cosine; there the arc and the chord agree to one
part in 10^12."""
