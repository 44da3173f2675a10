"""The benchmark's picture: each arm's share of the best front, a panel for each setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
import numpy as np
from summary import paired
from workbench import SETTINGS

OURS, OTHERS = "#0b6e99", "#8a8a8a"


def draw(rows: Sequence[dict[str, Any]], arms: Sequence[str], path: Path) -> None:
    """One dot a seed, the mean with its 95 % t interval over seeds beneath them."""
    settings = [name for name in SETTINGS if any(row["setting"] == name for row in rows)]
    plt.rcParams.update({"svg.hashsalt": "mergefront", "font.size": 9})
    figure, axes = plt.subplots(
        1, len(settings), figsize=(3.2 * len(settings) + 1.6, 0.32 * len(arms) + 1.1),
        sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis, setting in zip(axes[0], settings, strict=True):
        for place, arm in enumerate(arms):
            shares = [r["share"] for r in rows if r["arm"] == arm and r["setting"] == setting]
            if not shares:
                continue
            colour = OURS if arm.startswith(("noisy-gp", "como-cma")) else OTHERS
            mean = paired(shares)
            half = mean["half"] if np.isfinite(mean["half"]) else 0.0
            axis.errorbar(mean["mean"], place, xerr=half, fmt="|", ms=10, lw=1.5, color=colour)
            axis.plot(shares, [place - 0.25] * len(shares), ".", ms=4, alpha=0.6, color=colour)
        axis.set_title(setting)
        axis.set_xlabel("share of the best front")
        axis.grid(axis="x", lw=0.4, alpha=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_yticks(range(len(arms)), arms)
    axes[0][0].invert_yaxis()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
