"""How many items a difference needs, from the disagreement that a run has seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from mergefront import stats
from mergefront.errors import RunError, UserError
from mergefront.records import Split
from mergefront.runs.directory import RECEIVER, ItemRecord, RunDirectory
from mergefront.runs.units import of_objective, paired_units


@dataclass(frozen=True)
class Disagreement:
    """How much a run's candidates disagree with its receiver on an objective.

    `discordance` is the median over `models` candidates, from `lowest` to `highest`.
    `design_effect` says how many times more items the clusters make necessary (median).
    """

    objective: str
    split: Split
    units: int
    models: int
    discordance: float
    lowest: float
    highest: float
    design_effect: float


@dataclass(frozen=True)
class ComparisonSize:
    """The items that a `difference` needs, and the difference that `units` items can detect.

    Differences are scores (0.02 is two points of a hundred). `needed` is None where no number of
    items is enough, since two models cannot differ by more than they disagree. `detectable` is None
    without `units`, or where they are too few for any difference.
    """

    difference: float
    discordance: float
    design_effect: float
    power: float
    units: int | None
    needed: int | None
    detectable: float | None


def comparison_size(
    difference: float,
    discordance: float,
    *,
    units: int | None = None,
    power: float = 0.8,
    design_effect: float = 1.0,
) -> ComparisonSize:
    """Return what a paired comparison needs and can detect at a two-sided 5 % level.

    Raises:
        UserError: an argument out of its range.
    """
    if not (0.0 < difference < 1.0 and 0.0 < discordance <= 1.0 and 0.5 <= power < 1.0):
        raise UserError(
            f"a difference of {100 * difference:g} points, a discordance of {discordance:g} and a "
            f"power of {power:g} make no question",
            hint="give --difference between 0 and 100 (points), --discordance between 0 and 1 (the "
            "share of items on which the two models differ), --power from 0.5 to below 1",
        )
    needed = detectable = None
    if difference <= discordance:
        independent = stats.items_needed(difference, discordance, power=power)
        needed = math.ceil(independent * design_effect)
    if units is not None:
        effective = max(1, int(units / design_effect))
        detectable = stats.detectable(effective, discordance, power=power)
        detectable = detectable if math.isfinite(detectable) else None
    return ComparisonSize(difference, discordance, design_effect, power, units, needed, detectable)


def disagreement_of_run(run: RunDirectory) -> list[Disagreement]:
    """Return the disagreement with the receiver by objective, on validation items if possible.

    Raises:
        RunError: no candidate has answered the receiver's items.
    """
    names = [path.stem for path in sorted((run.path / "items").glob("[0-9]*.parquet"))]
    numbers = [str(int(name)) for name in names if name.isdigit()]
    splits: tuple[Split, ...] = ("validation", "search")
    for split in splits:
        base = run.read_with_costs(RECEIVER, split)
        candidates = [run.read_with_costs(number, split) for number in numbers] if base else []
        disagreements = [
            disagreement
            for objective in run.config.objective_tasks
            if (disagreement := _disagreement(objective, split, base, candidates))
        ]
        if disagreements:
            return disagreements
    raise RunError(
        f"{run.path}: no candidate's answers differ from the receiver's, or none are recorded",
        hint="let the search evaluate some candidates, or give --discordance",
    )


def _disagreement(
    objective: str,
    split: Split,
    base: Sequence[ItemRecord],
    candidates: Sequence[Sequence[ItemRecord]],
) -> Disagreement | None:
    rates, effects, units = [], [], 0
    base = of_objective(base, objective)
    for records in filter(None, candidates if base else ()):
        a, b, clusters = paired_units(of_objective(records, objective), base)
        rate = stats.discordance(a, b)
        if rate == 0.0:  # the receiver itself, or its equal
            continue
        units = max(units, len(a))
        rates.append(rate)
        effects.append(stats.design_effect(a, b, clusters))
    if not rates:
        return None
    effect = median([effect for effect in effects if not math.isnan(effect)] or [1.0])
    ends = min(rates), max(rates)
    return Disagreement(objective, split, units, len(rates), median(rates), *ends, effect)
