"""What is said about one scored model, or two and their comparison; and the files that hold it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mergefront.engine.answering import MarkedAnswer
from mergefront.files import whole_folder
from mergefront.jobs.score.answers import ModelAnswers
from mergefront.jobs.score.questions import Mode, Questions, SplitChoice
from mergefront.jobs.score.summary import (
    TaskComparison,
    TaskScores,
    compare,
    label_probability,
    summarise,
    task_scores,
)
from mergefront.records import Split
from mergefront.tasks import content_hash
from mergefront.tasks.scoring import SCORER_VERSION

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
        report: dict[str, Any] = _without_nan(
            {**opening, "mode": values.pop("mode"), **versions, **values}
        )
        return report


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


def _without_nan(data: Any) -> Any:
    """Replace NaN and infinity by None, for JSON has neither."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _without_nan(value) for key, value in data.items()}
    return [_without_nan(value) for value in data] if isinstance(data, list) else data


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
