"""What came of an evaluation: plain values for the terminal and scores.json, rows for a table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mergefront.files import whole_folder
from mergefront.jobs.score.asking import Answered
from mergefront.jobs.score.marks import Marked, compare, summarise, task_scores
from mergefront.jobs.score.questions import Questions, Which
from mergefront.records import Split
from mergefront.tasks import content_hash
from mergefront.tasks.scoring import SCORER_VERSION

LITTLE = 0.5
"""Less probability than this on the labels, and comparing them says little about the model."""


def report(
    found: Sequence[Answered], questions: Questions, which: Which, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything that is said about one model, or two and their comparison, as plain values.

    What is not known (the error of a single cluster) is None. `notes` come first among the report's
    notes, before what speaks against trusting the numbers.
    """
    told = {
        "format": "mergefront/scores@1",
        "split": which,
        "mode": questions.mode(),
        "mergefront": version("mergefront"),
        "scorer": SCORER_VERSION,
        "items": {
            task: {
                "n": len(questions.of(task)),
                "mode": questions.mode(task),
                "sha256": content_hash(questions.of(task)),
            }
            for task in questions.tasks
        },
        "models": [
            {
                "name": one.subject.name,
                "recipe": one.subject.recipe and one.subject.recipe.hash(),
                "engine": one.subject.settings.kind,
                "tasks": {
                    task: asdict(task_scores(marked, one.blind.get(task, ())))
                    for task, marked in one.tasks.items()
                },
            }
            for one in found
        ],
        "comparison": None
        if len(found) != 2
        else {task: asdict(c) for task, c in compare(found[0].tasks, found[1].tasks).items()},
        "notes": [*notes, *doubts(found)],
    }
    return {key: _known(value) for key, value in told.items()}


def doubts(found: Sequence[Answered]) -> list[str]:
    """What speaks against trusting the numbers, in words."""
    words = []
    for one in found:
        for task, marked in one.tasks.items():
            mass = summarise(marked).mass
            if mass is not None and mass < LITTLE:
                words.append(
                    f"{one.subject.name} begins only {100 * mass:.0f} % of its replies to {task} "
                    "with a label: its prompt should ask for the label alone, or answers should "
                    "be generated"
                )
    return words


def _known(data: Any) -> Any:
    """NaN and infinity as None, for JSON has neither."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _known(value) for key, value in data.items()}
    return [_known(one) for one in data] if isinstance(data, list) else data


def write(out: Path, found: Sequence[Answered], questions: Questions, told: Any) -> None:
    """Write scores.json and items.parquet (one row an item and model) into the new folder `out`.

    Raises:
        UserError: `out` exists or the disk is too full; nothing is left behind.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    homes = {
        (task, item.id): split
        for task, by_split in questions.tasks.items()
        for split, items in by_split.items()
        for item in items
    }
    rows = [
        _row(one.subject.name, marked, homes[marked.item.task, marked.item.id], blind=blind)
        for one in found
        for blind, tasks in ((False, one.tasks), (True, one.blind))
        for task in tasks.values()
        for marked in task
    ]
    with whole_folder(out) as folder:
        pq.write_table(pa.Table.from_pylist(rows), folder / "items.parquet", compression="zstd")
        text = json.dumps(told, indent=1, allow_nan=False)
        (folder / "scores.json").write_text(text, encoding="utf-8")


def _row(model: str, one: Marked, split: Split, *, blind: bool) -> dict[str, Any]:
    item, answer, mark = one.item, one.answer, one.mark
    return {
        "model": model, "task": item.task, "split": split, "item": item.id, "unit": item.unit,
        "cluster": item.cluster, "stratum": item.stratum, "images": len(item.images),
        "blind": blind, "score": mark.value, "extracted": mark.extracted, "status": mark.status,
        "tokens": answer.tokens, "probability": one.probability, "text": answer.text,
    }  # fmt: skip
