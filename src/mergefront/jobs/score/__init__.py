"""Ask any model any tasks, and say how good it is: the work behind `score` and `tasks`.

Reading order: `subjects` (what can be scored), `questions` (what is asked), `asking`, `marks`
(scores, intervals, comparisons), `outcome` (what is printed and written). Of tasks alone:
`checking` (what a task file makes of its data, as a page of pictures), `sizing` (how many items a
difference needs).
"""

from __future__ import annotations

from mergefront.jobs.score.asking import Answered, evaluate
from mergefront.jobs.score.outcome import report, write
from mergefront.jobs.score.questions import Questions, Which, chosen, of_run, openings
from mergefront.jobs.score.subjects import Subject, engine_settings, receiver_of, resolve

__all__ = [
    "Answered",
    "Questions",
    "Subject",
    "Which",
    "chosen",
    "engine_settings",
    "evaluate",
    "of_run",
    "openings",
    "receiver_of",
    "report",
    "resolve",
    "write",
]
