"""Warm starts: the candidates that a search evaluates before its sampler proposes any.

By name, in `search.warm_start`:
- `receiver`: coefficient 0 everywhere;
- `uniform`: the same coefficient for every donor in every layer: a quarter, half, three quarters
  and the whole of the top, which is the knobs' upper bound, or 1 where the bound is above that;
- `start`: every knob at its start;
- `donors`: each donor alone, at the top everywhere;
- `paper`: the founding paper's mix, nine tenths receiver and one tenth donors, who share the tenth
  equally (arXiv:2505.05464, section 2);
- `ramp`: none of the donors in the first layer, nearly the top in the last: top (1 - exp(-3 x)) at
  depth x in [0, 1], and half of it. FRANK's preference for vision in early layers, which decays
  exponentially with depth (arXiv:2505.16151, equation 15), but scaled to its first layer and not
  to a sum over all layers, which leaves next to no ramp in a deep model;
- `importance`: in each group top |t_k|^2 / (|t_R|^2 + sum_j |t_j|^2), t the task vectors of the
  receiver (R) and the donors: a donor counts where it has changed more than the receiver has. The
  closed form of MetaGPT (arXiv:2406.11385) by group, and FRANK's without its prior. Needs a base;
- `activations`: in each group top r_gain / (r_gain + r_keep), r the donor's squared relative change
  of the receiver's outputs on questions of the first objective and of the others; and half of it
  (`engine.activations`; after LOT Merging, arXiv:2505.23859). Needs a base and loads the receiver;
- `earlier`: the fronts of the runs in `search.transfer`, which searched the same models.
What does not lie in the space becomes its nearest point, by least squares within the bounds. What
decodes to a model that came before is left out.

Not here: who proposes the rest (`sampling`), how earlier runs are read (`runs.earlier`).

Reading order: `warm_points`, `enqueue`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import optuna

from mergefront.config import WarmStart
from mergefront.engine import activations
from mergefront.engine.activations import Changes
from mergefront.errors import EngineError, UserError
from mergefront.merging.methods.gram import gram
from mergefront.models.sources import Sources
from mergefront.runs.earlier import Earlier
from mergefront.space.space import Space

logger = logging.getLogger(__name__)

Point = tuple[float, ...]
Start = tuple[str, Point]
"""(origin, point in [0, 1]^D) of a warm start."""

PAPER_SHARE: Final = 0.1
"""Of the donors together, in the founding paper's mix."""
RAMP_RATE: Final = 3.0
"""Of the ramp, per depth of the whole stack."""

_QUEUED: Final = "warm starts"  # attribute of a study that holds them all
_DECIMALS: Final = 9  # to which two models' coefficients are compared


def warm_points(
    space: Space,
    names: Sequence[WarmStart],
    sources: Sources | None = None,
    earlier: Sequence[Earlier] = (),
    measure: Callable[[], Changes] | None = None,
) -> list[Start]:
    """Return the warm starts of some names in their order, no model twice.

    `sources` are read for `importance` only, `measure` is called for `activations` only. A name
    that makes no sense in the space, or for which something is missing, is left out with a warning.
    """
    makers: dict[WarmStart, Callable[[], Iterator[Start]]] = {
        "receiver": lambda: iter([("receiver", space.receiver_point())]),
        "uniform": lambda: _uniform(space),
        "start": lambda: iter([("start", space.start_point())]),
        "donors": lambda: _donors(space),
        "paper": lambda: _paper(space),
        "ramp": lambda: _ramp(space),
        "importance": lambda: _importance(space, sources),
        "activations": lambda: _activations(space, measure),
        "earlier": lambda: (
            (member.origin, space.nearest_point(member.table, member.parameters))
            for member in earlier
        ),
    }
    by_model: dict[tuple[Any, ...], Start] = {}
    for name in names:
        try:
            for origin, point in makers[name]():
                by_model.setdefault(_model(space, point), (origin, point))
        except (UserError, EngineError) as problem:
            logger.warning("warm start %s skipped: %s", name, problem.message)
    return list(by_model.values())


