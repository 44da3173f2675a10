"""Curves: the progress of a search over its candidates, and layer-weight profiles over depth.

Reading order: `history_figure`, `profile_figure`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from mergefront.records import Estimate, Evaluation
from mergefront.runs.plots.style import (
    BLACK,
    GREY,
    MARKERS,
    PALETTE,
    add_legend,
    new_figure,
    set_title,
)
from mergefront.stats.pareto import collapsed, hypervolume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mergefront.space.profiles import Profile


def history_figure(
    candidates: Sequence[Evaluation],
    objectives: Sequence[str],
    reference: Mapping[str, float],
    believed: Mapping[int, Mapping[str, Estimate]] = MappingProxyType({}),
) -> Figure:
    """Draw the search's progress: its hypervolume and the best of each objective so far.

    Dots are scores on search items. Lines follow what is `believed` of the candidates (by number)
    at the end of the search, or the scores where nothing is believed. A collapsed candidate is
    never the best.

    Args:
        reference: objective -> the hypervolume's reference point; at most four objectives.
    """
    finished = sorted((c for c in candidates if not c.failure), key=lambda c: c.number)
    figure, axes = new_figure(1 + len(objectives), 1, size=(7.2, 1.9), sharex=True)
    counts_N = [candidate.number + 1 for candidate in finished]
    scores_NM = _means(finished, objectives, {})
    values_NM = _means(finished, objectives, believed)
    corner_M = [reference[name] for name in objectives]
    volumes_N = [hypervolume(values_NM[: n + 1], corner_M) for n in range(len(finished))]
    collapsed_N = collapsed(values_NM, corner_M)
    top = axes[0][0]
    top.step(counts_N, volumes_N, where="post", color=BLACK, linewidth=2)
    top.set_ylabel("hypervolume")
    top.set_ylim(bottom=0)
    for column, (name, colour) in enumerate(zip(objectives, PALETTE, strict=False)):
        axis = axes[column + 1][0]
        percent_N = 100 * scores_NM[:, column]
        axis.plot(counts_N, percent_N, "o", color=GREY, markersize=3, alpha=0.6, linewidth=0)
        best_N = np.fmax.accumulate(np.where(collapsed_N, np.nan, 100 * values_NM[:, column]))
        axis.step(counts_N, best_N, where="post", color=colour, linewidth=2)
        axis.axhline(100 * reference[name], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        axis.set_ylabel(f"{name} (%)")
    axes[-1][0].set_xlabel("candidates evaluated")
    axes[-1][0].set_xlim(0, max([*counts_N, 1]) + 1)
    line = "best so far, by what is believed at the end" if believed else "best so far"
    top.set_title(f"dots: scores; lines: {line}; dashed: reference", loc="left", fontsize=9)
    set_title(figure, "The progress of the search, on search items")
    figure.align_ylabels()
    return figure


def _means(
    candidates: Sequence[Evaluation],
    objectives: Sequence[str],
    believed: Mapping[int, Mapping[str, Estimate]],
) -> np.ndarray:
    """Return an N x M array: what is believed of each candidate, or else its scores."""
    rows = [believed.get(candidate.number, candidate.objectives) for candidate in candidates]
    values = [[estimates[name].mean for name in objectives] for estimates in rows]
    return np.array(values).reshape(len(candidates), len(objectives))


def profile_figure(labels: Sequence[str], profiles: Sequence[Profile]) -> Figure:
    """Draw coefficients over depth: a row for each part, a column for each donor, a line a recipe.

    All profiles have the same parts and layers. A donor that a recipe lacks is drawn at zero.
    Groups outside the layers (embedding, final norm, head) are not drawn.
    """
    parts = profiles[0].parts
    donors = list(dict.fromkeys(donor for profile in profiles for donor in profile.sources))
    figure, axes = new_figure(
        len(parts), len(donors), size=(max(3.3, 7.2 / len(donors)), 1.9), sharex=True, sharey=True
    )
    layers = np.arange(profiles[0].n_layers)
    for row, part in enumerate(parts):
        for column, donor in enumerate(donors):
            axis = axes[row][column]
            axis.axhline(0, color=GREY, linewidth=1)
            for index, profile in enumerate(profiles):
                axis.plot(layers, profile.curve(donor, part), **_line_style(index, len(layers)))
            if row == 0:
                axis.set_title(donor, loc="left", fontweight="bold")
            if column == 0:
                axis.set_ylabel(part)
    for axis in axes[-1]:
        axis.set_xlabel("layer")
        axis.set_xlim(-0.3, len(layers) - 0.7)
        axis.xaxis.get_major_locator().set_params(integer=True, nbins=8)
    figure.align_ylabels()
    add_legend(figure, axes[0][0].get_lines()[1:], labels)
    return figure


def _line_style(index: int, n_layers: int) -> dict[str, Any]:
    # Markers stand at every eighth of the depth, and start at another layer for each line, so that
    # lines that coincide can still be told apart.
    step = max(1, n_layers // 8)
    return {
        "color": PALETTE[index % len(PALETTE)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 5,
        "markevery": (index % step, step),
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "linewidth": 1.8,
        "linestyle": "-" if index < len(PALETTE) else "--",
    }
