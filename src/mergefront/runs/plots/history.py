"""Curves: what a search had found after each candidate, and layer-weight profiles over depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from mergefront.records import Estimate, Evaluation
from mergefront.runs.plots.style import BLACK, GREY, MARKERS, PALETTE, legend, new_figure
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
    """Draw what the search had found after each candidate: hypervolume, best of each objective.

    Dots are scores on search items; lines follow what is `believed` of the candidates (by number)
    now that the search is over, or the scores where nothing is given; a collapsed candidate is
    nobody's best. `reference` is the
    hypervolume's point, by objective; up to four.
    """
    done = sorted((c for c in candidates if not c.failure), key=lambda c: c.number)
    figure, axes = new_figure(1 + len(objectives), 1, size=(7.2, 1.9), sharex=True)
    numbers = [c.number + 1 for c in done]
    shape = (len(done), len(objectives))
    scores_NM = np.array([[c.objectives[o].mean for o in objectives] for c in done]).reshape(shape)
    values_NM = np.array(
        [[believed.get(c.number, c.objectives)[o].mean for o in objectives] for c in done]
    ).reshape(shape)
    covered = [
        hypervolume(values_NM[: i + 1], [reference[name] for name in objectives])
        for i in range(len(done))
    ]
    fell_N = collapsed(values_NM, [reference[name] for name in objectives])
    top = axes[0][0]
    top.step(numbers, covered, where="post", color=BLACK, linewidth=2)
    top.set_ylabel("hypervolume")
    top.set_ylim(bottom=0)
    for column, (name, colour) in enumerate(zip(objectives, PALETTE, strict=False)):
        axis = axes[column + 1][0]
        percent = 100 * scores_NM[:, column]
        axis.plot(numbers, percent, "o", color=GREY, markersize=3, alpha=0.6, linewidth=0)
        best = np.fmax.accumulate(np.where(fell_N, np.nan, 100 * values_NM[:, column]))
        axis.step(numbers, best, where="post", color=colour, linewidth=2)
        axis.axhline(100 * reference[name], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        axis.set_ylabel(f"{name} (%)")
    axes[-1][0].set_xlabel("candidates evaluated")
    axes[-1][0].set_xlim(0, max([*numbers, 1]) + 1)
    line = "best so far, by what is believed at the end" if believed else "best so far"
    top.set_title(f"dots: scores; lines: {line}; dashed: reference", loc="left", fontsize=9)
    title = "What the search had found, on search items"
    figure.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold")
    figure.align_ylabels()
    return figure


def profile_figure(labels: Sequence[str], profiles: Sequence[Profile]) -> Figure:
    """Draw coefficients over depth: a row for each part, a column for each donor, a line a recipe.

    All profiles have the same parts and layers; a donor that a recipe lacks is drawn at zero.
    Groups outside the layers (embedding, final norm, head) do not show.
    """
    parts = profiles[0].parts
    sources = list(dict.fromkeys(s for p in profiles for s in p.sources))
    figure, axes = new_figure(
        len(parts), len(sources), size=(max(3.3, 7.2 / len(sources)), 1.9), sharex=True, sharey=True
    )
    layers = np.arange(profiles[0].n_layers)
    for row, part in enumerate(parts):
        for column, source in enumerate(sources):
            axis = axes[row][column]
            axis.axhline(0, color=GREY, linewidth=1)
            for index, one in enumerate(profiles):
                axis.plot(layers, one.curve(source, part), **_line(index, len(layers)))
            if row == 0:
                axis.set_title(source, loc="left", fontweight="bold")
            if column == 0:
                axis.set_ylabel(part)
    for axis in axes[-1]:
        axis.set_xlabel("layer")
        axis.set_xlim(-0.3, len(layers) - 0.7)
        axis.xaxis.get_major_locator().set_params(integer=True, nbins=8)
    figure.align_ylabels()
    legend(figure, dict(zip(labels, axes[0][0].get_lines()[1:], strict=True)))
    return figure


def _line(index: int, n_layers: int) -> dict[str, Any]:
    return {
        "color": PALETTE[index % len(PALETTE)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 5,
        "markevery": (index % max(1, n_layers // 8), max(1, n_layers // 8)),
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "linewidth": 1.8,
        "linestyle": "-" if index < len(PALETTE) else "--",
    }
