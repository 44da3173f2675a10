"""Figures of a run: the front, the search's history, layer-weight profiles, and two checks.

`save` writes a figure as PNG and SVG. matplotlib is imported when a figure is drawn, not before.
"""

from __future__ import annotations

from mergefront.runs.plots.front import front_figure
from mergefront.runs.plots.history import (
    calibration_figure,
    history_figure,
    profile_figure,
    race_figure,
)
from mergefront.runs.plots.style import save

__all__ = [
    "calibration_figure",
    "front_figure",
    "history_figure",
    "profile_figure",
    "race_figure",
    "save",
]
