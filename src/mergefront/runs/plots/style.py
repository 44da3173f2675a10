"""The look that all figures share: the colours, new figures, titles, legends, files.

The colours are Okabe and Ito's, which colour-blind readers can tell apart. The report takes its
colours from here as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mergefront.records import Estimate

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, YELLOW, BLACK = "#56B4E9", "#E69F00", "#222222"
DARK_GREY, MIDDLE_GREY, GREY, LIGHT_GREY = "#666666", "#777777", "#9A9A9A", "#C9C9C9"
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, BLACK)
COLOURS = {"text": BLACK, "blue": BLUE, "better": "#00694D", "warning": "#AA1111"}
"""The report's colours by use: the two that only texts have are dark enough to be read on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": DARK_GREY,
    "axes.labelcolor": BLACK,
    "axes.titlesize": 11,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": DARK_GREY,
    "ytick.color": DARK_GREY,
    "xtick.labelcolor": BLACK,
    "ytick.labelcolor": BLACK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "path",
}


def new_figure(
    rows: int, columns: int, *, size: tuple[float, float], **shared: Any
) -> tuple[Figure, NDArray[np.object_]]:
    """Return a figure and its `rows` x `columns` axes, each panel `size` inches wide and high.

    The figure is made without pyplot, which would keep it in global state and may need a display.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(columns * size[0], rows * size[1] + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False, **shared)
    return figure, axes


def means(scores: Sequence[Mapping[str, Estimate]], names: Sequence[str]) -> NDArray[np.float64]:
    """Return an array of means, one row for each of the scores and one column for each name."""
    rows = [[estimates[name].mean for name in names] for estimates in scores]
    return np.array(rows, dtype=float).reshape(len(rows), len(names))


def set_title(figure: Figure, title: str) -> None:
    """Write the figure's title above its panels, at the left."""
    figure.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold")


def add_legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Put a legend below the panels; of handles with the same label the last is shown."""
    entries = dict(zip(labels, handles, strict=True))
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower left", ncols=min(len(entries), 3),
        frameon=False, fontsize=9, handletextpad=0.5, columnspacing=1.6,
    )  # fmt: skip


def save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Write `stem`.png and `stem`.svg into `folder`, which is made if it is missing.

    The same figure gives the same bytes: no date and no version is written, and the SVG's ids are
    hashed with a fixed salt.
    """
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{stem}.png", folder / f"{stem}.svg"
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": stem}):
        figure.savefig(png, dpi=160, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return [png, svg]
