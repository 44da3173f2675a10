"""Layer importance from the receiver's activations: where a donor helps more than it disturbs.

Two steps. `drift` measures how far each donor's change moves what the receiver's modules put out.
`shares` turns that into one coefficient for each donor and group.

The drift of a module f with weights W that holds tensors of a group: let x be its own input in the
receiver where the answer begins (the last position of the prompt), and D_k the change of donor k
from its base. Then

    r = |f(x; W + D_k) - f(x; W)|^2 / |f(x; W)|^2,

averaged over the modules of the group. For a linear layer without bias that is |D x|^2 / |W x|^2:
the task vector's norm, weighted by the receiver's activations. Every module, a norm as well, is
simply run twice, in fp32 whatever the receiver's dtype.

The share: the merge is to gain from the donors in the first objective and to keep the others. In a
group g we want top times donor k's change of the outputs on questions of the first objective, and
none of it on questions of the others, and ask for the one coefficient c that misses both least, by
squares relative to the receiver's own output:

    min over c of (top - c)^2 r_gain + c^2 r_keep,   hence   c = top r_gain / (r_gain + r_keep),

with r_o the mean of r over questions of objective o, and r_keep the mean of r_o over the other
objectives. That is LOT Merging's criterion, the drift of features layer by layer
(arXiv:2505.23859), with one free number for each donor and group where LOT has a matrix, and with
the receiver in the place of the other experts.

Assumptions: what a donor changes on the first objective's questions is its skill, and on the
others' harm; each module acts by itself, on the receiver's own inputs; the donors' changes are at
right angles; and the position at which an answer begins tells enough about the answer.

Memory: one position's inputs of every module and question, in RAM (for 7 B parameters about 3 MB a
question), and one module in fp32 twice. Every tensor is read once for each donor, and so is that of
its base.

Not here: the warm start that uses the shares (`search.warm_starts`).
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
from mergefront.records import CoefficientTable, Group, Item, TextTable

logger = logging.getLogger(__name__)

QUESTIONS: Final = 64
"""Of each objective: its first search items, which are a stratified sample of them."""

Progress = Callable[[int, int], None]
"""(finished steps, all steps)."""

Drift = dict[str, dict[str, list[float]]]
"""Donor -> group -> squared relative change of the group's outputs on each question, at least 0."""

Changes = Mapping[str, CoefficientTable]
"""Objective -> donor -> group -> mean squared relative change of the outputs, at least 0."""


def measure(
    settings: EngineConfig,
    sources: Sources,
    groups: Collection[str],
    items: Mapping[str, Sequence[Item]],
    progress: Progress = lambda finished, total: None,
) -> Changes:
    """Run the receiver in transformers on the first questions of each objective, and close it.

    `groups` names those to measure, `items` are the search items by objective. Costs the loading
    of the receiver, a forward pass for each question, and one reading of every source.

    Raises:
        UserError: a donor has no base to take its change from.
        EngineError: transformers cannot load the receiver or run its modules by themselves.
    """
    _check_bases(sources)
    if len(items) < 2:
        raise UserError(
            "beside the first objective there is none with tasks of its own, to keep",
            hint="activations weigh questions of one objective against those of others",
        )
    questions = {objective: list(rows)[:QUESTIONS] for objective, rows in items.items()}
    flat = [item for rows in questions.values() for item in rows]
    logger.info("activations: %d questions to the receiver in transformers", len(flat))
    engine = TransformersEngine(settings, Path(sources.folders.receiver))
    failure: MergefrontError | None = None
    try:
        per_question = drift(engine, sources, groups, flat, progress)
    except MergefrontError as error:
        # The frames of the traceback hold the model, which `close` is to let go of: drop them.
        failure = error.with_traceback(None)
        failure.__context__ = failure.__cause__ = None
    except RuntimeError as error:  # torch's, such as too little memory
        failure = EngineError(f"activations: {str(error).splitlines()[0]}")
    finally:
        engine.close()
    if failure is not None:
        raise failure
    return _by_objective(per_question, questions)


def _by_objective(
    per_question: Mapping[str, Mapping[str, Sequence[float]]],
    questions: Mapping[str, Sequence[Item]],
) -> Changes:
    """Means over each objective's questions, which lie one objective after the other."""
    changes: dict[str, dict[str, dict[str, float]]] = {}
    first = 0
    for objective, items in questions.items():
        span = slice(first, first + len(items))
        changes[objective] = {
            donor: {group: fmean(values[span]) for group, values in row.items()}
            for donor, row in per_question.items()
        }
        first += len(items)
    return changes


