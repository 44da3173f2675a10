"""Candidates built in place: live tensors, the pristine terms they are made of, one weighted sum.

Shared by all engines. A `Target` is a live tensor, or rows of one, whose elements all belong to
one group; `Terms` holds the pristine terms of the targets, staged when a group is first touched
and never changed after. Which checkpoint tensors land in which target is the engine's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mergefront.errors import EngineError
from mergefront.merging import build
from mergefront.merging.arithmetic import weighted_sum
from mergefront.merging.plan import UNTOUCHED, group_weights
from mergefront.merging.sources import Sources, is_finite
from mergefront.recipe import Recipe
from mergefront.records import Group

Weights = Mapping[str, Mapping[str, float]]
"""Group name -> term -> weight, as `merging.plan.group_weights` gives it."""


@dataclass(frozen=True)
class Target:
    """Rows `rows` (all if None) of the live parameter `parameter`, all of group `group`.

    `live` is a view of the parameter's storage, which is never rebound: compiled code and CUDA
    graphs hold its address.
    """

    parameter: str
    group: Group
    rows: tuple[int, int] | None
    live: Tensor

    def cut(self, whole: Tensor) -> Tensor:
        """The target's part of a tensor of the parameter's shape (a view)."""
        if self.rows is None:
            return whole
        first, end = self.rows
        return whole[first:end]


Stage = Callable[[str, Sequence[Group]], Mapping[str, Tensor]]
"""Read one term of some groups: (term, groups) -> parameter name -> pristine tensor."""


class InPlace:
    """The live model's targets and the pristine terms of the groups touched so far.

    `stage` reads a term of some groups; `dtypes` are the groups' in the checkpoint.
    """

    def __init__(
        self, targets: Sequence[Target], dtypes: Mapping[str, torch.dtype], stage: Stage
    ) -> None:
        self._targets: dict[str, list[Target]] = {}
        for target in targets:
            self._targets.setdefault(target.group.name, []).append(target)
        self._dtypes = dtypes
        self._stage = stage
        self._held: dict[str, dict[str, list[Tensor]]] = {}
        self._touched: set[str] = set()

    def hold(self, term: str, groups: Iterable[str]) -> None:
        """Stage a term of `groups`, unless it is held already.

        Raises:
            EngineError: a group has no live tensor of its own.
        """
        held = self._held.setdefault(term, {})
        missing = [group for group in groups if group not in held]
        if lost := [group for group in missing if group not in self._targets]:
            raise EngineError(
                f"this engine has no tensor of its own for {', '.join(lost)} (head and embedding "
                "share one)",
                hint="freeze them: `frozen: [embedding, head]`",
            )
        if not missing:
            return
        staged = self._stage(term, [self._targets[group][0].group for group in missing])
        for group in missing:
            targets = self._targets[group]
            held[group] = [target.cut(staged[target.parameter]) for target in targets]

    def build(self, weights: Weights) -> None:
        """Write the weighted sums into the live tensors, group by group, from pristine terms.

        Groups that no recipe has touched yet and this one leaves alone are skipped.

        Raises:
            EngineError: a group has no live tensor of its own, or its values overflow.
        """
        changed = {
            group: row
            for group, row in weights.items()
            if row != UNTOUCHED or group in self._touched
        }
        for term in dict.fromkeys(term for row in changed.values() for term in row):
            self.hold(term, [group for group, row in changed.items() if term in row])
        self._touched.update(changed)
        for group, row in changed.items():
            for index, target in enumerate(self._targets[group]):
                self._write(target, index, row)

    def held_bytes(self) -> int:
        """Memory of all pristine terms held."""
        groups = (tensors for held in self._held.values() for tensors in held.values())
        return sum(t.numel() * t.element_size() for tensors in groups for t in tensors)

    def _write(self, target: Target, index: int, row: Mapping[str, float]) -> None:
        live, group = target.live, target.group.name
        terms = [self._held[term][group][index].to(live.device, non_blocking=True) for term in row]
        dtype = self._dtypes[group]
        weighted_sum(terms, tuple(row.values()), dtype, live)
        if torch.float16 in (dtype, live.dtype) and not is_finite(live):
            raise EngineError(
                f"group {group}: merged values overflow 16-bit floats",
                hint="lower the bounds of its knobs",
            )


@contextmanager
def swapped(parameters: Mapping[str, nn.Parameter], data: Mapping[str, Tensor]) -> Iterator[None]:
    """Let `data` (of any dtype and device) stand in for the parameters of the same names."""
    live = {name: (parameters[name].data, parameters[name].requires_grad) for name in data}
    try:
        for name, tensor in data.items():
            parameters[name].requires_grad_(False).data = tensor
        yield
    finally:
        for name, (tensor, requires_grad) in live.items():
            parameters[name].data = tensor
            parameters[name].requires_grad_(requires_grad)


def uniform_rows(name: str, codes: Tensor) -> list[tuple[tuple[int, int], int]]:
    """Split a parameter into runs of rows of one nonzero code: [((first, end), code), ...].

    Raises:
        EngineError: a row holds elements of several groups.
    """
    if codes.numel() == 0 or not codes.any():
        return []
    flat = codes.reshape(len(codes) if codes.dim() else 1, -1)
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    if not torch.equal(low, high):
        raise EngineError(f"parameter {name} mixes groups within a row and cannot be rewritten")
    values, counts = torch.unique_consecutive(low, return_counts=True)
    runs, first = [], 0
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if value:
            runs.append(((first, first + count), value))
        first += count
    return runs


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes, row-major."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
    return hashlib.sha256(flat.numpy().data).hexdigest()


def recipe_weights(
    recipe: Recipe, sources: Sources, method: str, parameters: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """A recipe's weights, for an engine that was opened for `method` with `parameters`.

    Terms that are plain sources mean the same in every method; others only in their own.

    Raises:
        EngineError: the recipe is of other models' names, or needs another method's terms.
        UserError: the recipe does not fit the models (see `merging.build.check`).
    """
    if recipe.donors != sources.donors:
        raise EngineError(f"the engine has donors {sources.donors}, the recipe {recipe.donors}")
    build.check(sources, recipe)
    weights = group_weights(recipe, sources.groups)
    terms = {term for row in weights.values() for term in row}
    if (recipe.method, dict(recipe.parameters)) != (method, dict(parameters)) and not (
        terms <= sources.models.keys()
    ):
        raise EngineError(
            f"the engine was opened for {method} {dict(parameters)}, "
            f"the recipe is of {recipe.method} {dict(recipe.parameters)}"
        )
    return weights
