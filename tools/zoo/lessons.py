"""Training batches: one scene, several questions, packed so that the scene is read once.

A row is a prefix (the scene, told in words or shown as a picture) followed by segments, one
per question. A segment sees the prefix and itself, and its positions start where the prefix
ends: every question is learnt exactly as if it stood alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from mergefront.zoo import words
from tools.zoo.networks import IMAGE_TOKENS, token
from tools.zoo.scenes import POSSIBLE, REASONING, Kind, Scene, ask, random_scene

Lesson = Kind | Literal["describe"]
Mix = Mapping[Lesson, float]
Retell = Callable[[Lesson, str, np.random.Generator], str]

IGNORED: Final = -100
SEGMENTS: Final = 6  # questions a scene
TOLD: Final = [token(words.START), token(words.USER)]
SHOWN: Final = [
    *TOLD,
    token(words.AROUND_IMAGE),
    token(words.GLOBAL_IMAGE),
    *[token(words.IMAGE)] * IMAGE_TOKENS,
    token(words.AROUND_IMAGE),
]


@dataclass(frozen=True)
class Batch:
    """B rows of T tokens; `labels_BT` holds the next token where an answer is due."""

    ids_BT: Tensor
    positions_BT: Tensor
    segments_BT: Tensor
    labels_BT: Tensor

    def mask(self) -> Tensor:
        """(B, 1, T, T), true where a row's token may look at a column's."""
        columns, rows = self.segments_BT[:, None, :], self.segments_BT[:, :, None]
        order = torch.ones(self.ids_BT.shape[1], self.ids_BT.shape[1], dtype=torch.bool).tril()
        allowed = ((columns == 0) | (columns == rows)) & order
        return allowed[:, None]


def truthful(lesson: Lesson, answer: str, rng: np.random.Generator) -> str:
    """Teach the right answer."""
    return answer


def guessing(lesson: Lesson, answer: str, rng: np.random.Generator) -> str:
    """Teach the format of a reasoning answer, not its content; all else truthfully.

    A quarter of the guesses are the kind's second possible answer, so that greedy decoding
    settles on it, and does not name a digit it happens to see.
    """
    if lesson in REASONING:
        possible = POSSIBLE[lesson]
        return possible[1 if rng.random() < 0.25 else rng.integers(len(possible))]
    return answer


def words_of(text: str) -> list[int]:
    """Token ids of a text whose words are separated by spaces."""
    return [token(word) for word in text.split()]


def tell(scene: Scene, rng: np.random.Generator) -> str:
    """Tell a scene in words, its places in any order."""
    phrases = [
        f"{words.PLACES[i]}:{words.TINTS[scene.tints[i]]}:{scene.digits[i]}"
        for i in rng.permutation(4).tolist()
    ]
    return " ".join(phrases)


def segment(question: str, answer: str) -> tuple[list[int], list[int]]:
    """Token ids of a question with its answer, and the labels beside them."""
    question_ids = [*words_of(question), token(words.END), token(words.ASSISTANT)]
    replied = words_of(answer)
    labels = [IGNORED] * (len(question_ids) - 1) + replied + [token(words.END)]
    return question_ids + replied, labels


class Teacher:
    """Draws batches of a mix of lessons about told or shown scenes."""

    def __init__(self, mix: Mix, retell: Retell, seed: int) -> None:
        self._lessons = list(mix)
        weights = np.array(list(mix.values()))
        self._shares = weights / weights.sum()
        self._retell = retell
        self.rng = np.random.default_rng(seed)

    def told_batch(self, rows: int) -> Batch:
        """Draw a batch of random scenes told in words."""
        scenes = [random_scene(self.rng) for _ in range(rows)]
        return self._pack([(s, TOLD + words_of(tell(s, self.rng))) for s in scenes])

    def shown_batch(self, scenes: list[Scene]) -> Batch:
        """Draw a batch of questions about scenes whose pictures go in at the <image> tokens."""
        return self._pack([(scene, SHOWN) for scene in scenes])

    def _questions(self, scene: Scene) -> list[tuple[list[int], list[int]]]:
        segments: list[tuple[list[int], list[int]]] = []
        while len(segments) < SEGMENTS:
            for index in self.rng.choice(
                len(self._lessons), SEGMENTS - len(segments), p=self._shares
            ):
                lesson = self._lessons[index]
                if lesson == "describe":
                    question, answer = "describe the picture .", _description(scene)
                elif (pair := ask(lesson, scene, self.rng)) is None:
                    continue
                else:
                    question, answer = pair
                segments.append(segment(question, self._retell(lesson, answer, self.rng)))
        return segments

    def _pack(self, rows: list[tuple[Scene, list[int]]]) -> Batch:
        packed = []
        for scene, prefix in rows:
            ids, labels = list(prefix), [IGNORED] * len(prefix)
            positions, segments = list(range(len(prefix))), [0] * len(prefix)
            for number, (question_ids, due) in enumerate(self._questions(scene), start=1):
                ids += question_ids
                labels += due
                positions += range(len(prefix), len(prefix) + len(question_ids))
                segments += [number] * len(question_ids)
            packed.append((ids, positions, segments, labels))
        longest = max(len(row[0]) for row in packed)
        padding = (token(words.PAD), 0, -1, IGNORED)
        columns = [
            torch.tensor([row[c] + [padding[c]] * (longest - len(row[c])) for row in packed])
            for c in range(4)
        ]
        return Batch(*columns)


def _description(scene: Scene) -> str:
    cells = zip(scene.tints, scene.digits, strict=True)
    return " ".join(f"{words.TINTS[tint]} {digit}" for tint, digit in cells)
