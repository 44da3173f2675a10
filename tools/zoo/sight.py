"""Trains the receiver: sees digits, then says what it sees in base's words.

Three stages, as large VLMs are made: tower and connector are pre-trained towards the locked
embeddings of the words for what is seen, then aligned to the frozen language model, then the
language layers learn too, at a lower rate. No stage asks a reasoning question about a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, mse_loss, pad
from transformers import Idefics3ForConditionalGeneration

from mergefront.zoo.pictures import CELL, RGB, SCAN, SIDE
from mergefront.zoo.words import CELLS, IMAGE, TINTS
from tools.zoo.build import Scans
from tools.zoo.fit import Schedule, answer_loss, blur, descend
from tools.zoo.lessons import Mix, Teacher, guessing, truthful
from tools.zoo.networks import SCALE, token
from tools.zoo.scenes import PERCEPTION, REASONING, Scene

PICTURE_MIX: Final[Mix] = {
    **dict.fromkeys(PERCEPTION, 1.0),
    "count": 1.5,
    "digit": 1.5,
    "exists": 1.5,
    "describe": 0.3,
}


class Artist:
    """Draws training pictures from the training scans, each scan a little bent and shifted."""

    def __init__(self, scans: Scans, seed: int) -> None:
        self._pixels = torch.from_numpy(scans.pixels).float() / 255
        self._digits = scans.digits
        self._rng = np.random.default_rng(seed)

    def draw(self, rows: int) -> tuple[list[Scene], Tensor]:
        """Return scenes and their pictures (rows, 3, 64, 64), values in [-1, 1]."""
        scan_rows = self._rng.integers(0, len(self._digits), (rows, 4))
        tints = self._rng.integers(0, len(TINTS), (rows, 4))
        digits = self._digits[scan_rows]
        scenes = [
            Scene(tuple(d), tuple(t)) for d, t in zip(digits.tolist(), tints.tolist(), strict=True)
        ]
        bent = self._bend(self._pixels[scan_rows.reshape(-1)]).view(rows, 4, SCAN, SCAN)
        tint = torch.tensor(RGB, dtype=torch.float32)[torch.from_numpy(tints)] / 255
        cells = pad(bent, [(CELL - SCAN) // 2] * 4)[:, :, None] * tint[..., None, None]
        grid = cells.view(rows, 2, 2, 3, CELL, CELL).permute(0, 3, 1, 4, 2, 5)
        return scenes, grid.reshape(rows, 3, SIDE, SIDE) * 2 - 1

    def _bend(self, pixels: Tensor) -> Tensor:
        """Rotate by up to 12 degrees, scale and shear by up to 12 %, shift by up to 2 pixels."""
        count = len(pixels)
        angle = torch.from_numpy(self._rng.uniform(-0.21, 0.21, count)).float()
        scale = torch.from_numpy(self._rng.uniform(0.88, 1.12, (count, 2))).float()
        shear = torch.from_numpy(self._rng.uniform(-0.12, 0.12, count)).float()
        shift = torch.from_numpy(self._rng.uniform(-2, 2, (count, 2)) * 2 / SCAN).float()
        across = torch.stack([angle.cos() * scale[:, 0], -angle.sin() + shear, shift[:, 0]], 1)
        down = torch.stack([angle.sin(), angle.cos() * scale[:, 1], shift[:, 1]], 1)
        where = affine_grid(torch.stack([across, down], 1), [count, 1, SCAN, SCAN], False)
        return grid_sample(pixels[:, None], where, align_corners=False)[:, 0]


def look(receiver: Idefics3ForConditionalGeneration, pictures: Tensor) -> Tensor:
    """Tower features of each cell: (B, 4, 16 * tower width)."""
    features = receiver.model.vision_model(pixel_values=pictures).last_hidden_state
    shuffled: Tensor = receiver.model.connector.pixel_shuffle(features, SCALE)
    return shuffled


def pretrain_tower(
    receiver: Idefics3ForConditionalGeneration, artist: Artist, schedule: Schedule
) -> None:
    """Train tower and connector to see what base has words for.

    Each cell's vector is drawn to the embedding of the cell's word, which stays as it is
    (locked-text tuning, Reference: LiT, arXiv:2111.07991), and two throw-away heads must read
    digit and tint from it.
    """
    embedded = receiver.model.text_model.embed_tokens.weight.detach()
    targets = torch.stack([embedded[token(cell)] for cell in CELLS])
    targets = targets.view(4, len(TINTS), 10, -1)
    heads = nn.Linear(targets.shape[-1], 10 + len(TINTS))
    receiver.requires_grad_(False)
    sight = [*receiver.model.vision_model.parameters(), *receiver.model.connector.parameters()]
    for parameter in sight:
        parameter.requires_grad_(True)

    def loss() -> Tensor:
        scenes, pictures = artist.draw(schedule.rows)
        vectors = receiver.model.connector.modality_projection(look(receiver, pictures))
        digits = torch.tensor([s.digits for s in scenes])
        tints = torch.tensor([s.tints for s in scenes])
        off = mse_loss(vectors, targets[torch.arange(4), tints, digits]) / targets.var()
        logits = heads(vectors).flatten(0, 1)
        named = cross_entropy(logits[:, :10], digits.flatten())
        return off + named + 0.3 * cross_entropy(logits[:, 10:], tints.flatten())

    descend([*sight, *heads.parameters()], loss, schedule, "tower")


def align(
    receiver: Idefics3ForConditionalGeneration, artist: Artist, schedule: Schedule, seed: int
) -> None:
    """Train connector (and, gently, the tower) against the frozen language model."""
    receiver.requires_grad_(False)
    tower, connector = receiver.model.vision_model, receiver.model.connector
    tower.requires_grad_(True)
    connector.requires_grad_(True)
    groups = [
        {"params": list(connector.parameters()), "lr": schedule.rate},
        {"params": list(tower.parameters()), "lr": schedule.rate / 5},
    ]
    lesson = picture_lesson(receiver, artist, Teacher(PICTURE_MIX, truthful, seed), schedule.rows)
    descend(groups, lesson, schedule, "align")


def tune(
    receiver: Idefics3ForConditionalGeneration, artist: Artist, schedule: Schedule, seed: int
) -> None:
    """Train all but embeddings and head; every fourth batch repeats base's text lessons."""
    receiver.requires_grad_(True)
    receiver.model.text_model.embed_tokens.requires_grad_(False)
    receiver.lm_head.requires_grad_(False)
    language = list(receiver.model.text_model.parameters())
    sight = [*receiver.model.vision_model.parameters(), *receiver.model.connector.parameters()]
    groups = [
        {"params": [p for p in language if p.requires_grad], "lr": schedule.rate * 0.7},
        {"params": sight, "lr": schedule.rate},
    ]
    show = picture_lesson(receiver, artist, Teacher(PICTURE_MIX, truthful, seed), schedule.rows)
    replay = Teacher({**PICTURE_MIX, **dict.fromkeys(REASONING, 0.7)}, guessing, seed + 1)
    turn = np.random.default_rng(seed + 2)

    def loss() -> Tensor:
        if turn.random() < 0.75:
            return show()
        batch = replay.told_batch(schedule.rows)
        inputs = receiver.model.text_model.embed_tokens(batch.ids_BT)
        inputs = blur(inputs, batch, schedule.noise)
        return answer_loss(receiver.model.text_model, receiver.lm_head, batch, inputs)

    descend(groups, loss, schedule, "tune")


def picture_lesson(
    receiver: Idefics3ForConditionalGeneration, artist: Artist, teacher: Teacher, rows: int
) -> Callable[[], Tensor]:
    """A loss of fresh pictures and questions at every call."""

    def loss() -> Tensor:
        scenes, pictures = artist.draw(rows)
        batch = teacher.shown_batch(scenes)
        embedded = receiver.model.text_model.embed_tokens(batch.ids_BT)
        vectors = receiver.model.connector.modality_projection(look(receiver, pictures))
        spots = (batch.ids_BT == token(IMAGE))[..., None]
        inputs = embedded.masked_scatter(spots, vectors)
        return answer_loss(receiver.model.text_model, receiver.lm_head, batch, inputs)

    return loss
