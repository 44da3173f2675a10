"""Scenes (four tinted digits in a 2x2 grid) and every question that can be asked of one.

A question is asked of a scene that may be shown as a picture or told in words; `solve`
answers a question from its text alone and is the oracle of the tests.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple, assert_never

import numpy as np

from mergefront.zoo.words import PLACES, TINTS

Perception = Literal["digit", "colour", "count", "exists", "match"]
Arithmetic = Literal["sum", "difference", "parity"]
Comparison = Literal["max", "min", "larger"]
Kind = Perception | Arithmetic | Comparison

PERCEPTION: Final[tuple[Kind, ...]] = ("digit", "colour", "count", "exists", "match")
ARITHMETIC: Final[tuple[Kind, ...]] = ("sum", "difference", "parity")
COMPARISON: Final[tuple[Kind, ...]] = ("max", "min", "larger")
REASONING: Final[tuple[Kind, ...]] = ARITHMETIC + COMPARISON

# What a model may answer that has learnt the format of a kind, and nothing else.
POSSIBLE: Final[dict[Kind, tuple[str, ...]]] = {
    "sum": tuple(str(n) for n in range(19)),
    "difference": tuple(str(n) for n in range(10)),
    "parity": ("even", "odd"),
    "max": tuple(str(n) for n in range(10)),
    "min": tuple(str(n) for n in range(10)),
    "larger": ("yes", "no"),
}


class Scene(NamedTuple):
    """Digits (0-9) and tints (index into `TINTS`) of the four places, in reading order."""

    digits: tuple[int, ...]
    tints: tuple[int, ...]


class Question(NamedTuple):
    """A question and its answer, both in words of the vocabulary."""

    question: str
    answer: str


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw four digits and four tints, each uniformly."""
    digits = rng.integers(0, 10, 4).tolist()
    return Scene(tuple(digits), tuple(rng.integers(0, len(TINTS), 4).tolist()))


def ask(kind: Kind, scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask one question of `kind`; None where the scene has no unambiguous one."""
    match kind:
        case "digit" | "colour":
            question = f"which {kind} is at {PLACES[rng.integers(4)]} ?"
        case "count":
            question = f"how many digits are {TINTS[rng.integers(len(TINTS))]} ?"
        case "exists":
            shown = rng.random() < 0.5
            question = (
                f"is there a {scene.digits[rng.integers(4)] if shown else rng.integers(10)} ?"
            )
        case "match":
            question = f"which digit is {TINTS[scene.tints[rng.integers(4)]]} ?"
        case _:
            first, second = (PLACES[i] for i in rng.permutation(4)[:2])
            question = phrase(kind, first, second)
    answer = solve(question, scene)
    return None if answer is None else Question(question, answer)


def phrase(kind: Kind, first: str, second: str) -> str:
    """Word a reasoning question about the digits at two places (parity: at the first)."""
    match kind:
        case "sum":
            return f"what is {first} plus {second} ?"
        case "difference":
            return f"what is the difference between {first} and {second} ?"
        case "parity":
            return f"is {first} even or odd ?"
        case "max":
            return f"what is the larger of {first} and {second} ?"
        case "min":
            return f"what is the smaller of {first} and {second} ?"
        case "larger":
            return f"is {first} larger than {second} ?"
        case "digit" | "colour" | "count" | "exists" | "match":
            raise ValueError(f"{kind!r} is not a reasoning kind: {', '.join(REASONING)}")
        case _:
            assert_never(kind)


def solve(question: str, scene: Scene) -> str | None:
    """Answer `question` about `scene`; None if it has no single answer."""
    named_digits = [scene.digits[PLACES.index(word)] for word in question.split() if word in PLACES]
    if re.fullmatch(r"is \S+ even or odd \?", question):
        return "odd" if named_digits[0] % 2 else "even"
    if len(named_digits) == 2:
        return _reason(question, *named_digits)
    if matched := re.fullmatch(r"which (digit|colour) is at (\S+) \?", question):
        at = PLACES.index(matched[2])
        return str(scene.digits[at]) if matched[1] == "digit" else TINTS[scene.tints[at]]
    if matched := re.fullmatch(r"how many digits are (\w+) \?", question):
        return str(scene.tints.count(TINTS.index(matched[1])))
    if matched := re.fullmatch(r"is there a (\d) \?", question):
        return "yes" if int(matched[1]) in scene.digits else "no"
    if matched := re.fullmatch(r"which digit is (\w+) \?", question):
        tint = TINTS.index(matched[1])
        shown = [d for d, t in zip(scene.digits, scene.tints, strict=True) if t == tint]
        return str(shown[0]) if len(shown) == 1 else None
    raise ValueError(f"not a question of the zoo: {question!r}")


def _reason(question: str, first: int, second: int) -> str | None:
    if " plus " in question:
        return str(first + second)
    if " difference " in question:
        return str(abs(first - second))
    if " larger of " in question:
        return str(max(first, second))
    if " smaller of " in question:
        return str(min(first, second))
    if " larger than " in question:
        return None if first == second else ("yes" if first > second else "no")
    raise ValueError(f"not a question of the zoo: {question!r}")
