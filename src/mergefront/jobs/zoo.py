"""What `mergefront zoo` lists: the built-in models and questions. The zoo itself is in `zoo`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from mergefront import zoo
from mergefront.models.checkpoint import Checkpoint, architecture_of
from mergefront.records import SPLITS, Split

TASKS: Final = ("digits_reasoning", "digits_perception")


@dataclass(frozen=True)
class ZooModel:
    """One built-in model: the name that configurations use, and its size."""

    name: str
    architecture: str
    parameters: int
    folder: str


@dataclass(frozen=True)
class ZooQuestions:
    """How many questions one split of a built-in task has."""

    task: str
    split: Split
    questions: int


@dataclass(frozen=True)
class ZooListing:
    """Everything `mergefront zoo` prints."""

    models: tuple[ZooModel, ...]
    questions: tuple[ZooQuestions, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for --json."""
        models = [
            {
                "name": model.name,
                "class": model.architecture,
                "parameters": model.parameters,
                "folder": model.folder,
            }
            for model in self.models
        ]
        return {"models": models, "questions": [asdict(row) for row in self.questions]}


def zoo_listing() -> ZooListing:
    """Read the headers of all built-in models, and count the questions of each split."""
    return ZooListing(
        tuple(_model(name) for name in zoo.MODELS),
        tuple(
            ZooQuestions(task, split, sum(row["split"] == split for row in zoo.questions(task)))
            for task in TASKS
            for split in SPLITS
        ),
    )


def _model(name: str) -> ZooModel:
    checkpoint = Checkpoint.open(zoo.model_folder(name))
    return ZooModel(
        name=f"zoo:{name}",
        architecture=architecture_of(checkpoint.config),
        parameters=sum(math.prod(header.shape) for header in checkpoint.headers.values()),
        folder=str(checkpoint.folder),
    )
