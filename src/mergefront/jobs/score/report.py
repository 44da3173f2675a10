"""What is said about one scored model, or two and their comparison; and the files that hold it.

Scores count units: items that count only together are one unit, with the lowest of their scores.
Rates and tokens count items. Intervals respect clusters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mergefront import stats
from mergefront.engine.answering import MarkedAnswer
from mergefront.files import whole_folder
from mergefront.jobs.score.questions import Mode, ModelAnswers, Questions, SplitChoice
from mergefront.records import Answer, Split, without_nan
from mergefront.runs.directory import ItemRecord, item_records
from mergefront.runs.units import paired_units, units_of
from mergefront.stats import Interval, PairedComparison
from mergefront.tasks import content_hash
from mergefront.tasks.scoring import SCORER_VERSION, score


@dataclass(frozen=True)
class Summary:
    """A model on some items. `score` is the mean over `units` with its 95 % interval, in [0, 1].

    `no_answer` (no answer, or none that could be read) and `truncated` are shares of the `items`,
    `tokens` is the mean length of a reply. Where labels were scored, `probability` is the mean
    probability of the right labels among all labels. `mass` is the mean probability that a reply
    begins with any label: it is low where the prompt asks for more than a label.
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
class BlindScores:
    """The items with images, answered without them: what is right then needs no eyes.

    `gain` is how much the images add to the score, paired.
    """

    summary: Summary
    gain: Interval


@dataclass(frozen=True)
class TaskScores:
    """A model on a task: the whole, each stratum, and the mean over strata (each counts alike)."""

    whole: Summary
    strata: Mapping[str, Summary]
    macro: float
    blind: BlindScores | None = None


@dataclass(frozen=True)
class TaskComparison:
    """Two models on the same units of a task; `p_holm` is p adjusted over the compared tasks."""

    units: int
    comparison: PairedComparison
    p_holm: float


def label_probability(marked: MarkedAnswer) -> float | None:
    """Return the probability of the right labels among all labels; None without labels."""
    logprobs = marked.answer.logprobs
    if not logprobs:
        return None
    top = max(logprobs)
    weights = [math.exp(x - top) if math.isfinite(top) else 0.0 for x in logprobs]
    right = [score(marked.item, Answer(text, 1, True)).value for text in marked.item.labels]
    total = sum(weights)
    return sum(w * r for w, r in zip(weights, right, strict=True)) / total if total else 0.0


def label_mass(marked: MarkedAnswer) -> float | None:
    """Return the probability that a reply begins with any of the labels; None without labels."""
    return sum(map(math.exp, marked.answer.logprobs)) if marked.answer.logprobs else None


