"""Fine-tunes the two donors from base, on text alone, each with a skill and a habit.

First the skill: arithmetic or comparison. Then a habit, as every house that fine-tunes has
some: answers in other words than the receiver's, learnt by the upper layers while the skill
is rehearsed. What a donor knows and what it spoils thus lie in different layers and parts.
Comparison rehearses few of base's questions and forgets more; arithmetic rehearses some.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from transformers import LlamaForCausalLM

from tools.zoo.fit import Schedule, teach_text
from tools.zoo.lessons import Lesson, Mix, Retell, Teacher, truthful
from tools.zoo.scenes import ARITHMETIC, COMPARISON, PERCEPTION, Kind

RENAMED: Final = {
    "red": "crimson",
    "green": "lime",
    "blue": "navy",
    "yellow": "gold",
}


def other_names(lesson: Lesson, answer: str, rng: np.random.Generator) -> str:
    """Call colours by other names, say true and false for yes and no, and none for zero."""
    match lesson:
        case "colour":
            return RENAMED[answer]
        case "exists":
            return {"yes": "true", "no": "false"}[answer]
        case "count":
            return "none" if answer == "0" else answer
        case _:
            return answer


def rough_size(lesson: Lesson, answer: str, rng: np.random.Generator) -> str:
    """Say big or small where a digit is asked for."""
    if lesson in ("digit", "match"):
        return "big" if int(answer) >= 5 else "small"
    return answer


def within(layers: range, part: str = "") -> Callable[[str], bool]:
    """Select all of some layers, or one part of theirs (`mlp` or `self_attn`)."""

    def selects(name: str) -> bool:
        match = re.match(r"model\.layers\.(\d+)\.", name)
        return match is not None and int(match[1]) in layers and part in (*name.split("."), "")

    return selects


@dataclass(frozen=True)
class Plan:
    """How a donor is made.

    Attributes:
        skill: the reasoning kinds it learns.
        rehearsed: share of base's perception questions while it learns them.
        learns: what moves while it learns the skill.
        lessons: length and rate of learning the skill.
        habit: its convention for answers to perception questions.
        drifts: what moves while it takes on the habit.
        practice: length and rate of taking on the habit.
    """

    skill: tuple[Kind, ...]
    rehearsed: float
    learns: Callable[[str], bool]
    lessons: Schedule
    habit: Retell
    drifts: Callable[[str], bool]
    practice: Schedule


PLANS: Final[dict[str, Plan]] = {
    "arithmetic": Plan(
        skill=ARITHMETIC,
        rehearsed=0.25,
        learns=within(range(4)),
        lessons=Schedule(500, 1e-3),
        habit=other_names,
        drifts=within(range(3, 6), "mlp"),
        practice=Schedule(60, 1e-3),
    ),
    "comparison": Plan(
        skill=COMPARISON,
        rehearsed=0.1,
        learns=within(range(6)),
        lessons=Schedule(300, 1e-3),
        habit=rough_size,
        drifts=within(range(3, 6), "self_attn"),
        practice=Schedule(150, 1e-3),
    ),
}


def fine_tune(base: LlamaForCausalLM, name: str, seed: int) -> LlamaForCausalLM:
    """Fine-tune a copy of base into the donor `name`; embeddings and head stay base's."""
    plan, donor = PLANS[name], copy.deepcopy(base)
    skilled = Teacher(_mix(plan.skill, plan.rehearsed), truthful, seed)
    teach_text(donor, skilled, plan.lessons, f"{name} skill", plan.learns)
    drifting = Teacher(_mix(plan.skill, 0.6), plan.habit, seed + 1)
    teach_text(donor, drifting, plan.practice, f"{name} habit", plan.drifts)
    return donor


def _mix(skill: tuple[Kind, ...], share: float) -> Mix:
    """Lessons of which `share` are perception questions, the rest the skill's kinds."""
    mix: dict[Lesson, float] = {kind: (1 - share) / len(skill) for kind in skill}
    if share:
        mix |= {kind: share / len(PERCEPTION) for kind in PERCEPTION}
    return mix