@dataclass(frozen=True)
class _Holder:
    """A module and the tensors of one group that it holds: (name of its parameter, target)."""

    module: nn.Module
    group: str
    tensors: tuple[tuple[str, Target], ...]


_Call = tuple[tuple[Any, ...], Mapping[str, Any]]
"""The arguments that a module was called with, at the last position, on the CPU."""


def drift(
    engine: TransformersEngine,
    sources: Sources,
    groups: Collection[str],
    items: Sequence[Item],
    progress: Progress = lambda finished, total: None,
) -> Drift:
    """Measure all donors on N questions; `engine` serves the receiver, and keeps its weights.

    `groups` names those to measure. Each list has N values, in the questions' order. A question
    counts 0 for a group of which it calls no module.

    Raises:
        UserError: a donor has no base to take its change from.
        EngineError: a question cannot be asked, or the receiver's modules cannot be run by
            themselves; memory that does not suffice is reported so as well.
    """
    _check_bases(sources)
    selected = [group for group in sources.groups if group.name in groups]
    holders = _holders(engine.network, engine.targets(selected))
    steps = len(items) + len(holders)
    values: dict[str, dict[str, list[list[float]]]] = {
        donor: {group.name: [[] for _ in items] for group in selected} for donor in sources.donors
    }
    try:
        calls = []
        for number, item in enumerate(items):
            calls.append(_record_calls(engine, holders, item))
            progress(number + 1, steps)
        for number, holder in enumerate(holders):
            module_calls = {
                place: by_module[holder.module]
                for place, by_module in enumerate(calls)
                if holder.module in by_module
            }
            for donor in sources.donors:
                change = _relative_changes(holder, sources, donor, list(module_calls.values()))
                for place, value in zip(module_calls, change, strict=True):
                    values[donor][holder.group][place].append(value)
            progress(len(items) + number + 1, steps)
    except (RuntimeError, TypeError, ValueError) as error:
        raise EngineError(f"the receiver's activations cannot be taken: {error}") from error
    return {
        donor: {name: [fmean(each or [0.0]) for each in rows] for name, rows in by_group.items()}
        for donor, by_group in values.items()
    }


def _check_bases(sources: Sources) -> None:
    for donor in sources.donors:
        sources.model(f"base:{donor}")


