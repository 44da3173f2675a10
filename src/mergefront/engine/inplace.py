"""Candidates built in place: live tensors, and the pristine terms that are mixed into them.

All engines share it. A `Target` is a live tensor, or rows of one, whose elements all belong to one
tensor of the receiver. `InPlace` holds the pristine terms of the targets. They are staged when a
recipe first changes a group, and never change after that. Not here: which checkpoint tensor is in
which target; each engine finds that out.

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
from mergefront.merging.plan import COPY_RECEIVER, GroupContent, Plan, copy_of
from mergefront.merging.slots import SourceSlot
from mergefront.models.safetensors import DTYPES
from mergefront.models.sources import Sources
from mergefront.records import Group


@dataclass(frozen=True)
class Target:
    """A row range of the live parameter `parameter` that holds (a part of) one receiver tensor.

    `tensor` is the receiver tensor's name, `group` its group. `rows` is (first, end), the row range
    after flattening all dimensions but the last; None is the whole parameter. `live` is a view of
    the parameter's storage, which is never rebound: compiled code and CUDA graphs hold its address.
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


PrepareTerm = Callable[[str], Tensor]
"""The name of a receiver tensor -> that tensor of one term, in the checkpoint's layout."""

Stage = Callable[[PrepareTerm, Sequence[Group]], Mapping[str, Tensor]]
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
"""Safety factor on the bound of a weighted sum, for its roundings."""

STAGING_ROOM: Final = 1.25
"""A term is staged on a GPU only if the free memory there is this many times its size."""


class InPlace:
    """The live model's targets, and the pristine terms of the groups that recipes have changed.

    Measures and terms are taken when a group first needs them. They are kept until a recipe has
    another method, or other values of the parameters that its terms depend on.

    Overflow is found in every dtype. Sources are finite. So a weighted sum is finite if the sum of
    |weight| times the term's largest magnitude (taken once for each term) is below the largest
    value of the narrowest dtype that it is rounded to. That holds for all but absurd coefficients,
    and costs no pass over the weights. Where it does not hold, and after a method's own join, whose
    results have no known bound, the written tensor is read once more.
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

    def build(self, contents: Mapping[str, GroupContent], method: Method) -> None:
        """Write a candidate into the live tensors, group by group, from pristine terms.

        Skips groups that neither this recipe nor an earlier one changes.

        Raises:
            EngineError: a group has no live tensor of its own.
            CandidateError: values overflow, naming the tensor; the live tensors are undefined
                until something else is built.
        """
        if not all(isinstance(content, str) for content in contents.values()):
            self._use(method)
        changed = {
            group: content
            for group, content in contents.items()
            if content != COPY_RECEIVER or group in self._touched
        }
        if untargeted := [group for group in changed if group not in self._targets]:
            raise EngineError(
                f"this engine has no tensor of its own for {', '.join(untargeted)} (head and "
                "embedding share one)",
                hint="freeze them: `frozen: [embedding, head]`",
            )
        mixes = {
            group: [self._mix(target, content, method) for target in self._targets[group]]
            for group, content in changed.items()
        }
        needed: dict[Term, list[str]] = {}
        for group, group_mixes in mixes.items():
            for term in dict.fromkeys(term for mix in group_mixes for term in mix.terms):
                needed.setdefault(term, []).append(group)
        self._drop_other_ranks(needed)
        for term, groups in needed.items():
            self._stage_term(term, groups)
        self._touched.update(changed)
        # Check for overflow only after all tensors are written: reading a GPU's answer before the
        # next tensor is queued would stall it at every tensor.
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
        """Use a method; drop what was staged and measured for another."""
        default = method.with_default_search_parameters
        if default != self._method:
            self._staged = {t: staged for t, staged in self._staged.items() if t.kind == "source"}
            self._measures.clear()
            self._memory.clear()
            self._method = default

    def _drop_other_ranks(self, needed: Collection[Term]) -> None:
        """Drop terms of an earlier candidate's rank: their memory is free before new terms come."""
        for term in [term for term in self._staged if term not in needed]:
            if not term.serves_all_candidates:
                del self._staged[term]

    def _stage_term(self, term: Term, groups: Iterable[str]) -> None:
        """Stage a term for the groups that do not have it yet."""
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

    def _mix(self, target: Target, content: GroupContent, method: Method) -> Mix:
        if isinstance(content, str):
            return copy_of(content)
        return method.mix(content, self._sources.donors, self._measured(target.tensor))

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
        """Whether the bound shows that a mix cannot overflow."""
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
    """A tensor as a matrix: all dimensions but the last are flattened into rows."""
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
