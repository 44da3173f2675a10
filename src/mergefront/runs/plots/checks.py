"""Pictures that check the search: whether its model foretells, and what its race saved.

Reading order: `calibration_figure`, `race_figure`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mergefront.records import Evaluation
from mergefront.runs.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mergefront.runs.front import Front
    from mergefront.sampling.gp.posterior import Posterior

_BAR = 1.959964  # standard deviations of a 95 % interval
_STAYED = "#C9C9C9"
_REASONS = (BLUE, GREEN, PINK)


def calibration_figure(
    objectives: Sequence[str], candidates: Sequence[Evaluation], model: Posterior
) -> Figure:
    """Draw each candidate as foretold from all others against its score, a panel an objective.

    `model` is fitted to the candidates that did not fail, in their order; those that collapsed are
    not in its surfaces. A bar is the 95 % interval of the score that was foretold: it meets the
    diagonal in 95 of 100 cases if the model errs as much as it says. Bars that miss it are orange.

    Raises:
        ValueError: the model has no surfaces, since too few candidates stand.
    """
    if not model.surfaces:
        raise ValueError("too few candidates stand for a model; there is nothing to draw")
    done = [c for c in candidates if not c.failure]
    standing = [c for c, stands in zip(done, model.stands_N, strict=True) if stands]
    figure, axes = new_figure(1, len(objectives), size=(4.7, 4.7))
    for axis, name, surface in zip(axes[0], objectives, model.surfaces, strict=True):
        residual_N, deviation_N = surface.leave_one_out
        scored_N = np.array([c.objectives[name].mean for c in standing])
        within_N = np.abs(residual_N) <= _BAR * deviation_N
        for chosen, colour, label in (
            (within_N, BLUE, "the score lies in the 95 % interval"),
            (~within_N, ORANGE, "the score lies outside"),
        ):
            axis.errorbar(
                100 * (scored_N - residual_N)[chosen], 100 * scored_N[chosen],
                xerr=100 * _BAR * deviation_N[chosen], fmt="o", color=colour,
                ecolor=(colour, 0.35 if colour == BLUE else 0.9), elinewidth=0.9, markersize=4.5,
                markeredgecolor="white", markeredgewidth=0.4, label=label,
            )  # fmt: skip
        _diagonal(axis, 100 * np.concatenate([scored_N, scored_N - residual_N]))
        axis.set_xlabel(f"{name} foretold from the others (%)")
        axis.set_ylabel(f"{name} scored (%)")
        share = f"{100 * within_N.mean():.0f} % of {len(standing)} inside"
        axis.set_title(f"{name}: {share}", loc="left")
    figure.suptitle(
        "Does the model foretell a candidate from all others?",
        x=0.02, ha="left", fontsize=12, fontweight="bold",
    )  # fmt: skip
    handles, labels = axes[0][0].get_legend_handles_labels()
    legend(figure, dict(zip(labels, handles, strict=True)))
    return figure


def _diagonal(axis: Axes, points: np.ndarray) -> None:
    """Draw where foretold and scored are the same; both axes alike, as wide as the points."""
    low, high = float(points.min()), float(points.max())
    pad = max(0.08 * (high - low), 1.0)
    ends = (low - pad, high + pad)
    axis.plot(ends, ends, color="#666666", linewidth=1.2, label="foretold = scored", zorder=1)
    axis.set_xlim(ends)
    axis.set_ylim(ends)
    axis.set_aspect("equal")


def race_figure(front: Front, candidates: Sequence[Evaluation]) -> Figure:
    """Draw how many search items each candidate answered, by number, coloured by why it left.

    A triangle stands over a candidate that
    would have left, but answered all items to keep the rule honest, in its reason's colour; a star
    over one that is on the front as believed; a cross for one that failed.

    Raises:
        ValueError: no candidate has answered everything, so that nothing is known of the race.
    """
    race = front.race
    if race is None:
        raise ValueError("no candidate answered everything; there is nothing to draw")
    figure, axes = new_figure(1, 1, size=(7.2, 3.4))
    axis = axes[0][0]
    answered = {c.number: c.answered(front.costs) for c in candidates}
    most = max(answered.values(), default=0)
    colours = {"": _STAYED, **dict(zip(race.left, _REASONS, strict=False))}
    for why, colour in colours.items():
        mine = [c.number for c in candidates if not c.failure and c.raced.left == why]
        if mine:
            axis.bar(
                mine, [answered[number] for number in mine], width=0.85, color=colour, linewidth=0,
                label=f"left: {why} ({len(mine)})" if why else f"answered all ({len(mine)})",
            )  # fmt: skip
    marks = [
        (f"would have left: {why}", [c.number for c in candidates if why and c.raced.spared == why],
         1.05, "v", colour)
        for why, colour in colours.items()
    ]  # fmt: skip
    failed = [c.number for c in candidates if c.failure]
    marks.append(("on the front as believed", list(front.belief.front), 1.12, "*", BLACK))
    marks.append(("failed", failed, 0.02, "x", GREY))
    for label, numbers, height, marker, colour in marks:
        if numbers:
            axis.plot(
                numbers, [height * most] * len(numbers), marker, color=colour, markersize=6,
                linewidth=0, label=f"{label} ({len(numbers)})",
            )  # fmt: skip
    _finish(figure, axis, (max(answered, default=0), most))
    figure.suptitle(
        f"The race: {100 * (1 - race.items):.0f} % of the items "
        f"and {100 * (1 - race.seconds):.0f} % of the seconds saved",
        x=0.02, ha="left", fontsize=12, fontweight="bold",
    )  # fmt: skip
    return figure


def _finish(figure: Figure, axis: Axes, ends: tuple[int, int]) -> None:
    """Label and limit the race's axes; `ends` are the last candidate and the most items."""
    axis.set_xlabel("candidate")
    axis.set_ylabel("search items answered")
    axis.set_ylim(0, 1.17 * ends[1] or 1)
    axis.set_yticks([tick for tick in axis.get_yticks() if tick <= ends[1]])
    axis.set_xlim(-1, ends[0] + 1)
    axis.xaxis.grid(visible=False)
    handles, labels = axis.get_legend_handles_labels()
    legend(figure, dict(zip(labels, handles, strict=True)))
