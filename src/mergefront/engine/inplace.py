"""Candidates built in place: live tensors, the pristine terms they are made of, one arithmetic.

Shared by all engines. A `Target` is a live tensor, or rows of one, whose elements all belong to
one tensor of the receiver; `InPlace` holds the pristine terms of the targets, staged when a group
is first touched and never changed after. Which checkpoint tensors land in which target is the
engine's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mergefront.checkpoint import DTYPES
from mergefront.errors import EngineError
from mergefront.merging import METHODS, build
from mergefront.merging.arithmetic import combine
from mergefront.merging.method import Measures, Mix
from mergefront.merging.plan import UNTOUCHED, Choice, Plan, copied, plan_of
from mergefront.merging.slots import SourceSlot
from mergefront.merging.sources import Sources, is_finite
from mergefront.recipe import Recipe
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


class InPlace:
    """The live model's targets and the pristine terms of the groups touched so far.

    Measures and terms are taken when a group first needs them, and kept until a recipe of another
    method (or of other parameters that its terms depend on) comes.
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
        self._method = METHODS["linear"]
        self._fixed: dict[str, Any] = {}
        self._held: dict[str, dict[str, list[Tensor]]] = {}
        self._measures: dict[str, Measures] = {}
        self._kept: dict[Hashable, Any] = {}
        self._touched: set[str] = set()

    def hold(self, groups: Iterable[str], method: str, parameters: Mapping[str, Any]) -> None:
        """Read all terms and measures that a method has of `groups` now."""
        self._use(method, parameters)
        names = list(groups)
        for term in self._method.terms(self._sources.donors, parameters):
            self._hold(term, names)
        for target in (target for name in names for target in self._targets[name]):
            self._measured(target.tensor)

    def build(self, plan: Plan, method: str, parameters: Mapping[str, Any]) -> None:
        """Write a candidate into the live tensors, group by group, from pristine terms.

        Groups that no recipe has touched yet and this one leaves alone are skipped.

        Raises:
            EngineError: a group has no live tensor of its own, or its values overflow.
        """
        if not all(isinstance(choice, str) for choice in plan.values()):
            self._use(method, parameters)
        changed = {
            group: choice
            for group, choice in plan.items()
            if choice != UNTOUCHED or group in self._touched
        }
        if lost := [group for group in changed if group not in self._targets]:
            raise EngineError(
                f"this engine has no tensor of its own for {', '.join(lost)} (head and embedding "
                "share one)",
                hint="freeze them: `frozen: [embedding, head]`",
            )
        mixes = {
            group: [self._mix(target, choice, parameters) for target in self._targets[group]]
            for group, choice in changed.items()
        }
        needed: dict[str, list[str]] = {}
        for group, mine in mixes.items():
            for term in dict.fromkeys(term for mix in mine for term in mix.terms):
                needed.setdefault(term, []).append(group)
        self._drop_passing(needed)
        for term, groups in needed.items():
            self._hold(term, groups)
        self._touched.update(changed)
        for group, mine in mixes.items():
            for index, mix in enumerate(mine):
                self._write(group, index, mix)

    def held_bytes(self) -> int:
        """Memory of all pristine terms held."""
        groups = (tensors for held in self._held.values() for tensors in held.values())
        return sum(t.numel() * t.element_size() for tensors in groups for t in tensors)

    def _use(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Turn to a method; drop what was held for another."""
        method = METHODS[name]
        fixed = {key: one for key, one in parameters.items() if key not in method.searchable}
        if (method, fixed) != (self._method, self._fixed):
            plain = self._sources.models.keys()
            self._held = {term: held for term, held in self._held.items() if term in plain}
            self._measures.clear()
            self._kept.clear()
            self._method, self._fixed = method, fixed

    def _drop_passing(self, needed: Collection[str]) -> None:
        """Drop terms of a value that was searched then, before there are those of another."""
        for term in [one for one in self._held if one not in needed]:
            if not self._method.lasting(term):
                del self._held[term]

    def _hold(self, term: str, groups: Iterable[str]) -> None:
        held = self._held.setdefault(term, {})
        missing = [group for group in groups if group not in held]
        if not missing:
            return

        def prepared(name: str) -> Tensor:
            return self._method.prepare(term, self._slot(name), self._fixed)

        staged = self._stage(prepared, [self._targets[group][0].group for group in missing])
        for group in missing:
            held[group] = [target.cut(staged[target.parameter]) for target in self._targets[group]]

    def _mix(self, target: Target, choice: Choice, parameters: Mapping[str, Any]) -> Mix:
        if isinstance(choice, str):
            return copied(choice)
        measures = self._measured(target.tensor)
        return self._method.mix(choice, self._sources.donors, parameters, measures)

    def _measured(self, tensor: str) -> Measures:
        if tensor not in self._measures:
            self._measures[tensor] = self._method.measure(
                self._slot(tensor), self._sources.donors, self._fixed
            )
        return self._measures[tensor]

    def _slot(self, tensor: str) -> SourceSlot:
        return SourceSlot(self._sources, tensor, self._kept)

    def _write(self, group: str, index: int, mix: Mix) -> None:
        target = self._targets[group][index]
        live = target.live
        held = [self._held[term][group][index] for term in mix.terms]
        terms = [term.to(live.device, non_blocking=True) for term in held]
        dtype = DTYPES[target.group.dtype]
        combine(mix, terms, dtype, live)
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


def as_rows(tensor: Tensor) -> Tensor:
    """A tensor as the rows that `Target.rows` count: all dimensions but the last in one."""
    if tensor.dim() > 2:
        return tensor.view(-1, tensor.shape[-1])
    return tensor.reshape(1) if tensor.dim() == 0 else tensor


@contextmanager
def same_modules(model: nn.Module) -> Iterator[None]:
    """Undo whatever is done to a model's tree of modules and parameters meanwhile.

    A loader that is given a part of a checkpoint may draw conclusions from the rest: vLLM's
    Phi-3-V takes a missing word embedding for a tied one, and puts the language model's own, which
    was never read, in its place.
    """
    before = [
        (module, dict(module._modules), dict(module._parameters)) for module in model.modules()
    ]
    try:
        yield
    finally:
        for module, children, parameters in before:
            for now, then in ((module._modules, children), (module._parameters, parameters)):
                now.clear()
                now.update(then)  # type: ignore[arg-type]


def uniform_rows(name: str, codes: Tensor) -> list[tuple[tuple[int, int], int]]:
    """Split a parameter into runs of rows of one nonzero code: [((first, end), code), ...].

    Raises:
        EngineError: a row holds elements of several tensors.
    """
    if codes.numel() == 0 or not codes.any():
        return []
    rows = as_rows(codes)
    flat = rows.reshape(len(rows), -1)
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    if not torch.equal(low, high):
        raise EngineError(f"parameter {name} mixes tensors within a row and cannot be rewritten")
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


def checked_plan(recipe: Recipe, sources: Sources) -> dict[str, Choice]:
    """A recipe's plan, for an engine on these sources.

    Raises:
        EngineError: the recipe is of other models' names.
        UserError: the recipe does not fit the models (see `merging.build.check`).
    """
    if recipe.donors != sources.donors:
        raise EngineError(f"the engine has donors {sources.donors}, the recipe {recipe.donors}")
    build.check(sources, recipe)
    return plan_of(recipe, sources.groups)
