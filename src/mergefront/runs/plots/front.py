"""The front as a picture: candidates, members as believed and as validated, receiver, reference.

Reading order: `front_figure`, `_draw_panel`, then the functions that it calls. In all of them a
`pair` is the two objectives of a panel, and a point is two scores in percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from mergefront.records import Estimate, Evaluation
from mergefront.runs.plots.style import (
    BLACK,
    BLUE,
    DARK_GREY,
    GREY,
    MIDDLE_GREY,
    ORANGE,
    add_legend,
    means,
    new_figure,
    set_title,
)
from mergefront.stats import score_interval
from mergefront.stats.pareto import non_dominated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from mergefront.runs.front import Estimates, Front, Member

Believed = Mapping[int, Mapping[str, Estimate]]
"""Number -> what the model believes of the candidate; empty where scores choose the members."""


def front_figure(
    front: Front,
    candidates: Sequence[Evaluation],
    believed: Believed = MappingProxyType({}),
) -> Figure:
    """Draw a run's front: one panel for the first objective against each other one.

    Dots are scores on search items, which are too high for the best. The line and the shade (the
    hypervolume; two objectives only) show what is believed, or the scores if the model does not
    choose. Members and the receiver stand at their validation scores, with 95 % intervals. A thin
    line joins each member's believed scores (a hollow marker) to its validation scores.

    Args:
        candidates: all candidates; failed ones are left out. A candidate whose origin is not the
            sampler is marked as a warm start; one that left the race early is small and light.
        believed: what the model believes of every candidate, if the model chose the members.

    Raises:
        ValueError: fewer than two objectives.
    """
    names = list(front.objectives)
    if len(names) < 2:
        raise ValueError("a front needs two objectives; draw the history instead")
    figure, axes = new_figure(1, len(names) - 1, size=(7.2, 5.6) if len(names) == 2 else (5.4, 5.0))
    evaluated = [c for c in candidates if not c.failure]
    for axis, name in zip(axes[0], names[1:], strict=True):
        _draw_panel(axis, front, evaluated, (names[0], name), believed)
        if len(names) == 2:
            _shade_hypervolume(axis, front, evaluated, believed)
        axis.set_xlabel(f"{names[0]} (% of items)")
        cost = front.costs.get(name)
        unit = "% of items" if cost is None else f"% of {cost.limit} tokens not used"
        axis.set_ylabel(f"{name} ({unit})")
    set_title(figure, f"{front.run}: front of {front.candidates} candidates")
    add_legend(figure, *axes[0][0].get_legend_handles_labels())
    return figure


def _draw_panel(
    axis: Axes,
    front: Front,
    candidates: Sequence[Evaluation],
    pair: tuple[str, str],
    believed: Believed,
) -> None:
    """Draw everything but the shade: cloud, members, receiver, reference, limits."""
    cloud = _draw_cloud(axis, candidates, pair, front.sampler)
    picks = [member for member in front.members if member.picks]
    groups = (
        ("front", [member for member in front.members if not member.picks], BLUE, "o"),
        ("picks", picks, ORANGE, "D"),
    )
    visible = [
        _draw_beliefs(axis, members, pair, believed, label, colour, marker)
        for label, members, colour, marker in groups
    ]
    for label, members, colour, marker in groups:
        scores = [member.validation for member in members]
        _draw_intervals(axis, scores, pair, colour, marker, f"{label} (validation, 95 %)")
    receiver = front.receiver["validation"]
    _draw_intervals(axis, [receiver], pair, BLACK, "*", "receiver (validation, 95 %)", size=13)
    corner = np.array([100 * front.reference[name] for name in pair])
    axis.plot(
        *corner, "+", color=BLACK, markersize=9, zorder=3,
        label=f"reference ({corner[0]:.1f}, {corner[1]:.1f})",
    )  # fmt: skip
    visible.append(100 * means([*(member.validation for member in front.members), receiver], pair))
    if len(cloud):
        visible.append(np.quantile(cloud, [0.1, 1.0], axis=0))
    _set_limits(axis, np.vstack(visible), corner)
    _name_picks(axis, picks, pair)


def _draw_cloud(
    axis: Axes, candidates: Sequence[Evaluation], pair: tuple[str, str], sampler: str
) -> NDArray[np.float64]:
    """Draw every candidate's scores on search items; return them as N x 2 points."""
    cloud = 100 * means([c.objectives for c in candidates], pair)
    warm_N = np.array([c.origin != sampler for c in candidates], dtype=bool)
    left_N = np.array([bool(c.raced.left) for c in candidates], dtype=bool) & ~warm_N
    if left_N.any():
        axis.plot(
            *cloud[left_N].T, "o", color=GREY, markersize=2.2, alpha=0.5, markeredgewidth=0,
            label="left the race early", zorder=1.9,
        )  # fmt: skip
    axis.plot(
        *cloud[~warm_N & ~left_N].T, "o", color=MIDDLE_GREY, markersize=4, alpha=0.6,
        markeredgewidth=0, label="candidates (search items)", zorder=2,
    )  # fmt: skip
    axis.plot(
        *cloud[warm_N].T, "s", color="white", markeredgecolor=DARK_GREY, markersize=5,
        label="warm starts (search items)", zorder=2.5,
    )  # fmt: skip
    return cloud


