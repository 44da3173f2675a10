"""Score any model on any tasks: the work behind the verb `score`.

Reading order: `models` (what can be scored), `questions` (on which items; the models answer them),
`report` (scores, intervals, comparisons; what is printed and written).
"""

from __future__ import annotations

from mergefront.jobs.score.models import ScoredModel, engine_settings, find_model, receiver_of
from mergefront.jobs.score.questions import (
    ModelAnswers,
    Questions,
    SplitChoice,
    ask_models,
    questions_of_run,
    questions_of_tasks,
    record_openings,
)
from mergefront.jobs.score.report import ScoreReport, make_report, write_report

__all__ = [
    "ModelAnswers",
    "Questions",
    "ScoreReport",
    "ScoredModel",
    "SplitChoice",
    "ask_models",
    "engine_settings",
    "find_model",
    "make_report",
    "questions_of_run",
    "questions_of_tasks",
    "receiver_of",
    "record_openings",
    "write_report",
]
