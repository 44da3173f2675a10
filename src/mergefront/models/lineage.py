"""Does each donor descend from the base that its delta is taken from? A look at samples of weights.

Fine-tuning moves weights little: their direction stays almost the same through instruction tuning,
preference training and even continued pretraining, while models trained apart are about
orthogonal (arXiv:2312.04828, section 3). So for a base that is the ancestor the delta's norm is a
few percent of the base's, up to some twenty after long continued pretraining; for one that is not,
it is near sqrt(2) = 141 %. The limits below lie between; they warn and never refuse.

- `FAR` = 0.3 (cosine of the weights about 0.95): twice what continued pretraining does, a fifth of
  what a stranger has. A release of the same family retrained from it lies here too.
- `NEARER` = 0.5: another base or donor is closer than half the base's distance. Siblings are not:
  deltas from one parent are almost orthogonal (arXiv:2212.04089, figure 5), so that a sibling is
  farther than the parent, by sqrt(2) if both moved alike.
- `SHARED` = 0.5: cosine of the receiver's and the donor's delta. Two trainings share that much only
  if both began at a later model than the base, an instruction-tuned one for instance. Half the
  delta is then what the receiver has already, and is added to it twice.

Sampled: `ROWS` rows in the middle of up to `TENSORS` matrices of attention and of MLP in every
layer; the same every time, some 20 MB for a model of 7 B. Not here: all of the deltas (`deltas`).

Reading order: `check_lineage`, `LineageFinding`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final, Literal, TypeVar

import torch

from mergefront.models.sources import Sources

T = TypeVar("T")

FAR: Final = 0.3
NEARER: Final = 0.5
SHARED: Final = 0.5
ROWS: Final = 16
TENSORS: Final = 2
PARTS: Final = ("attention", "mlp")

Kind = Literal["far", "nearer", "shared", "same_as_base", "same_as_receiver"]
_ADVICE: Final = "look up on the donor's model card what it was fine-tuned from, and name that"


@dataclass(frozen=True)
class LineageFinding:
    """One thing about one donor that fine-tuning from its base does not explain.

    `base` is the source that its delta is taken from, `suggestion` the source whose model would be
    the better one, if any at hand is.
    """

    kind: Kind
    donor: str
    base: str
    suggestion: str | None
    message: str
    hint: str


@dataclass(frozen=True)
class Kinship:
    """What was measured of one donor, source names throughout.

    By part: `relative`, its delta's norm over the base's, and `cosine` of the weights themselves.
    Over both parts: its `distances` to all models and the `receiver`'s to the base, over the
    base's norm; `shared`, the cosine of its delta and the receiver's, None if either is zero.
    `same` names base and receiver if its weights are theirs: all of them, not only the sample.
    """

    donor: str
    base: str
    relative: Mapping[str, float]
    cosine: Mapping[str, float]
    distances: Mapping[str, float]
    receiver: float
    shared: float | None
    same: tuple[str, ...]


def check_lineage(sources: Sources) -> list[LineageFinding]:
    """Return what looks wrong with the donors' bases, in the donors' order; empty if nothing does.

    Donors without a base, their own or common, are left out: their delta is from the receiver.
    """
    return [finding for kinship in measure_kinships(sources) for finding in judge_kinship(kinship)]


def measure_kinships(sources: Sources) -> list[Kinship]:
    """Measure how each donor that has a base lies to it and to the other models, in fp64."""
    donors = [alias for alias in sources.donors if f"base:{alias}" in sources.models]
    names: dict[str, str] = {}
    for source, model in sources.models.items():
        names.setdefault(model.label, source)
    if not donors:
        return []
    squares = {part: _squares(sources, list(names.values()), part) for part in PARTS}
    found = []
    for alias in donors:
        base = names[sources.models[f"base:{alias}"].label]
        kinship = _kinship(squares, alias, names[sources.models[alias].label], base)
        equal = (one for one in (base, "receiver") if kinship.distances[one] == 0.0)
        found.append(
            replace(kinship, same=tuple(one for one in equal if _same(sources, alias, one)))
        )
    return found


def judge_kinship(kinship: Kinship) -> Iterator[LineageFinding]:
    """Say what a donor's measures mean."""
    donor, base, distances = kinship.donor, kinship.base, kinship.distances

    def found(kind: Kind, message: str, hint: str, suggestion: str | None = None) -> LineageFinding:
        return LineageFinding(kind, donor, base, suggestion, f"donor {donor!r} {message}", hint)

    if base in kinship.same:
        message = f"has the weights of {_called(base)}, from which its delta is taken: it is zero"
        yield found("same_as_base", message, "one of the two is named wrongly")
        return
    if "receiver" in kinship.same:
        message = "has the receiver's own language weights: there is nothing to gain from it"
        yield found("same_as_receiver", message, "name another donor")
    others = [
        name
        for name, distance in distances.items()
        if name not in (base, donor, "receiver") and distance > 0.0
    ]
    nearest = min(others, key=lambda name: (distances[name], name), default=base)
    far = max(kinship.relative.values())
    where = f"lies {_percent(far)} of the norm of {_called(base)} away from it"
    if distances[nearest] < NEARER * distances[base]:
        ancestor = nearest if nearest.partition(":")[0] == "base" else None
        hint = f"name the model of {_called(nearest)} as its `base`" if ancestor else _ADVICE
        message = f"{where}, but only {_percent(distances[nearest])} from {_called(nearest)}"
        yield found("nearer", message, hint, ancestor)
    elif far > FAR:
        also = f" (the receiver lies {_percent(kinship.receiver)} away)"
        yield found("far", f"{where}{also}, farther than fine-tuning goes", _ADVICE)
    elif "receiver" not in kinship.same and (kinship.shared or 0.0) > SHARED:
        message = (
            f"and the receiver have deltas from {_called(base)} with cosine {kinship.shared:.2f}: "
            "both seem to descend from a later model"
        )
        yield found("shared", message, "name that later model as `base`, if there is one")