def _draw_beliefs(
    axis: Axes,
    members: Sequence[Member],
    pair: tuple[str, str],
    believed: Believed,
    label: str,
    colour: str,
    marker: str,
) -> NDArray[np.float64]:
    """Draw what the model believed of members, with a line to the validated place; return it."""
    modelled = [member for member in members if member.number in believed]
    start = 100 * means([believed[member.number] for member in modelled], pair)
    if modelled:
        end = 100 * means([member.validation for member in modelled], pair)
        axis.plot(
            *np.stack([start, end]).transpose(2, 0, 1), "-", color=colour, linewidth=1.1,
            alpha=0.55, zorder=3,
        )  # fmt: skip
        axis.plot(
            *start.T, marker, color="white", markeredgecolor=colour, markersize=5.5,
            markeredgewidth=1.3, linewidth=0, zorder=3.5, label=f"{label} as believed",
        )  # fmt: skip
    return start


def _draw_intervals(
    axis: Axes,
    scores: Sequence[Estimates],
    pair: tuple[str, str],
    colour: str,
    marker: str,
    label: str,
    size: float = 7,
) -> None:
    """Draw scores as markers with 95 % intervals in both axes."""
    if not scores:
        return
    points = 100 * means(scores, pair)
    intervals = np.array([[score_interval(by_name[name]) for name in pair] for by_name in scores])
    low, high = 100 * intervals[:, :, 0], 100 * intervals[:, :, 1]
    axis.errorbar(
        points[:, 0], points[:, 1], xerr=[points[:, 0] - low[:, 0], high[:, 0] - points[:, 0]],
        yerr=[points[:, 1] - low[:, 1], high[:, 1] - points[:, 1]],
        fmt=marker, color=colour, markersize=size, markeredgecolor="white", markeredgewidth=0.8,
        elinewidth=1.1, label=label, zorder=4,
    )  # fmt: skip


def _name_picks(axis: Axes, picks: Sequence[Member], pair: tuple[str, str]) -> None:
    """Write the picks' names and numbers below them, on lines that do not meet.

    A pick near the left edge has its name on its right, one near the lower edge above it, so that
    the name stays off the axes.
    """
    points = 100 * means([member.validation for member in picks], pair)
    (low, high), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    for place, index in enumerate(np.argsort(points[:, 0], kind="stable")):
        member = picks[index]
        names = ", ".join(pick.replace("best:", "best ") for pick in member.picks)
        at_left = points[index, 0] < low + 0.3 * (high - low)
        direction = 1 if points[index, 1] < bottom + 0.2 * (top - bottom) else -1
        axis.annotate(
            f"{names} (#{member.number})", points[index],
            xytext=(14 if at_left else -14, direction * (30 + 18 * place)),
            textcoords="offset points", ha="left" if at_left else "right", va="center",
            fontsize=9, color=ORANGE, zorder=5,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.8, "shrinkB": 4},
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0},
        )  # fmt: skip


def _shade_hypervolume(
    axis: Axes, front: Front, candidates: Sequence[Evaluation], believed: Believed
) -> None:
    """Shade what the candidates dominate above the reference point, by what chose the members."""
    names = front.objectives
    corner = np.array([100 * front.reference[name] for name in names])
    points = 100 * means(list(believed.values()) or [c.objectives for c in candidates], names)
    points = points[(points > corner).all(axis=1)] if len(points) else points
    if not len(points):
        return
    stairs = points[non_dominated(points)]
    stairs = stairs[np.argsort(stairs[:, 0])]
    x = np.concatenate([corner[:1], stairs[:, 0]])
    y = np.concatenate([stairs[:, 1], stairs[-1:, 1]])
    axis.fill_between(x, corner[1], y, step="post", color=BLUE, alpha=0.08, linewidth=0, zorder=1)
    edge_x = np.concatenate([x, stairs[-1:, 0]])
    edge_y = np.concatenate([y, corner[1:]])
    axis.step(
        edge_x, edge_y, where="post", color=BLUE, linewidth=1, alpha=0.6,
        label=f"hypervolume {'as believed' if believed else '(search items)'}", zorder=1.5,
    )  # fmt: skip


def _set_limits(axis: Axes, points: NDArray[np.float64], corner: NDArray[np.float64]) -> None:
    """Show all points, and the reference point if that leaves them half of either axis."""
    low, high = points.min(axis=0), points.max(axis=0)
    extent = np.maximum(high - low, 1.0)
    low = np.minimum(low, np.maximum(corner, low - extent))
    high = np.maximum(high, np.minimum(corner, high + extent))
    margin = np.maximum(0.08 * (high - low), 1.0)
    low, high = np.maximum(low - margin, -2), np.minimum(high + margin, 100.5)
    axis.set_xlim(low[0], high[0])
    axis.set_ylim(low[1], high[1])
