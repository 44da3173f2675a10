"""The look that all figures share: colours, new figures, legends, files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, YELLOW, BLACK, GREY = "#56B4E9", "#E69F00", "#222222", "#9A9A9A"
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": BLACK,
    "axes.titlesize": 11,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#666666",
    "ytick.color": "#666666",
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
    """Return a figure with `rows` x `columns` panels of `size` inches each, in our style."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(columns * size[0], rows * size[1] + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False, **shared)
    return figure, axes


def legend(figure: Figure, entries: Mapping[str, Any]) -> None:
    """Put a legend below the panels, outside them: label -> handle."""
    columns = min(len(entries), 3)
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower left", ncols=columns,
        frameon=False, fontsize=9, handletextpad=0.5, columnspacing=1.6,
    )  # fmt: skip


def save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Write `stem`.png and `stem`.svg into `folder` (made if missing); return both paths."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{stem}.png", folder / f"{stem}.svg"
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": stem}):
        figure.savefig(png, dpi=160, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return [png, svg]
