"""Candidates built in place: live tensors, the pristine terms they are made of, one arithmetic.

Shared by all engines. A `Target` is a live tensor, or rows of one, whose elements all belong to
one tensor of the receiver. `InPlace` holds the pristine terms of the targets, which are staged when
a group is first touched and never change after that. Not here: which checkpoint tensors land in
which target, which each engine finds out for itself.

Reading order: `Target`, `InPlace.build`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from mergefront.errors import CandidateError, EngineError
from mergefront.merging.arithmetic import as_float32, combine
from mergefront.merging.method import Measures, Method, Mix, Term
from mergefront.merging.methods import METHODS
from mergefront.merging.plan import UNTOUCHED, Choice, Plan, copy_of
from mergefront.merging.slots import SourceSlot
from mergefront.models.safetensors import DTYPES
from mergefront.models.sources import Sources
from mergefront.records import Group


@dataclass(frozen=True)
class Target:
    """A run of rows of the live parameter `parameter` that holds (a part of) one tensor.

    `tensor` is the receiver's name of it, `group` its group. `rows` are (first, end) in the
    parameter as a matrix of all but its last dimension; None is the whole. `live` is a view of the
    parameter's storage, which is never rebound: compiled code and CUDA graphs hold its address.
    """

    parameter: str
    tensor: str
    group: Group
    rows: tuple[int, int] | None
    live: Tensor

    def cut(self, whole: Tensor) -> Tensor:
        """The target's part of a tensor of the parameter's shape (a view)."""
        if self.rows is None:
            return whole
        first, end = self.rows
        return as_rows(whole)[first:end]


Prepare = Callable[[str], Tensor]
"""The receiver's name of a tensor -> one term of it, in the checkpoint's layout."""

Stage = Callable[[Prepare, Sequence[Group]], Mapping[str, Tensor]]
"""Bring a term of some groups into the live layout: parameter name -> pristine tensor."""


@dataclass(frozen=True, eq=False)
class StagedTerm:
    """The pristine term of one target, in the live layout."""

    tensor: Tensor

    @cached_property
    def largest(self) -> float:
        """The largest magnitude of its entries."""
        low, high = self.tensor.aminmax()
        return max(-float(low), float(high))


_SLACK: Final = 1.01
"""What the roundings of a weighted sum can add to its bound, generously."""


class InPlace:
    """The live model's targets and the pristine terms of the groups touched so far.

    Measures and terms are taken when a group first needs them. They are kept until a recipe of
    another method comes, or one of other parameters that its terms depend on.

    Overflow is found in every dtype. Sources are finite. So a weighted sum is finite if the sum of
    |weight| times the term's largest magnitude (taken once for each term) is below the largest
    value of the narrowest dtype that it is rounded to. That holds for all but absurd coefficients,
    and costs no pass over the weights. Where it does not hold, and after a method's own join, of
    which nothing is known, the written tensor is read once more.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        sources: Sources,
        stage: Stage,
    ) -> None:
        self._targets: dict[str, list[Target]] = {}
        for target in targets:
            self._targets.setdefault(target.group.name, []).append(target)
        self._sources = sources
        self._stage = stage
        self._method: Method = METHODS["linear"]
        self._staged: dict[Term, dict[str, list[StagedTerm]]] = {}
        self._measures: dict[str, Measures] = {}
        self._memory: dict[Hashable, Any] = {}
        self._touched: set[str] = set()

    @property
    def donors(self) -> tuple[str, ...]:
        """The aliases of the donors, in the order in which they are summed."""
        return self._sources.donors

    def build(self, choices: Mapping[str, Choice], method: Method) -> None:
        """Write a candidate into the live tensors, group by group, from pristine terms.

        Groups that no recipe has touched yet and this one leaves alone are skipped.

        Raises:
            EngineError: a group has no live tensor of its own.
            CandidateError: values overflow, naming the tensor; the live tensors are undefined
                until something else is built.
        """
        if not all(isinstance(choice, str) for choice in choices.values()):
            self._use(method)
        changed = {
            group: choice
            for group, choice in choices.items()
            if choice != UNTOUCHED or group in self._touched
        }
        if untargeted := [group for group in changed if group not in self._targets]:
            raise EngineError(
                f"this engine has no tensor of its own for {', '.join(untargeted)} (head and "
                "embedding share one)",
                hint="freeze them: `frozen: [embedding, head]`",
            )
        mixes = {
            group: [self._mix(target, choice, method) for target in self._targets[group]]
            for group, choice in changed.items()
        }
        needed: dict[Term, list[str]] = {}
        for group, group_mixes in mixes.items():
            for term in dict.fromkeys(term for mix in group_mixes for term in mix.terms):
                needed.setdefault(term, []).append(group)
        self._drop_other_ranks(needed)
        for term, groups in needed.items():
            self._stage_term(term, groups)
        self._touched.update(changed)
        # Whether a doubtful tensor overflows is asked when all are written: reading the answer of
        # one before the next is queued would stall a GPU at every tensor.
        doubtful = []
        for group, group_mixes in mixes.items():
            for index, mix in enumerate(group_mixes):
                target = self._write(group, index, mix)
                if not self._surely_finite(group, index, mix):
                    doubtful.append((target, torch.stack(target.live.aminmax())))
        for target, extremes in doubtful:
            if not extremes.isfinite().all():
                raise _overflow(target)

    def _use(self, method: Method) -> None:
        """Turn to a method; drop what was staged and measured for another."""
        invariant = method.invariant
        if invariant != self._method:
            self._staged = {t: staged for t, staged in self._staged.items() if t.kind == "source"}
            self._measures.clear()
            self._memory.clear()
            self._method = invariant

    def _drop_other_ranks(self, needed: Collection[Term]) -> None:
        """Drop terms of an earlier candidate's rank, to make room before those of this one come."""
        for term in [term for term in self._staged if term not in needed]:
            if not term.invariant:
                del self._staged[term]

    def _stage_term(self, term: Term, groups: Iterable[str]) -> None:
        """Bring a term of those groups that it is not staged for yet into the live layout."""
        by_group = self._staged.setdefault(term, {})
        new_groups = [group for group in groups if group not in by_group]
        if not new_groups:
            return

        def prepared(name: str) -> Tensor:
            return self._method.prepare(term, self._slot(name))

        staged = self._stage(prepared, [self._targets[group][0].group for group in new_groups])
        for group in new_groups:
            by_group[group] = [
                StagedTerm(target.cut(staged[target.parameter])) for target in self._targets[group]
            ]

    def _mix(self, target: Target, choice: Choice, method: Method) -> Mix:
        if isinstance(choice, str):
            return copy_of(choice)
        return method.mix(choice, self._sources.donors, self._measured(target.tensor))

    def _measured(self, tensor: str) -> Measures:
        if tensor not in self._measures:
            slot = self._slot(tensor)
            self._measures[tensor] = self._method.measure(slot, self._sources.donors)
        return self._measures[tensor]

    def _slot(self, tensor: str) -> SourceSlot:
        return SourceSlot(self._sources, tensor, self._memory)

    def _write(self, group: str, index: int, mix: Mix) -> Target:
        target = self._targets[group][index]
        live = target.live
        staged = [self._staged[term][group][index].tensor for term in mix.terms]
        terms = [tensor.to(live.device, non_blocking=True) for tensor in staged]
        combine(mix, terms, DTYPES[target.group.dtype], live)
        return target

    def _surely_finite(self, group: str, index: int, mix: Mix) -> bool:
        """Whether the weights alone tell that a mix cannot overflow."""
        target = self._targets[group][index]
        if target.live.numel() == 0:
            return True
        if mix.join is not None:
            return False
        reach = 0.0
        for term, weight in zip(mix.terms, mix.weights, strict=True):
            reach += abs(as_float32(weight)) * self._staged[term][group][index].largest
        return reach * _SLACK < torch.finfo(_narrowest(target)).max