def _holders(network: nn.Module, targets: Sequence[Target]) -> list[_Holder]:
    """Find the modules that hold the targets: by storage, for a target may be part of a parameter.

    Raises:
        EngineError: a target lies in no module's own parameter.
    """
    owners = {
        _storage(parameter): (module, name)
        for module in network.modules()
        for name, parameter in module.named_parameters(recurse=False)
    }
    by_owner: dict[tuple[nn.Module, str], list[tuple[str, Target]]] = {}
    for target in targets:
        owner = owners.get(_storage(target.live))
        if owner is None:
            raise EngineError(f"{target.tensor}: no module of the receiver holds it")
        module, name = owner
        by_owner.setdefault((module, target.group.name), []).append((name, target))
    return [_Holder(module, group, tuple(rows)) for (module, group), rows in by_owner.items()]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _record_calls(
    engine: TransformersEngine, holders: Sequence[_Holder], item: Item
) -> dict[nn.Module, _Call]:
    """Run one prompt and record what each module is first called with, at the last position."""
    inputs = engine.prompt(item)
    last = partial(_last_position, length=int(inputs["input_ids"].shape[1]))
    calls: dict[nn.Module, _Call] = {}

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module not in calls:
            named = {name: last(value) for name, value in kwargs.items()}
            calls[module] = tuple(map(last, args)), named

    hooks = [
        module.register_forward_pre_hook(record, with_kwargs=True)
        for module in {holder.module for holder in holders}
    ]
    try:
        engine.begin(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _last_position(value: Any, length: int) -> Any:
    """The last of `length` positions of a tensor, whichever its dimension, as a copy in RAM.

    A tensor without such a dimension is kept whole: the head sees the last position alone.
    """
    if not isinstance(value, Tensor):
        return value
    if length in value.shape:
        value = value.narrow(value.shape.index(length), length - 1, 1)
    return value.detach().clone().cpu()


@torch.no_grad()
def _relative_changes(
    holder: _Holder, sources: Sources, donor: str, calls: Sequence[_Call]
) -> list[float]:
    """Squared relative change of a module's output by a donor's change, call by call."""
    parameters = dict(holder.module.named_parameters(recurse=False))
    before = {name: parameter.detach().float().clone() for name, parameter in parameters.items()}
    after = {name: tensor.clone() for name, tensor in before.items()}
    for name, target in holder.tensors:
        change = (
            sources.tensor(donor, target.tensor).float()
            - sources.tensor(f"base:{donor}", target.tensor).float()
        )
        _same_part(after[name], parameters[name], target.live).add_(change.to(target.live.device))
    with swapped(parameters, before):
        outputs_before = [_run(holder.module, call) for call in calls]
    with swapped(parameters, after):
        outputs_after = [_run(holder.module, call) for call in calls]
    return [_relative(a, b) for a, b in zip(outputs_before, outputs_after, strict=True)]


def _same_part(copy: Tensor, parameter: Tensor, part: Tensor) -> Tensor:
    """The part of a parameter's copy (of the same strides) that `part` is of the parameter."""
    offset = part.storage_offset() - parameter.storage_offset()
    return copy.as_strided(part.size(), part.stride(), offset)


def _run(module: nn.Module, call: _Call) -> Tensor:
    """Call a module again, without its hooks; of several values that it returns, the first."""
    device = next(module.parameters()).device

    def on_device(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, torch.float32 if value.is_floating_point() else value.dtype)

    args, kwargs = call
    named = {name: on_device(value) for name, value in kwargs.items()}
    returned = module.forward(*map(on_device, args), **named)
    output: Tensor = returned[0] if isinstance(returned, tuple) else returned
    return output.float()


def _relative(before: Tensor, after: Tensor) -> float:
    """|after - before|^2 / |before|^2; 0 where there is nothing to compare with."""
    whole = float(before.double().square().sum())
    return float((after - before).double().square().sum()) / whole if whole else 0.0


def shares(changes: Changes, groups: Sequence[Group]) -> CoefficientTable:
    """Return donor -> group -> r_gain / (r_gain + r_keep), in [0, 1].

    A group in which a donor changes nothing has no say, and must not pull a curve over depth: it
    gets the mean of the donor's groups of its part, or of all; 0 if the donor changes nothing.
    """
    gain, *keep = changes.values()
    parts = {group.name: group.part for group in groups}
    table: dict[str, dict[str, float]] = {}
    for donor, row in gain.items():
        sums = {name: (r, fmean(rows[donor][name] for rows in keep)) for name, r in row.items()}
        defined = {name: r / (r + k) for name, (r, k) in sums.items() if r + k > 0}
        table[donor] = {}
        for name in row:
            alike = [share for group, share in defined.items() if parts[group] == parts[name]]
            mean = fmean(alike or defined.values() or [0.0])
            table[donor][name] = defined.get(name, mean)
    return table


def tables(changes: Changes, groups: Sequence[Group]) -> list[TextTable]:
    """Return a table for each donor, with a row for each layer and three columns for each part.

    The columns are the changes, in percent of the receiver's own output, and the share of the first
    objective, empty where nothing changes.
    """
    gain, *keep = changes
    result = []
    for donor, row in shares(changes, groups).items():
        measured = {group.name: group for group in groups if group.name in row}
        parts = list(dict.fromkeys(g.part for g in measured.values() if g.layer is not None))
        rows: dict[str, list[str]] = {}
        for name, group in measured.items():
            label = name if group.layer is None else str(group.layer)
            cells = rows.setdefault(label, [label, *[""] * (3 * len(parts))])
            change_keep = fmean(changes[objective][donor][name] for objective in keep)
            change_gain = changes[gain][donor][name]
            place = 1 + 3 * parts.index(group.part) if group.part in parts else 1
            share = f"{row[name]:.3f}" if change_gain + change_keep else ""
            cells[place : place + 3] = [
                f"{100 * change_gain:.3g}",
                f"{100 * change_keep:.3g}",
                share,
            ]
        columns = ["layer", *(c for part in parts for c in (f"{part}: {gain}", "others", "share"))]
        title = f"{donor}: squared change of the receiver's outputs, %, and share of {gain}"
        result.append(TextTable(title, columns, list(rows.values())))
    return result
