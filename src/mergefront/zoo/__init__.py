"""The embedded default: four tiny real checkpoints and questions about handwritten digits.

With it a first search needs no download. `vlm` answers perception questions about pictures
of four tinted digits; `base` is the language model it was built on; `arithmetic` and
`comparison` are text-only donors fine-tuned from base, each of which knows half of the
reasoning questions and disturbs perception in its own way.

The package holds the checkpoints, the questions and the scans. The code that trained the models
lies in tools/zoo of the repository (`python -m tools.zoo.train`). Importing this package imports
neither torch nor transformers.

Reading order: `questions` and `pictures` (what is asked and shown), `words` (the vocabulary).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mergefront.errors import UserError
from mergefront.zoo.pictures import FOLDER, render
from mergefront.zoo.questions import TASKS, Row, questions

__all__ = ["MODELS", "TASKS", "Row", "model_folder", "questions", "render"]

MODELS: Final[tuple[str, ...]] = ("vlm", "base", "arithmetic", "comparison")


def model_folder(name: str) -> Path:
    """Return the checkpoint folder of a model of the zoo.

    Raises:
        UserError: if the zoo has no such model.
    """
    if name not in MODELS:
        raise UserError(
            f"the zoo has no model {name!r}", hint=f"its models are {', '.join(MODELS)}"
        )
    return FOLDER / name
