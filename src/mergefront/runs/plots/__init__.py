"""Figures of a run: the front, its history, layer-weight profiles, and checks of the search.

Figures are built without pyplot, so nothing global changes and no display is needed. `save`
writes PNG and SVG that are the same, byte for byte, whenever the data are the same. Colours are
Okabe and Ito's, which stay apart for colour-blind readers; lines differ in marker as well.
"""

from __future__ import annotations

from mergefront.runs.plots.checks import calibration_figure, race_figure
from mergefront.runs.plots.front import front_figure
from mergefront.runs.plots.history import history_figure, profile_figure
from mergefront.runs.plots.style import save

__all__ = [
    "calibration_figure",
    "front_figure",
    "history_figure",
    "profile_figure",
    "race_figure",
    "save",
]
