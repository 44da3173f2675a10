"""Layer importance from the receiver's activations: where a donor helps more than it disturbs.

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
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

from mergefront.config import EngineConfig
from mergefront.engine.drift import Progress, drift
from mergefront.engine.transformers import TransformersEngine
from mergefront.errors import EngineError, MergefrontError, UserError
from mergefront.merging.sources import Sources
from mergefront.records import Group, Item, Table

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
    folder = Path(sources.refs.receiver)
    engine = TransformersEngine(settings, sources.refs, "linear", {}, folder=folder)
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
