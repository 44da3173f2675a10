"""Plain records that cross module boundaries: no behaviour beyond tiny conveniences.

Shape letters used in names and docstrings all over the project: D knobs (dimensions of the
search space), G groups, K sources, L layers, N items, M objectives.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any, Literal, NamedTuple

Tower = Literal["language", "vision", "connector"]
Part = Literal["attention", "mlp", "norm", "embedding", "head", "other"]
PARTS: tuple[Part, ...] = ("attention", "mlp", "norm", "embedding", "head", "other")

Split = Literal["search", "validation", "test"]
SPLITS: tuple[Split, ...] = ("search", "validation", "test")

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Floating type of weights or of an engine's arithmetic; auto: the receiver's own."""

Status = Literal["ok", "no_answer", "truncated", "parse_error"]

RuleName = Literal[
    "exact",
    "text",
    "number",
    "integer",
    "float",
    "relaxed",
    "list",
    "math",
    "choice",
    "choices",
    "yes_no",
    "vqa",
    "anls",
    "contains",
]

RESULT = "result"
"""Trial attribute with everything about a finished candidate but its point and values."""

Table = Mapping[str, Mapping[str, float]]
"""Coefficients: source alias -> group name -> coefficient (a K x G table)."""


class TextTable(NamedTuple):
    """A table for a person to read: as many cells in each row as there are columns."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Group:
    """Tensors that share a coefficient: one part of one language layer.

    `layer` is None for the parts outside the layer stack (embedding, head and the final norm).
    `tensors` are names in the receiver's checkpoint; all have the dtype `dtype`.
    """

    name: str
    layer: int | None
    part: Part
    tensors: tuple[str, ...]
    dtype: str


@dataclass(frozen=True)
class Rule:
    """How an answer is marked: a scoring rule by name and what it needs to know of the item.

    `digits` is how many decimals answer and gold are rounded to before they are compared;
    `absolute` and `relative` are tolerances (the wider one counts). Which rule reads which is
    said there (`tasks.scoring.mark`).
    """

    name: RuleName
    digits: int | None = None
    absolute: float = 0.0
    relative: float = 0.0


@dataclass(frozen=True)
class Item:
    """One question with its images, as the engine asks it and the scorer marks it.

    `images` are encoded bytes (PNG, JPEG); `cluster` names the items that are not independent of
    this one (same image, same scans); `stratum` is the kind or category within the task. Items that
    count only together (a pair, the variants of a problem) share a `unit`, whose score is the
    lowest of theirs; an item without one counts by itself. An item with `labels` is not answered in
    words: the engine compares the labels' log-probabilities as the first token of an answer.
    """

    id: str
    task: str
    question: str
    images: tuple[bytes, ...]
    answers: tuple[str, ...]
    cluster: str
    stratum: str = ""
    choices: tuple[str, ...] = ()
    max_tokens: int = 16
    rule: Rule = Rule("exact")
    unit: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a model said: `tokens` generated tokens; `finished` is False if cut at max_tokens.

    For an item with labels, `text` is the likeliest label and `logprobs` holds the natural
    logarithm of each label's probability among all that could be said, in the labels' order.
    """

    text: str
    tokens: int
    finished: bool
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Score:
    """A scorer's verdict: `value` in [0, 1], the extracted answer span, and how that went."""

    value: float
    extracted: str
    status: Status


@dataclass(frozen=True)
class Estimate:
    """Mean of `n` item scores in [0, 1] with its standard error (clustered where clusters are).

    `partial` is that part of `se` (they add in squares) that comes of search items which a
    candidate that left early has not answered: 0 for all that answered every item. `tokens` is the
    mean length of an answer; only estimates of costs that are to be shown have it.
    """

    mean: float
    se: float
    n: int
    partial: float = 0.0
    tokens: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without tokens that there are none of."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Seconds:
    """Wall seconds of one candidate: proposing, building, resetting caches, answering, marking,
    and storing the item file."""

    propose: float = 0.0
    build: float = 0.0
    reset: float = 0.0
    generate: float = 0.0
    score: float = 0.0
    record: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def total(self) -> float:
        return self.propose + self.build + self.reset + self.generate + self.score + self.record


@dataclass(frozen=True)
class Raced:
    """How a candidate fared in the race: how many rungs it answered, and how that ended.

    `left` says why it left before the last rung (`race.BEHIND`, `race.COLLAPSED`); it is empty if
    it answered all. `spared` says why it would have left, had it not been one of those that answer
    every item to keep the rule honest. `completed` is set where it left, but was believed to be on
    the front in the end, and so answered the rest before the members were chosen.
    """

    rungs: int = 1
    left: str = ""
    spared: str = ""
    completed: bool = False


@dataclass(frozen=True)
class Evaluation:
    """One finished candidate of a search: its number, its point and its objectives' estimates.

    `point` lies in [0, 1]^D in the order of the space's knobs. `origin` says where it came from
    (a warm start's name, or the sampler's). `failure` is empty unless the candidate failed.
    """

    number: int
    point: tuple[float, ...]
    origin: str
    objectives: Mapping[str, Estimate]
    seconds: Seconds = field(default_factory=Seconds)
    failure: str = ""
    raced: Raced = Raced()

    def answered(self, costs: Collection[str] = ()) -> int:
        """Units answered: those of all objectives but costs, which are scored on the same."""
        return sum(one.n for name, one in self.objectives.items() if name not in costs)