def _called(source: str) -> str:
    """A source's name in a sentence."""
    if source.startswith("base:"):
        return f"the base of donor {source.removeprefix('base:')!r}"
    return f"the {source}" if source in ("receiver", "base") else f"donor {source!r}"


def _squares(sources: Sources, names: Sequence[str], part: str) -> dict[tuple[str, str], float]:
    """Return the sums of (a - b)**2 for each pair of sources, and of a**2 under (a, "")."""
    sums = dict.fromkeys([*combinations(names, 2), *((name, "") for name in names)], 0.0)
    for tensor, rows in _sample(sources, part):
        weights = {name: sources.rows(name, tensor, rows).double() for name in names}
        for a, b in sums:
            difference = weights[a] - weights[b] if b else weights[a]
            sums[a, b] += float(difference.square().sum())
    return sums | {(b, a): value for (a, b), value in sums.items() if b}


def _sample(sources: Sources, part: str) -> Iterator[tuple[str, slice]]:
    """Yield (tensor, rows) of every layer."""
    for group in sources.groups:
        if group.part != part or group.layer is None:
            continue
        shapes = {name: sources.receiver.headers[name].shape for name in group.tensors}
        matrices = [name for name, shape in shapes.items() if len(shape) > 1]
        for name in _spread(matrices, TENSORS):
            rows = shapes[name][0]
            count = min(ROWS if len(shapes[name]) == 2 else 1, rows)
            first = (rows - count) // 2
            yield name, slice(first, first + count)


def _spread(values: Sequence[T], count: int) -> list[T]:
    """Return up to `count` of the values, evenly spaced, the first among them."""
    count = min(count, len(values))
    return [values[number * len(values) // count] for number in range(count)]


def _kinship(
    squares: Mapping[str, Mapping[tuple[str, str], float]], alias: str, donor: str, base: str
) -> Kinship:
    """`donor` and `base` are the names under which `squares` has them: one, if they are one."""
    total = {pair: sum(of[pair] for of in squares.values()) for pair in squares[PARTS[0]]}

    def from_base(sums: Mapping[tuple[str, str], float], a: str, b: str) -> float:
        return math.sqrt(sums.get((a, b), 0.0) / sums[base, ""]) if sums[base, ""] else math.inf

    def cosine(sums: Mapping[tuple[str, str], float]) -> float:
        sizes = sums[donor, ""], sums[base, ""]
        both = sum(sizes) - sums.get((donor, base), 0.0)
        return both / 2 / math.sqrt(math.prod(sizes)) if all(sizes) else 0.0

    return Kinship(
        donor=alias,
        base=base,
        relative={part: from_base(sums, donor, base) for part, sums in squares.items()},
        cosine={part: cosine(sums) for part, sums in squares.items()},
        distances={name: from_base(total, donor, name) for name, other in total if not other},
        receiver=from_base(total, "receiver", base),
        shared=_shared(total, donor, base),
        same=(),
    )


def _same(sources: Sources, a: str, b: str) -> bool:
    """Compare every tensor but embedding and head, up to the first that differs."""
    if sources.models[a] is sources.models[b]:
        return True
    groups = (group for group in sources.groups if group.part not in ("embedding", "head"))
    names = (name for group in groups for name in group.tensors)
    return all(
        torch.equal(sources.tensor(a, name).float(), sources.tensor(b, name).float())
        for name in names
    )


def _shared(total: Mapping[tuple[str, str], float], donor: str, base: str) -> float | None:
    """Cosine of donor - base and receiver - base, from the three sides of their triangle."""
    one = total.get((donor, base), 0.0)
    two = total.get(("receiver", base), 0.0)
    if one == 0.0 or two == 0.0:
        return None
    return (one + two - total[donor, "receiver"]) / 2 / math.sqrt(one * two)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"
