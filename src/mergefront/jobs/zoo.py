"""What `mergefront zoo` lists: the built-in models and questions. The zoo itself is in `zoo`."""

from __future__ import annotations

import math
from typing import Any, Final

from mergefront import zoo
from mergefront.models.checkpoint import Checkpoint, architecture_of
from mergefront.records import SPLITS

TASKS: Final = ("digits_reasoning", "digits_perception")


def zoo_listing() -> dict[str, list[dict[str, Any]]]:
    """List each built-in model by its header, and the questions in each split of a task."""
    models = []
    for name in zoo.MODELS:
        checkpoint = Checkpoint.open(zoo.model_folder(name))
        models.append({
            "name": f"zoo:{name}",
            "class": architecture_of(checkpoint.config),
            "parameters": sum(math.prod(h.shape) for h in checkpoint.headers.values()),
            "folder": str(checkpoint.folder),
        })  # fmt: skip
    questions = []
    for task in TASKS:
        splits = [row["split"] for row in zoo.questions(task)]
        questions += [
            {"task": task, "split": split, "questions": splits.count(split)} for split in SPLITS
        ]
    return {"models": models, "questions": questions}
