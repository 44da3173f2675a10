"""How far each donor's change moves what the receiver's modules put out, on given questions.

For a module f with weights W that holds tensors of a group, x its own input in the receiver where
the answer begins (the last position of the prompt), and D_k the change of donor k from its base,

    |f(x; W + D_k) - f(x; W)|^2 / |f(x; W)|^2,

averaged over the modules of the group. For a linear layer without bias that is |D x|^2 / |W x|^2:
the task vector's norm, weighted by the receiver's activations. Every module, a norm as well, is
simply run twice, in fp32 whatever the receiver's dtype.

Memory: one position's inputs of every module and question, in RAM (for 7 B parameters about 3 MB a
question), and one module in fp32 twice. Every tensor is read once a donor and once of its base.
Not here: what follows from it (`mergefront.activations`).

Reading order: `drift`, `_held`, `_caught`, `_moved`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from mergefront.engine.inplace import Target
from mergefront.engine.layout import swapped
from mergefront.engine.transformers import TransformersEngine
from mergefront.errors import EngineError
from mergefront.merging.sources import Sources
from mergefront.records import Item

Progress = Callable[[int, int], None]
"""Told how many of how many steps are done."""

Drift = dict[str, dict[str, list[float]]]
"""Donor -> group -> squared relative change of the group's outputs on each question, at least 0."""


@dataclass(frozen=True)
class _Held:
    """A module and the tensors of one group that it holds: (name of its parameter, target)."""

    module: nn.Module
    group: str
    tensors: tuple[tuple[str, Target], ...]


@dataclass(frozen=True)
class _Call:
    """What a module was called with at the last position, on the CPU."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def drift(
    engine: TransformersEngine,
    sources: Sources,
    groups: Collection[str],
    items: Sequence[Item],
    progress: Progress = lambda done, total: None,
) -> Drift:
    """Measure all donors on N questions; `engine` serves the receiver, and keeps its weights.

    `groups` names those to measure. Each list has N values, in the questions' order. A question
    counts 0 for a group of which it calls no module.

    Raises:
        UserError: a donor has no base to take its change from.
        EngineError: a question cannot be asked, or the receiver's modules cannot be run by
            themselves; memory that does not suffice is reported so as well.
    """
    for donor in sources.donors:
        sources.model(f"base:{donor}")
    wanted = [group for group in sources.groups if group.name in groups]
    held = _held(engine.network, engine.targets(wanted))
    steps = len(items) + len(held)
    found: dict[str, dict[str, list[list[float]]]] = {
        donor: {group.name: [[] for _ in items] for group in wanted} for donor in sources.donors
    }
    try:
        caught = []
        for number, item in enumerate(items):
            caught.append(_caught(engine, held, item))
            progress(number + 1, steps)
        for number, one in enumerate(held):
            calls = {
                place: them[one.module] for place, them in enumerate(caught) if one.module in them
            }
            for donor in sources.donors:
                moved = _moved(one, sources, donor, list(calls.values()))
                for place, value in zip(calls, moved, strict=True):
                    found[donor][one.group][place].append(value)
            progress(len(items) + number + 1, steps)
    except (RuntimeError, TypeError, ValueError) as error:
        raise EngineError(f"the receiver's activations cannot be taken: {error}") from error
    return {
        donor: {name: [fmean(each or [0.0]) for each in values] for name, values in rows.items()}
        for donor, rows in found.items()
    }


def _held(network: nn.Module, targets: Sequence[Target]) -> list[_Held]:
    """Find the modules that hold the targets: by storage, for a target may be part of a parameter.

    Raises:
        EngineError: a target lies in no module's own parameter.
    """
    owners = {
        _storage(parameter): (module, name)
        for module in network.modules()
        for name, parameter in module.named_parameters(recurse=False)
    }
    found: dict[tuple[nn.Module, str], list[tuple[str, Target]]] = {}
    for target in targets:
        owner = owners.get(_storage(target.live))
        if owner is None:
            raise EngineError(f"{target.tensor}: no module of the receiver holds it")
        module, name = owner
        found.setdefault((module, target.group.name), []).append((name, target))
    return [_Held(module, group, tuple(them)) for (module, group), them in found.items()]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _caught(
    engine: TransformersEngine, held: Sequence[_Held], item: Item
) -> dict[nn.Module, _Call]:
    """Run one prompt and catch what each module is first called with, at the last position."""
    inputs = engine.prompt(item)
    last = partial(_last, length=int(inputs["input_ids"].shape[1]))
    calls: dict[nn.Module, _Call] = {}

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module not in calls:
            named = {name: last(value) for name, value in kwargs.items()}
            calls[module] = _Call(tuple(map(last, args)), named)

    hooks = [
        module.register_forward_pre_hook(catch, with_kwargs=True)
        for module in {one.module for one in held}
    ]
    try:
        engine.begin(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _last(value: Any, length: int) -> Any:
    """The last of `length` positions of a tensor, whichever its dimension, as a copy in RAM.

    A tensor without such a dimension is kept whole: the head sees the last position alone.
    """
    if not isinstance(value, Tensor):
        return value
    if length in value.shape:
        value = value.narrow(value.shape.index(length), length - 1, 1)
    return value.detach().clone().cpu()


@torch.no_grad()
def _moved(held: _Held, sources: Sources, donor: str, calls: Sequence[_Call]) -> list[float]:
    """Squared relative change of a module's output by a donor's change, call by call."""
    parameters = dict(held.module.named_parameters(recurse=False))
    before = {name: parameter.detach().float().clone() for name, parameter in parameters.items()}
    after = {name: tensor.clone() for name, tensor in before.items()}
    for name, target in held.tensors:
        change = (
            sources.tensor(donor, target.tensor).float()
            - sources.tensor(f"base:{donor}", target.tensor).float()
        )
        _same_part(after[name], parameters[name], target.live).add_(change.to(target.live.device))
    with swapped(parameters, before):
        then = [_run(held.module, call) for call in calls]
    with swapped(parameters, after):
        now = [_run(held.module, call) for call in calls]
    return [_relative(a, b) for a, b in zip(then, now, strict=True)]


def _same_part(copy: Tensor, parameter: Tensor, part: Tensor) -> Tensor:
    """The part of a parameter's copy (of the same strides) that `part` is of the parameter."""
    offset = part.storage_offset() - parameter.storage_offset()
    return copy.as_strided(part.size(), part.stride(), offset)


def _run(module: nn.Module, call: _Call) -> Tensor:
    """Call a module again, without its hooks; a module that returns several values: the first."""
    device = next(module.parameters()).device

    def ready(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, torch.float32 if value.is_floating_point() else value.dtype)

    kwargs = {name: ready(value) for name, value in call.kwargs.items()}
    made = module.forward(*map(ready, call.args), **kwargs)
    out: Tensor = made[0] if isinstance(made, tuple) else made
    return out.float()


def _relative(before: Tensor, after: Tensor) -> float:
    """|after - before|^2 / |before|^2; 0 where there is nothing to compare with."""
    whole = float(before.double().square().sum())
    return float((after - before).double().square().sum()) / whole if whole else 0.0