def _narrowest(target: Target) -> torch.dtype:
    """Return the dtype with the smallest range among those that a value is rounded to."""
    dtypes = (torch.float32, DTYPES[target.group.dtype], target.live.dtype)
    return min(dtypes, key=lambda dtype: torch.finfo(dtype).max)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _overflow(target: Target) -> CandidateError:
    narrow, checkpoint_dtype = _narrowest(target), DTYPES[target.group.dtype]
    wider = torch.finfo(checkpoint_dtype).max > torch.finfo(narrow).max
    return CandidateError(
        f"group {target.group.name}: merged values of {target.tensor} overflow "
        f"{_dtype_name(narrow)}",
        hint="lower the bounds of its knobs"
        + (
            f", or set engine.dtype to {str(checkpoint_dtype).removeprefix('torch.')}"
            if wider
            else ""
        ),
    )


def as_rows(tensor: Tensor) -> Tensor:
    """A tensor as the rows that `Target.rows` count: all dimensions but the last in one."""
    if tensor.dim() > 2:
        return tensor.view(-1, tensor.shape[-1])
    return tensor.reshape(1) if tensor.dim() == 0 else tensor


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes, row-major."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
    return hashlib.sha256(flat.numpy().data).hexdigest()


def check_donors(plan: Plan, donors: tuple[str, ...]) -> None:
    """Refuse a plan for an engine with other donors.

    Raises:
        EngineError: naming the donors of the engine and of the plan's recipe.
    """
    if plan.recipe.donors != donors:
        raise EngineError(f"the engine has donors {donors}, the recipe {plan.recipe.donors}")


def model_hash(hashes: Mapping[str, str]) -> str:
    """One sha256 for a model's parameters, from the hash of each."""
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()
