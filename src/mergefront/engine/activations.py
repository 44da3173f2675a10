"""How far each donor's change moves what the receiver's modules put out, on given questions.

For a module f with weights W that holds tensors of a group, x its own input in the receiver where
the answer begins (the last position of the prompt), and D_k the change of donor k from its base,

    |f(x; W + D_k) - f(x; W)|^2 / |f(x; W)|^2,

averaged over the modules of the group. For a linear layer without bias that is |D x|^2 / |W x|^2:
the task vector's norm, weighted by the receiver's activations. Every module, a norm as well, is
simply run twice, in fp32 whatever the receiver's dtype.

Memory: one position's inputs of every module and question, in RAM (for 7 B parameters about 3 MB a
question), and one module in fp32 twice. Every tensor is read once a donor and once of its base.
Not here: what follows from it (`mergefront.engine.activations`).

Reading order: `drift`, `_held`, `_caught`, `_moved`.

Layer importance from the receiver's activations: where a donor helps more than it disturbs.

The first objective is to gain from the donors, the others are to be kept. In a group g take donor
k's outputs as they are wanted, top times its change on questions of the first objective and none of
it on the others', and ask for the one coefficient that misses both least, by squares relative to
the receiver's own output:

    min over c of (top - c)^2 r_gain + c^2 r_keep,   hence   c = top r_gain / (r_gain + r_keep),

r_o the mean over questions of objective o of |D_k x|^2 / |W x|^2 (`engine.drift`), r_keep the mean
of r_o over the other objectives. That is LOT Merging's criterion, the drift of features layer by
layer (arXiv:2505.23859), with one free number a donor and group where LOT has a matrix, and with
the receiver in the place of the other experts.

It assumes: what a donor changes on the first objective's questions is its skill, and on the others'
harm; each module by itself, on the receiver's own inputs; donors' changes at right angles; and that
the position at which an answer begins tells enough of the answer.

Not here: the measurement of one module (`engine.drift`), the warm start (`warm`).
Reading order: `measure`, `shares`, `tables`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch
from torch import Tensor, nn

from mergefront.config import EngineConfig
from mergefront.engine.inplace import Target
from mergefront.engine.layout import swapped
from mergefront.engine.transformers import TransformersEngine
from mergefront.errors import EngineError, MergefrontError, UserError
from mergefront.models.sources import Sources
from mergefront.records import Group, Item, Table

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


logger = logging.getLogger(__name__)

QUESTIONS: Final = 64
"""Of each objective: its first search items, which are a stratified sample of them."""

Changes = Mapping[str, Table]
"""Objective -> donor -> group -> mean squared relative change of the outputs, at least 0."""


def measure(
    settings: EngineConfig,
    sources: Sources,
    groups: Collection[str],
    items: Mapping[str, Sequence[Item]],
    progress: Progress = lambda done, total: None,
) -> Changes:
    """Run the receiver in transformers on the first questions of each objective, and close it.

    `groups` names those to measure, `items` are the search items by objective. Costs the loading
    of the receiver, a forward pass a question, and one reading of every source.

    Raises:
        UserError: a donor has no base to take its change from.
        EngineError: transformers cannot load the receiver or run its modules by themselves.
    """
    for donor in sources.donors:
        sources.model(f"base:{donor}")
    if len(items) < 2:
        raise UserError(
            "there is no objective with tasks of its own to keep, beside the first",
            hint="activations weigh questions of one objective against those of others",
        )
    asked = {objective: list(them)[:QUESTIONS] for objective, them in items.items()}
    flat = [item for them in asked.values() for item in them]
    logger.info("activations: %d questions to the receiver in transformers", len(flat))
    folder = Path(sources.folders.receiver)
    engine = TransformersEngine(settings, folder)
    failed: MergefrontError | None = None
    try:
        found = drift(engine, sources, groups, flat, progress)
    except MergefrontError as error:  # its frames hold the model, which `close` is to let go of
        failed = error.with_traceback(None)
        failed.__context__ = failed.__cause__ = None
    except RuntimeError as error:  # torch's, such as too little memory
        failed = EngineError(f"activations: {str(error).splitlines()[0]}")
    finally:
        engine.close()
    if failed is not None:
        raise failed
    return _by_objective(found, asked)


def _by_objective(
    found: Mapping[str, Mapping[str, Sequence[float]]], asked: Mapping[str, Sequence[Item]]
) -> Changes:
    """Means over each objective's questions, which lie one objective after the other."""
    made: dict[str, dict[str, dict[str, float]]] = {}
    first = 0
    for objective, items in asked.items():
        mine = slice(first, first + len(items))
        made[objective] = {
            donor: {group: fmean(values[mine]) for group, values in row.items()}
            for donor, row in found.items()
        }
        first += len(items)
    return made


def shares(changes: Changes, groups: Sequence[Group]) -> Table:
    """Return donor -> group -> r_gain / (r_gain + r_keep), in [0, 1].

    A group in which a donor changes nothing has no say, and must not pull a curve over depth: it
    gets the mean of the donor's groups of its part, or of all; 0 if the donor changes nothing.
    """
    gain, *keep = changes.values()
    parts = {group.name: group.part for group in groups}
    made: dict[str, dict[str, float]] = {}
    for donor, row in gain.items():
        sums = {name: (r, fmean(one[donor][name] for one in keep)) for name, r in row.items()}
        told = {name: r / (r + k) for name, (r, k) in sums.items() if r + k > 0}
        made[donor] = {name: told.get(name, _of_part(told, parts, name)) for name in row}
    return made


def _of_part(told: Mapping[str, float], parts: Mapping[str, str], name: str) -> float:
    """Mean over the groups of a group's part, over all if there are none, 0 if there are none."""
    alike = [share for group, share in told.items() if parts[group] == parts[name]]
    return fmean(alike or told.values() or [0.0])


def tables(
    changes: Changes, groups: Sequence[Group]
) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return (title, columns, rows): one table a donor, one row a layer, three columns a part.

    Changes in percent of the receiver's own output, and the share of the first objective, empty
    where nothing changes.
    """
    gain, *keep = changes
    table = shares(changes, groups)
    made = []
    for donor, row in table.items():
        there = {group.name: group for group in groups if group.name in row}
        parts = list(dict.fromkeys(one.part for one in there.values() if one.layer is not None))
        rows: dict[str, list[str]] = {}
        for name, group in there.items():
            label = name if group.layer is None else str(group.layer)
            cells = rows.setdefault(label, [label, *[""] * (3 * len(parts))])
            kept = fmean(changes[one][donor][name] for one in keep)
            place = 1 + 3 * parts.index(group.part) if group.part in parts else 1
            gained = changes[gain][donor][name]
            share = f"{row[name]:.3f}" if gained + kept else ""
            cells[place : place + 3] = [f"{100 * gained:.3g}", f"{100 * kept:.3g}", share]
        columns = ["layer", *(c for part in parts for c in (f"{part}: {gain}", "others", "share"))]
        title = f"{donor}: squared change of the receiver's outputs, %, and share of {gain}"
        made.append((title, columns, list(rows.values())))
    return made
