"""Marked answers -> what is said about a model: scores with intervals, rates, paired comparisons.

Scores count units (items that count only together are one, at the lowest of their scores), rates
and tokens count items. Intervals respect clusters. Nothing here asks a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergefront import stats
from mergefront.engine.asking import MarkedAnswer
from mergefront.records import Answer, Item, Score
from mergefront.runs.directory import ItemRecord, item_records
from mergefront.runs.units import paired_units, units_of
from mergefront.stats import Comparison, Difference
from mergefront.tasks.scoring import score


@dataclass(frozen=True)
class Marked:
    """One question, answered and marked."""

    item: Item
    answer: Answer
    mark: Score

    @property
    def probability(self) -> float | None:
        """Probability of the right labels among all labels, if labels were scored."""
        if not self.answer.logprobs:
            return None
        top = max(self.answer.logprobs)
        weights = [math.exp(x - top) if math.isfinite(top) else 0.0 for x in self.answer.logprobs]
        right = [score(self.item, Answer(text, 1, True)).value for text in self.item.labels]
        total = sum(weights)
        return sum(w * r for w, r in zip(weights, right, strict=True)) / total if total else 0.0

    @property
    def mass(self) -> float | None:
        """Probability that a reply begins with any of the labels, if labels were scored."""
        if not self.answer.logprobs:
            return None
        return sum(math.exp(x) for x in self.answer.logprobs)


@dataclass(frozen=True)
class Summary:
    """A model on some items. `score` is the mean over `units` with its 95 % interval, in [0, 1].

    `no_answer` (nothing there, or nothing that could be read) and `truncated` are shares of the
    `items`, `tokens` their mean length;
    where labels were scored, `probability` is the mean probability of the right ones among them,
    and `mass` that of a reply beginning with any label: low where the prompt asks for more first.
    """

    items: int
    units: int
    score: float
    se: float
    low: float
    high: float
    no_answer: float
    truncated: float
    tokens: float
    probability: float | None
    mass: float | None


@dataclass(frozen=True)
class Blind:
    """The items that have images, asked without: what is right there needs no eyes.

    `gain` is what the images add to the score, paired.
    """

    summary: Summary
    gain: Difference


@dataclass(frozen=True)
class TaskScores:
    """A model on a task: the whole, each stratum, and the mean over strata (each counts alike)."""

    whole: Summary
    strata: Mapping[str, Summary]
    macro: float
    blind: Blind | None = None


@dataclass(frozen=True)
class Compared:
    """Two models on the same units of a task; `p_holm` is p adjusted over the tasks compared."""

    units: int
    comparison: Comparison
    p_holm: float


def summarise(marked: Sequence[Marked]) -> Summary:
    """Describe a model on some items. Raises ValueError if there are none."""
    units = units_of(_records(marked))
    found = stats.estimate(units.scores, units.clusters)
    low, high = stats.wilson(found, clusters=len(set(units.clusters)))
    n = len(marked)
    return Summary(
        items=n,
        units=len(units.scores),
        score=found.mean,
        se=found.se,
        low=low,
        high=high,
        no_answer=sum(one.mark.status in ("no_answer", "parse_error") for one in marked) / n,
        truncated=sum(one.mark.status == "truncated" for one in marked) / n,
        tokens=sum(one.answer.tokens for one in marked) / n,
        probability=_mean([one.probability for one in marked]),
        mass=_mean([one.mass for one in marked]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that are known, or None."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def task_scores(marked: Sequence[Marked], blind: Sequence[Marked] = ()) -> TaskScores:
    """Describe a model on a task; `blind` are the same items without images, where they had any."""
    names = sorted({one.item.stratum for one in marked})
    strata = {name: summarise([m for m in marked if m.item.stratum == name]) for name in names}
    macro = sum(summary.score for summary in strata.values()) / len(strata)
    without = None
    if blind:
        without = Blind(summarise(blind), _compared(marked, blind)[1].difference)
    return TaskScores(summarise(marked), strata, macro, without)


def compare(
    a: Mapping[str, Sequence[Marked]], b: Mapping[str, Sequence[Marked]]
) -> dict[str, Compared]:
    """Task -> a against b, paired unit by unit; p-values adjusted by Holm over the tasks."""
    found = {task: _compared(a[task], b[task]) for task in a}
    adjusted = stats.holm([one.p for _, one in found.values()])
    return {
        task: Compared(units, one, holm)
        for (task, (units, one)), holm in zip(found.items(), adjusted, strict=True)
    }


def _compared(mine: Sequence[Marked], other: Sequence[Marked]) -> tuple[int, Comparison]:
    """The comparison on the items that both answered, and the number of their units."""
    a, b, clusters = paired_units(_records(mine), _records(other))
    return len(a), stats.compare(a, b, clusters)


def _records(marked: Sequence[Marked]) -> list[ItemRecord]:
    # Which split and objective they are of plays no part in what is computed here.
    return item_records({"": [MarkedAnswer(m.item, m.answer, m.mark) for m in marked]}, "search")
