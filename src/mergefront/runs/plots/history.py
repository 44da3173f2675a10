"""Figures of a search: its progress, its profiles over depth, its model's errors and its race."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from mergefront.records import Estimate, Evaluation
from mergefront.runs.plots.style import (
    BLACK,
    BLUE,
    DARK_GREY,
    GREEN,
    GREY,
    LIGHT_GREY,
    MARKERS,
    ORANGE,
    PALETTE,
    PINK,
    add_legend,
    means,
    new_figure,
    set_title,
)
from mergefront.stats.pareto import collapsed, hypervolume
from mergefront.stats.text import share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mergefront.runs.front import Front
    from mergefront.sampling.gp.posterior import Posterior
    from mergefront.space.profiles import Profile

_DEVIATIONS = 1.959964
"""Standard deviations from the middle of a 95 % interval to its end."""

_REASON_COLOURS = (BLUE, GREEN, PINK)


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
    scores_NM = means([c.objectives for c in finished], objectives)
    values_NM = means([believed.get(c.number, c.objectives) for c in finished], objectives)
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


def calibration_figure(
    objectives: Sequence[str], candidates: Sequence[Evaluation], model: Posterior
) -> Figure:
    """Draw each candidate's score against its prediction from all others, a panel an objective.

    A bar is the 95 % interval of the predicted score. It meets the diagonal in 95 of 100 cases if
    the model errs as much as it says. Bars that miss the diagonal are orange.

    Args:
        model: fitted to the candidates that did not fail, in their order. Collapsed candidates are
            not in its surfaces, and are not drawn.

    Raises:
        ValueError: the model has no surfaces, since too few candidates stand.
    """
    if not model.surfaces:
        raise ValueError("too few candidates stand for a model; there is nothing to draw")
    evaluated = [c for c in candidates if not c.failure]
    standing = [c for c, stands in zip(evaluated, model.not_collapsed_N, strict=True) if stands]
    figure, axes = new_figure(1, len(objectives), size=(4.7, 4.7))
    for axis, name, surface in zip(axes[0], objectives, model.surfaces, strict=True):
        residual_N, deviation_N = surface.leave_one_out
        score_N = np.array([c.objectives[name].mean for c in standing])
        within_N = np.abs(residual_N) <= _DEVIATIONS * deviation_N
        for drawn_N, colour, label in (
            (within_N, BLUE, "the score lies in the 95 % interval"),
            (~within_N, ORANGE, "the score lies outside"),
        ):
            axis.errorbar(
                100 * (score_N - residual_N)[drawn_N], 100 * score_N[drawn_N],
                xerr=100 * _DEVIATIONS * deviation_N[drawn_N], fmt="o", color=colour,
                ecolor=(colour, 0.35 if colour == BLUE else 0.9), elinewidth=0.9, markersize=4.5,
                markeredgecolor="white", markeredgewidth=0.4, label=label,
            )  # fmt: skip
        _draw_diagonal(axis, 100 * np.concatenate([score_N, score_N - residual_N]))
        axis.set_xlabel(f"{name} predicted from the others (%)")
        axis.set_ylabel(f"{name} scored (%)")
        inside = f"{share(float(within_N.mean()))} of {len(standing)} inside"
        axis.set_title(f"{name}: {inside}", loc="left")
    set_title(figure, "Does the model predict a candidate from all others?")
    add_legend(figure, *axes[0][0].get_legend_handles_labels())
    return figure


def _draw_diagonal(axis: Axes, points: np.ndarray) -> None:
    """Draw the line of right predictions, and give both axes the range of the points."""
    low, high = float(points.min()), float(points.max())
    margin = max(0.08 * (high - low), 1.0)
    ends = (low - margin, high + margin)
    axis.plot(ends, ends, color=DARK_GREY, linewidth=1.2, label="predicted = scored", zorder=1)
    axis.set_xlim(ends)
    axis.set_ylim(ends)
    axis.set_aspect("equal")


def race_figure(front: Front, candidates: Sequence[Evaluation]) -> Figure:
    """Draw how many search items each candidate answered; the colour says why it left.

    Candidates stand in the order of their numbers. A triangle marks one that would have left but
    answered all items so that the rule can be checked, in the colour of its reason. A star marks
    one that is on the front as believed, a cross one that failed.

    Raises:
        ValueError: no candidate has answered everything, so that nothing is known of the race.
    """
    race = front.race
    if race is None:
        raise ValueError("no candidate answered everything; there is nothing to draw")
    figure, axes = new_figure(1, 1, size=(7.2, 3.4))
    axis = axes[0][0]
    answers = {c.number: c.answered(front.costs) for c in candidates}
    most = max(answers.values(), default=0)
    colours = {"": LIGHT_GREY, **dict(zip(race.left, _REASON_COLOURS, strict=False))}
    for reason, colour in colours.items():
        numbers = [c.number for c in candidates if not c.failure and c.raced.left == reason]
        if numbers:
            label = f"left: {reason}" if reason else "answered all"
            axis.bar(
                numbers, [answers[number] for number in numbers], width=0.85, color=colour,
                linewidth=0, label=f"{label} ({len(numbers)})",
            )  # fmt: skip
    marks = [
        (f"would have left: {reason}",
         [c.number for c in candidates if reason and c.raced.spared == reason], 1.05, "v", colour)
        for reason, colour in colours.items()
    ]  # fmt: skip
    failures = [c.number for c in candidates if c.failure]
    marks.append(("on the front as believed", list(front.belief.front), 1.12, "*", BLACK))
    marks.append(("failed", failures, 0.02, "x", GREY))
    for label, numbers, height, marker, colour in marks:
        if numbers:
            axis.plot(
                numbers, [height * most] * len(numbers), marker, color=colour, markersize=6,
                linewidth=0, label=f"{label} ({len(numbers)})",
            )  # fmt: skip
    _set_race_axes(axis, max(answers, default=0), most)
    add_legend(figure, *axis.get_legend_handles_labels())
    items, seconds = share(1 - race.items), share(1 - race.seconds)
    set_title(figure, f"The race: {items} of the items and {seconds} of the seconds saved")
    return figure


def _set_race_axes(axis: Axes, last_number: int, most_items: int) -> None:
    """Label and limit the axes, with room for the marks above the bars."""
    axis.set_xlabel("candidate")
    axis.set_ylabel("search items answered")
    axis.set_ylim(0, 1.17 * most_items or 1)
    axis.set_yticks([tick for tick in axis.get_yticks() if tick <= most_items])
    axis.set_xlim(-1, last_number + 1)
    axis.xaxis.grid(visible=False)
