"""Plain records that several rooms exchange; they compute next to nothing.

Shape letters used in names and docstrings all over the project: D knobs (dimensions of the
search space), G groups, K sources, L layers, N items, M objectives.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, astuple, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

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

RESULT_ATTRIBUTE = "result"
"""Trial attribute with everything about a finished candidate but its point and values."""

CoefficientTable = Mapping[str, Mapping[str, float]]
"""Coefficients: source alias -> group name -> coefficient (a K x G table)."""


def plain(record: DataclassInstance, **keys: str) -> dict[str, Any]:
    """Return a record's fields for JSON; `keys` maps a field's name to the key it has there."""
    return {keys.get(name, name): value for name, value in asdict(record).items()}


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
    """How an answer is marked: a scoring rule by name, and its settings.

    Answer and gold are rounded to `digits` decimals before they are compared; `absolute` and
    `relative` are tolerances, of which the wider one counts. `tasks.scoring.mark` says which rule
    reads which setting.
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
    lowest of its items'; an item without a unit counts by itself. An item with `labels` is not
    answered in words: the engine compares the labels' log-probabilities as first tokens.
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
    """A model's answer of `tokens` generated tokens; it is not `finished` if cut at max_tokens.

    For an item with labels, `text` is the likeliest label, and `logprobs` are the natural
    logarithms of the labels' probabilities among all tokens, in the labels' order.
    """

    text: str
    tokens: int
    finished: bool
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Score:
    """A scorer's verdict: `value` in [0, 1], the extracted answer, and whether one was found."""

    value: float
    extracted: str
    status: Status


@dataclass(frozen=True)
class Estimate:
    """Mean of `n` item scores in [0, 1] with its standard error, clustered if items have clusters.

    `partial` is the part of `se` (parts add in squares) that comes from search items which a
    candidate that left early did not answer; it is 0 if the candidate answered all. `tokens` is the
    mean length of an answer; only estimates of costs in reports have it.
    """

    mean: float
    se: float
    n: int
    partial: float = 0.0
    tokens: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `tokens` is left out if it is None."""
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
    """How many rungs a candidate answered in the race, and how the race ended for it.

    `left` is the reason for which it left before the last rung; it is empty if the candidate
    answered all. `spared` is the reason for which it would have left, if it were not one of those
    that answer every item as a test of the rule. `completed` is set if it left, but seemed to be on
    the front at the end of the search, and so answered the rest before the members were chosen.
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
        """Return the number of units answered; costs are scored on the units of the others."""
        return sum(e.n for name, e in self.objectives.items() if name not in costs)


def without_nan(data: Any) -> Any:
    """Return plain values with None for NaN and infinity, since JSON has neither."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: without_nan(value) for key, value in data.items()}
    return [without_nan(value) for value in data] if isinstance(data, list | tuple) else data


@dataclass(frozen=True)
class Calibration:
    """How well candidates are foretold from all others: the model's right to be believed.

    `mean_square` of the standardised leave-one-out residuals is 1 for a model whose errors are as
    large as it says, more for one that is too sure; `within_95` is the share of candidates inside
    their 95 % prediction interval. Up to a mean square of 2 the model's errors are only to be taken
    for larger than it says, by `widening`. `misfit` is set beyond that, if the mean square also
    exceeds 1 by more than three of its standard errors, sqrt(2 / n): the noise and the fitted
    surface do not explain the scores, and the front should be chosen without the model. `excess`
    is the mean squared residual over the mean squared standard error: what of the scores'
    differences is neither foretold nor noise; well above 1, more candidates or another space are
    needed.
    """

    n: int
    mean_square: float
    within_95: float
    excess: float
    misfit: bool

    @property
    def widening(self) -> float:
        """What the model's errors are to be multiplied by: at least 1."""
        return math.sqrt(max(1.0, self.mean_square))
