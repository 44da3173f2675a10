"""The zoo's questions: one gzipped table, read without any large library."""

from __future__ import annotations

import csv
import gzip
from functools import cache
from typing import Final, Literal, TypedDict, cast

from mergefront.errors import UserError
from mergefront.records import Split
from mergefront.zoo.pictures import FOLDER
from mergefront.zoo.words import TINTS

Task = Literal["digits_perception", "digits_reasoning"]

TASKS: Final[tuple[Task, ...]] = ("digits_perception", "digits_reasoning")
QUESTIONS_FILE: Final = FOLDER / "questions.csv.gz"
COLUMNS: Final = (
    "id",
    "task",
    "split",
    "cluster",
    "kind",
    "scans",
    "tints",
    "question",
    "answer",
)


class Row(TypedDict):
    """One question about one picture.

    Attributes:
        id: unique over all tasks and splits.
        split: search, validation or test; splits share no scan.
        cluster: the block of scans the picture is made of; clusters share no scan.
        kind: what the question is about, such as `count` or `sum`.
        question: the words of the question.
        answer: the one word that answers it.
        scans: four rows of the shipped scans, in reading order of the picture.
        tints: four indices into `words.TINTS`, in the same order.
    """

    id: str
    split: Split
    cluster: str
    kind: str
    question: str
    answer: str
    scans: tuple[int, ...]
    tints: tuple[int, ...]


def questions(task: str) -> list[Row]:
    """Load the questions of a task, all splits, in a fixed random order within each split.

    Raises:
        UserError: if `task` is neither digits_perception nor digits_reasoning.
    """
    if task not in TASKS:
        raise UserError(f"the zoo has no task {task!r}", hint=f"its tasks are {', '.join(TASKS)}")
    return [row.copy() for name, row in _table() if name == task]


@cache
def _table() -> tuple[tuple[str, Row], ...]:
    with gzip.open(QUESTIONS_FILE, "rt", encoding="utf-8", newline="") as file:
        return tuple((line["task"], _row(line)) for line in csv.DictReader(file))


def _row(line: dict[str, str]) -> Row:
    return Row(
        id=line["id"],
        split=cast(Split, line["split"]),
        cluster=line["cluster"],
        kind=line["kind"],
        question=line["question"],
        answer=line["answer"],
        scans=tuple(int(scan) for scan in line["scans"].split()),
        tints=tuple(TINTS.index(tint) for tint in line["tints"].split()),
    )