def enqueue(study: optuna.Study, points: Callable[[], Sequence[Start]], space: Space) -> None:
    """Queue the warm starts once a study; they run before any proposal.

    `points` is called only while the study does not hold all of them, so that a resume needs
    neither norms, nor activations, nor earlier runs.
    """
    if study.user_attrs.get(_QUEUED):
        return
    origins = {t.user_attrs.get("origin") for t in study.get_trials(deepcopy=False)}
    for origin, point in points():
        if origin not in origins:
            params = {knob.name: u for knob, u in zip(space.knobs, point, strict=True)}
            study.enqueue_trial(params, user_attrs={"origin": origin})
    study.set_user_attr(_QUEUED, True)


def _top(space: Space) -> float:
    return min(1.0, space.highest_coefficient)


def _model(space: Space, point: Point) -> tuple[Any, ...]:
    """Return a key that two points share if they decode to the same model."""
    table, parameters = space.table(point), space.parameters(point)
    # Adding 0.0 turns -0.0 into 0.0.
    cells = (round(value, _DECIMALS) + 0.0 for row in table.values() for value in row.values())
    return (*cells, *parameters.values())


def _uniform(space: Space) -> Iterator[Start]:
    """Yield shares of the top. A value outside every line's bounds is left out: clipping it would
    give a model that is not uniform."""
    for share in (0.25, 0.5, 0.75, 1.0):
        value = share * _top(space)
        if any(line.spec.low <= value <= line.spec.high for line in space.lines):
            yield f"uniform {value:g}", space.uniform_point(value)


def _donors(space: Space) -> Iterator[Start]:
    for donor in space.donors:
        value = _top(space)
        yield f"donor {donor} {value:g}", space.uniform_point({donor: value})


def _paper(space: Space) -> Iterator[Start]:
    value = PAPER_SHARE / len(space.donors)
    yield f"paper {value:g}", space.uniform_point(value)


def _ramp(space: Space) -> Iterator[Start]:
    layers = {name: layer for line in space.lines for name, layer in line.group_layers}
    last = max(1, *(group.layer or 0 for group in space.groups))
    for share in (0.5, 1.0):
        top = share * _top(space)
        row = {
            name: top * (1.0 - math.exp(-RAMP_RATE * layer / last))
            for name, layer in layers.items()
        }
        yield f"ramp {top:g}", space.nearest_point(dict.fromkeys(space.donors, row), {})


def _importance(space: Space, sources: Sources | None) -> Iterator[Start]:
    if sources is None:
        raise UserError("there are no models whose norms could be taken")
    table = importance_table(space, sources)
    top = _top(space)
    scaled = {k: {name: top * share for name, share in row.items()} for k, row in table.items()}
    yield f"importance {top:g}", space.nearest_point(scaled, {})


def _activations(space: Space, measure: Callable[[], Changes] | None) -> Iterator[Start]:
    if measure is None:
        raise UserError("there is no receiver whose activations could be taken")
    table = activations.shares(measure(), space.groups)
    for share in (0.5, 1.0):
        top = share * _top(space)
        scaled = {k: {name: top * s for name, s in row.items()} for k, row in table.items()}
        yield f"activations {top:g}", space.nearest_point(scaled, {})


def moved_groups(space: Space) -> set[str]:
    """Names of the groups that the space moves."""
    return {name for line in space.lines for name, _ in line.group_layers}


def importance_table(space: Space, sources: Sources) -> dict[str, dict[str, float]]:
    """Return donor -> group -> share of the squared change that is the donor's, in [0, 1].

    For each group that the space moves: |t_k|^2 over the sum of the squares of all task vectors,
    the receiver's included; 0 where nothing has changed. Each tensor is read once per source.

    Raises:
        UserError: the receiver or a donor has no base to take its change from.
    """
    bases = {donor: f"base:{donor}" for donor in space.donors}
    bases["receiver"] = "base" if "base" in sources.models else bases[space.donors[0]]
    moved = moved_groups(space)
    table: dict[str, dict[str, float]] = {donor: {} for donor in space.donors}
    for group in sources.groups:
        if group.name not in moved:
            continue
        squares = {
            source: math.fsum(_square(sources, source, base, name) for name in group.tensors)
            for source, base in bases.items()
        }
        total = math.fsum(squares.values())
        for donor in space.donors:
            table[donor][group.name] = squares[donor] / total if total else 0.0
    return table


def _square(sources: Sources, source: str, base: str, name: str) -> float:
    """Squared norm of one tensor's change."""
    change = sources.tensor(source, name).float() - sources.tensor(base, name).float()
    return float(gram([change])[0, 0])
