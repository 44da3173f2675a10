"""Whether each donor descends from the base that its delta is taken from, by samples of weights.

Fine-tuning moves weights little: their direction stays almost the same through instruction tuning,
preference training and even continued pretraining, while models trained apart are about
orthogonal (arXiv:2312.04828, section 3). So for a base that is the ancestor the delta's norm is a
few percent of the base's, and up to about twenty after long continued pretraining. For a base that
is not, it is near sqrt(2) = 141 %. The limits below lie between; they warn and never refuse.

- `FAR` = 0.3 (cosine of the weights about 0.95): twice the distance after continued pretraining, a
  fifth of a stranger's. A release of the same family that was retrained from it lies here too.
- `NEARER` = 0.5: another base or donor is closer than half the base's distance. Siblings are not:
  deltas from one parent are almost orthogonal (arXiv:2212.04089, figure 5), so that a sibling is
  farther than the parent, by sqrt(2) if both moved equally far.
- `SHARED` = 0.5: cosine of the receiver's and the donor's delta. Two trainings share that much only
  if both began at a later model than the base, for instance an instruction-tuned one. Then the
  receiver has half of the delta already, and a merge adds it twice.

The sample is `ROWS` rows in the middle of up to `TENSORS` matrices of attention and of MLP in every
layer. It is the same every time: some 20 MB for a model of 7 B. Not here: whole deltas
(`jobs.inspect`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final, Literal

import torch

from mergefront.models.sources import Sources

FAR: Final = 0.3
NEARER: Final = 0.5
SHARED: Final = 0.5
ROWS: Final = 16
TENSORS: Final = 2
PARTS: Final = ("attention", "mlp")

FindingKind = Literal["far", "nearer", "shared", "same_as_base", "same_as_receiver"]
_ADVICE: Final = "look up on the donor's model card what it was fine-tuned from, and name that"


@dataclass(frozen=True)
class LineageFinding:
    """An observation on one donor that fine-tuning from its base does not explain.

    `base` is the source that its delta is taken from, `suggestion` the source whose model would be
    the better base, if there is one among the sources.
    """

    kind: FindingKind
    donor: str
    base: str
    suggestion: str | None
    message: str
    hint: str


@dataclass(frozen=True)
class Kinship:
    """How one donor's weights lie to those of the other models; keys are source names.

    By part: `relative`, its delta's norm over the base's, and `cosine`, of the weights themselves.
    Over both parts: its `distances` to all models, and the `receiver`'s to the base, over the
    base's norm; `shared`, the cosine of its delta and the receiver's, None if either is zero.
    `same` names base or receiver if all weights of the donor equal theirs, not only the sample.
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
    """Return the findings on the donors' bases, in the donors' order.

    Donors without a base, their own or common, are left out: their delta is from the receiver.
    """
    return [finding for kinship in measure_kinships(sources) for finding in judge_kinship(kinship)]


def measure_kinships(sources: Sources) -> list[Kinship]:
    """Measure each donor that has a base against it and the other models, in fp64."""
    donors = [alias for alias in sources.donors if f"base:{alias}" in sources.models]
    names: dict[str, str] = {}
    for source, model in sources.models.items():
        names.setdefault(model.label, source)
    if not donors:
        return []
    squares = {part: _squares(sources, list(names.values()), part) for part in PARTS}
    kinships = []
    for alias in donors:
        base = names[sources.models[f"base:{alias}"].label]
        kinship = _kinship(squares, alias, names[sources.models[alias].label], base)
        same = tuple(
            source
            for source in (base, "receiver")
            if kinship.distances[source] == 0.0 and _same(sources, alias, source)
        )
        kinships.append(replace(kinship, same=same))
    return kinships


