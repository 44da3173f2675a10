"""Norms of the donors' deltas and the cosines between them, group by group.

With a base, deltas are model minus base, the receiver's own among them; without one, donor minus
receiver. Sums are taken in fp64 over chunks, so memory does not grow with the models.

Reference: arXiv:2212.04089, figure 5 (cosines between task vectors).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import torch

from mergefront.merging.sources import Sources
from mergefront.records import Group, Part

CHUNK: Final = 1 << 22


@dataclass(frozen=True)
class Measure:
    """One group: source -> norm of its delta, norm relative to the anchor's; pair -> cosine.

    Pairs are named "a, b". A cosine with a zero delta is None, as is a norm relative to zero.
    """

    group: str
    layer: int | None
    part: Part
    norms: dict[str, float]
    relative: dict[str, float | None]
    cosines: dict[str, float | None]


def measure(sources: Sources) -> tuple[Measure, ...]:
    """Measure every group of the receiver in which at least one delta exists."""
    anchor = "receiver" if sources.refs.base is None else "base"
    names = sources.donors if anchor == "receiver" else ("receiver", *sources.donors)
    found = []
    for group in sources.groups:
        there = [
            name
            for name in names
            if all(_has(sources, one, tensor) for one in (name, anchor) for tensor in group.tensors)
        ]
        if there:
            found.append(_measure_group(sources, group, anchor, there))
    return tuple(found)


def _has(sources: Sources, source: str, tensor: str) -> bool:
    return tensor in sources.models[source].pairs


def _measure_group(sources: Sources, group: Group, anchor: str, names: Sequence[str]) -> Measure:
    """Accumulate the Gram matrix of the deltas, and the anchor's square, over all chunks."""
    n = len(names)
    gram = torch.zeros(n, n, dtype=torch.float64)
    square = 0.0
    for tensor in group.tensors:
        start = sources.tensor(anchor, tensor).reshape(-1)
        others = [sources.tensor(name, tensor).reshape(-1) for name in names]
        for first in range(0, start.numel(), CHUNK):
            origin = start[first : first + CHUNK].double()
            deltas = torch.stack([one[first : first + CHUNK].double() - origin for one in others])
            gram += deltas @ deltas.T
            square += float(origin @ origin)
    norms = [math.sqrt(float(gram[i, i])) for i in range(n)]
    anchor_norm = math.sqrt(square)
    cosines: dict[str, float | None] = {}
    for i, j in combinations(range(n), 2):
        both = norms[i] * norms[j]
        cosines[f"{names[i]}, {names[j]}"] = float(gram[i, j]) / both if both > 0 else None
    return Measure(
        group=group.name,
        layer=group.layer,
        part=group.part,
        norms=dict(zip(names, norms, strict=True)),
        relative={
            name: norm / anchor_norm if anchor_norm > 0 else None
            for name, norm in zip(names, norms, strict=True)
        },
        cosines=cosines,
    )