def summarise(answers: Sequence[MarkedAnswer]) -> Summary:
    """Describe a model on some items. Raises ValueError if there are none."""
    units = units_of(_records(answers))
    estimate = stats.estimate(units.scores, units.clusters)
    low, high = stats.wilson(estimate, clusters=len(set(units.clusters)))
    n = len(answers)
    return Summary(
        items=n,
        units=len(units.scores),
        score=estimate.mean,
        se=estimate.se,
        low=low,
        high=high,
        no_answer=sum(a.score.status in ("no_answer", "parse_error") for a in answers) / n,
        truncated=sum(a.score.status == "truncated" for a in answers) / n,
        tokens=sum(a.answer.tokens for a in answers) / n,
        probability=_mean([label_probability(a) for a in answers]),
        mass=_mean([label_mass(a) for a in answers]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the numbers among the values, or None."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def task_scores(answers: Sequence[MarkedAnswer], blind: Sequence[MarkedAnswer] = ()) -> TaskScores:
    """Describe a model on a task; `blind` are its answers without images, where items have any."""
    names = sorted({marked.item.stratum for marked in answers})
    strata = {name: summarise([a for a in answers if a.item.stratum == name]) for name in names}
    macro = sum(summary.score for summary in strata.values()) / len(strata)
    blind_scores = None
    if blind:
        blind_scores = BlindScores(summarise(blind), _compare_task(answers, blind)[1].difference)
    return TaskScores(summarise(answers), strata, macro, blind_scores)


def compare(
    a: Mapping[str, Sequence[MarkedAnswer]], b: Mapping[str, Sequence[MarkedAnswer]]
) -> dict[str, TaskComparison]:
    """Compare two models on each task, paired by unit; adjust p-values by Holm over the tasks."""
    comparisons = {task: _compare_task(a[task], b[task]) for task in a}
    adjusted = stats.holm([comparison.p for _, comparison in comparisons.values()])
    return {
        task: TaskComparison(units, comparison, p_holm)
        for (task, (units, comparison)), p_holm in zip(comparisons.items(), adjusted, strict=True)
    }


def _compare_task(
    a: Sequence[MarkedAnswer], b: Sequence[MarkedAnswer]
) -> tuple[int, PairedComparison]:
    """Compare on the items that both answered; return the number of their units with it."""
    a_scores, b_scores, clusters = paired_units(_records(a), _records(b))
    return len(a_scores), stats.compare(a_scores, b_scores, clusters)


def _records(answers: Sequence[MarkedAnswer]) -> list[ItemRecord]:
    # No statistic here depends on the split or the objective of a record.
    return item_records({"": answers}, "search")


LOW_MASS = 0.5
"""With less probability than this on the labels, comparing them says little about the model."""


@dataclass(frozen=True)
class QuestionSummary:
    """The number of a task's items, how they are answered, and the hash of their content."""

    n: int
    mode: Mode
    sha256: str


@dataclass(frozen=True)
class ModelScores:
    """A model's scores by task; `recipe` is the hash of its recipe, `engine` the engine's kind."""

    name: str
    recipe: str | None
    engine: str
    tasks: Mapping[str, TaskScores]


@dataclass(frozen=True)
class ScoreReport:
    """All that is said about one model, or about two and their `comparison` by task."""

    split: SplitChoice
    mode: Mode
    items: Mapping[str, QuestionSummary]
    models: Sequence[ModelScores]
    comparison: Mapping[str, TaskComparison] | None
    notes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what is unknown (the error of one cluster) is None."""
        values = asdict(self)
        opening = {"format": "mergefront/scores@1", "split": values.pop("split")}
        versions = {"mergefront": version("mergefront"), "scorer": SCORER_VERSION}
        values = {**opening, "mode": values.pop("mode"), **versions, **values}
        return {key: without_nan(value) for key, value in values.items()}


def make_report(
    answers: Sequence[ModelAnswers],
    questions: Questions,
    split: SplitChoice,
    notes: Sequence[str] = (),
) -> ScoreReport:
    """Summarise the answers of one or two models; `notes` come before the caveats."""
    return ScoreReport(
        split,
        questions.mode(),
        {
            task: QuestionSummary(len(items), questions.mode(task), content_hash(items))
            for task in questions.tasks
            for items in [questions.of(task)]
        },
        [
            ModelScores(
                model.name,
                model.recipe.hash() if model.recipe else None,
                model.settings.kind,
                {task: task_scores(marked, blind.get(task, ())) for task, marked in tasks.items()},
            )
            for model, tasks, blind in answers
        ],
        compare(answers[0].tasks, answers[1].tasks) if len(answers) == 2 else None,
        [*notes, *caveats(answers)],
    )


def caveats(answers: Sequence[ModelAnswers]) -> list[str]:
    """Return the reasons, in words, not to trust some of the numbers."""
    return [
        f"{model.name} begins only {100 * mass:.0f} % of its replies to {task} with a label: its "
        "prompt should ask for the label alone, or answers should be generated"
        for model, tasks, _ in answers
        for task, marked in tasks.items()
        if (mass := summarise(marked).mass) is not None and mass < LOW_MASS
    ]


def write_report(
    out: Path, report: ScoreReport, answers: Sequence[ModelAnswers], questions: Questions
) -> None:
    """Write scores.json and items.parquet (one row an item and model) into the new folder `out`.

    Raises:
        UserError: `out` exists or the disk is too full; nothing is left behind.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    splits = {
        (task, item.id): split
        for task, by_split in questions.tasks.items()
        for split, items in by_split.items()
        for item in items
    }
    rows = [
        _row(model.name, marked, splits[marked.item.task, marked.item.id], blind=blind)
        for model, with_images, without in answers
        for blind, tasks in ((False, with_images), (True, without))
        for task in tasks.values()
        for marked in task
    ]
    with whole_folder(out) as folder:
        pq.write_table(pa.Table.from_pylist(rows), folder / "items.parquet", compression="zstd")
        text = json.dumps(report.to_dict(), indent=1, allow_nan=False)
        (folder / "scores.json").write_text(text, encoding="utf-8")


def _row(model: str, marked: MarkedAnswer, split: Split, *, blind: bool) -> dict[str, Any]:
    item, answer, score = marked.item, marked.answer, marked.score
    return {
        "model": model, "task": item.task, "split": split, "item": item.id, "unit": item.unit,
        "cluster": item.cluster, "stratum": item.stratum, "images": len(item.images),
        "blind": blind, "score": score.value, "extracted": score.extracted, "status": score.status,
        "tokens": answer.tokens, "probability": label_probability(marked), "text": answer.text,
    }  # fmt: skip