def judge_kinship(kinship: Kinship) -> Iterator[LineageFinding]:
    """Yield the findings on one donor."""
    donor, base, distances = kinship.donor, kinship.base, kinship.distances

    def finding(
        kind: FindingKind, message: str, hint: str, suggestion: str | None = None
    ) -> LineageFinding:
        return LineageFinding(kind, donor, base, suggestion, f"donor {donor!r} {message}", hint)

    if base in kinship.same:
        message = f"has the weights of {_called(base)}, so that its delta is zero"
        yield finding("same_as_base", message, "name another model for one of the two")
        return
    if "receiver" in kinship.same:
        message = "has the receiver's own language weights: there is nothing to gain from it"
        yield finding("same_as_receiver", message, "name another donor")
    alternatives = [
        name
        for name, distance in distances.items()
        if name not in (base, donor, "receiver") and distance > 0.0
    ]
    nearest = min(alternatives, key=lambda name: (distances[name], name), default=base)
    far = max(kinship.relative.values())
    where = f"lies {_percent(far)} of the norm of {_called(base)} away from it"
    if distances[nearest] < NEARER * distances[base]:
        ancestor = nearest if nearest.partition(":")[0] == "base" else None  # no donor is a base
        hint = f"name the model of {_called(nearest)} as its `base`" if ancestor else _ADVICE
        message = f"{where}, but only {_percent(distances[nearest])} from {_called(nearest)}"
        yield finding("nearer", message, hint, ancestor)
    elif far > FAR:
        also = f" (the receiver lies {_percent(kinship.receiver)} away)"
        yield finding("far", f"{where}{also}, farther than fine-tuning goes", _ADVICE)
    elif "receiver" not in kinship.same and (kinship.shared or 0.0) > SHARED:
        message = (
            f"and the receiver have deltas from {_called(base)} with cosine {kinship.shared:.2f}: "
            "both seem to descend from a later model"
        )
        yield finding("shared", message, "name that later model as `base`, if there is one")


def _called(source: str) -> str:
    """Return a source's name for a sentence."""
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
        n_sampled = min(TENSORS, len(matrices))
        for name in (matrices[number * len(matrices) // n_sampled] for number in range(n_sampled)):
            rows = shapes[name][0]
            count = min(ROWS if len(shapes[name]) == 2 else 1, rows)
            first = (rows - count) // 2
            yield name, slice(first, first + count)


def _kinship(
    squares: Mapping[str, Mapping[tuple[str, str], float]], alias: str, donor: str, base: str
) -> Kinship:
    """Compute the measures of one donor; `donor` and `base` are names in `squares`."""
    total = {pair: sum(of[pair] for of in squares.values()) for pair in squares[PARTS[0]]}

    def from_base(sums: Mapping[tuple[str, str], float], a: str, b: str) -> float:
        return math.sqrt(sums.get((a, b), 0.0) / sums[base, ""]) if sums[base, ""] else math.inf

    def cosine(sums: Mapping[tuple[str, str], float]) -> float:
        sizes = sums[donor, ""], sums[base, ""]
        dot_product = (sum(sizes) - sums.get((donor, base), 0.0)) / 2
        return dot_product / math.sqrt(math.prod(sizes)) if all(sizes) else 0.0

    return Kinship(
        donor=alias,
        base=base,
        relative={part: from_base(sums, donor, base) for part, sums in squares.items()},
        cosine={part: cosine(sums) for part, sums in squares.items()},
        distances={name: from_base(total, donor, name) for name, second in total if not second},
        receiver=from_base(total, "receiver", base),
        shared=_shared(total, donor, base),
        same=(),
    )


def _same(sources: Sources, a: str, b: str) -> bool:
    """Tell whether two sources' tensors are equal, embedding and head left out."""
    if sources.models[a] is sources.models[b]:
        return True
    groups = (group for group in sources.groups if group.part not in ("embedding", "head"))
    names = (name for group in groups for name in group.tensors)
    return all(
        torch.equal(sources.tensor(a, name).float(), sources.tensor(b, name).float())
        for name in names
    )


def _shared(total: Mapping[tuple[str, str], float], donor: str, base: str) -> float | None:
    """Return the cosine of donor - base and receiver - base, by the sides of their triangle."""
    donor_square = total.get((donor, base), 0.0)
    receiver_square = total.get(("receiver", base), 0.0)
    if donor_square == 0.0 or receiver_square == 0.0:
        return None
    dot_product = (donor_square + receiver_square - total[donor, "receiver"]) / 2
    return dot_product / math.sqrt(donor_square * receiver_square)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"
