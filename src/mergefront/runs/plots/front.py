"""The front as a picture: candidates, members as believed and as validated, receiver, reference.

Reading order: `front_figure`, `_front_panel`, then its parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from mergefront.records import Estimate, Evaluation
from mergefront.runs.plots.style import BLACK, BLUE, GREY, ORANGE, legend, new_figure
from mergefront.stats import normal_interval, wilson
from mergefront.stats.pareto import non_dominated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from mergefront.runs.front import Front, Member


Believed = Mapping[int, Mapping[str, Estimate]]
"""Number -> objective -> what the model believes of a candidate; empty where scores choose."""


def front_figure(
    front: Front,
    candidates: Sequence[Evaluation],
    *,
    sampler: str,
    believed: Believed = MappingProxyType({}),
) -> Figure:
    """Draw a run's front: one panel for the first objective against each other one.

    Args:
        front: the front of two or more objectives.
        candidates: all candidates; failed ones are left out. Those whose origin is not `sampler`
            are marked as warm starts; those that left the race early are small and light.
        believed: what the model believes of every candidate, if the model chose the members.

    Dots are scores on search items, which flatter. The line and the shade (the hypervolume; two
    objectives only) are of what is believed, or of the scores if the model does not choose. Members
    of the front and the receiver are drawn where validation items put them, with 95 % Wilson
    intervals; a thin line leads there from what was believed of a member (hollow).

    Raises:
        ValueError: fewer than two objectives.
    """
    names = list(front.objectives)
    if len(names) < 2:
        raise ValueError("a front needs two objectives; draw the history instead")
    figure, axes = new_figure(1, len(names) - 1, size=(7.2, 5.6) if len(names) == 2 else (5.4, 5.0))
    done = [c for c in candidates if not c.failure]
    for axis, other in zip(axes[0], names[1:], strict=True):
        _front_panel(axis, front, done, (names[0], other), sampler, believed)
        if len(names) == 2:
            _shade(axis, front, done, believed)
        axis.set_xlabel(f"{names[0]} (% of items)")
        cost = front.costs.get(other)
        unit = "% of items" if cost is None else f"% of {cost.limit} tokens not used"
        axis.set_ylabel(f"{other} ({unit})")
    title = f"{front.run}: front of {front.candidates} candidates"
    figure.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold")
    handles, labels = axes[0][0].get_legend_handles_labels()
    legend(figure, dict(zip(labels, handles, strict=True)))
    return figure


def _front_panel(
    axis: Axes,
    front: Front,
    done: Sequence[Evaluation],
    pair: tuple[str, str],
    sampler: str,
    believed: Believed,
) -> None:
    """Everything but the shade: cloud, members, receiver, reference, limits."""
    cloud = _cloud(axis, done, pair, sampler)
    others = [member for member in front.members if not member.picks]
    picked = [member for member in front.members if member.picks]
    shown = _beliefs(axis, (others, picked), pair, believed)
    for members, colour, marker, label in (
        (others, BLUE, "o", "front"),
        (picked, ORANGE, "D", "picks"),
    ):
        _intervals(
            axis, [member.validation for member in members], pair, colour, marker,
            f"{label} (validation, 95 %)",
        )  # fmt: skip
    receiver = front.receiver["validation"]
    _intervals(axis, [receiver], pair, BLACK, "*", "receiver (validation, 95 %)", size=13)
    corner = [100 * front.reference[name] for name in pair]
    axis.plot(
        *corner, "+", color=BLACK, markersize=9, zorder=3,
        label=f"reference ({corner[0]:.1f}, {corner[1]:.1f})",
    )  # fmt: skip
    shown.append(_percent([*(member.validation for member in front.members), receiver], pair))
    if len(cloud):
        shown.append(np.quantile(cloud, [0.1, 1.0], axis=0))
    _limit(axis, np.vstack(shown), np.array(corner))
    _name(axis, picked, pair)


def _cloud(
    axis: Axes, done: Sequence[Evaluation], pair: tuple[str, str], sampler: str
) -> NDArray[np.float64]:
    """Draw every candidate's scores on search items: who stayed, who left early, warm starts."""
    cloud = _percent([c.objectives for c in done], pair)
    warm = np.array([c.origin != sampler for c in done], dtype=bool)
    left = np.array([bool(c.raced.left) for c in done], dtype=bool) & ~warm
    if left.any():
        axis.plot(
            *cloud[left].T, "o", color=GREY, markersize=2.2, alpha=0.5, markeredgewidth=0,
            label="left the race early", zorder=1.9,
        )  # fmt: skip
    axis.plot(
        *cloud[~warm & ~left].T, "o", color="#777777", markersize=4, alpha=0.6, markeredgewidth=0,
        label="candidates (search items)", zorder=2,
    )  # fmt: skip
    axis.plot(
        *cloud[warm].T, "s", color="white", markeredgecolor="#666666", markersize=5,
        label="warm starts (search items)", zorder=2.5,
    )  # fmt: skip
    return cloud


def _beliefs(
    axis: Axes,
    groups: Sequence[Sequence[Member]],
    pair: tuple[str, str],
    believed: Believed,
) -> list[NDArray[np.float64]]:
    """Draw what the model believed of members, each tied to its validated place; return points."""
    drawn = []
    for members, colour, marker in zip(groups, (BLUE, ORANGE), ("o", "D"), strict=True):
        known = [member for member in members if member.number in believed]
        if not known:
            continue
        start = _percent([believed[member.number] for member in known], pair)
        end = _percent([member.validation for member in known], pair)
        axis.plot(
            *np.stack([start, end]).transpose(2, 0, 1), "-", color=colour, linewidth=1.1,
            alpha=0.55, zorder=3,
        )  # fmt: skip
        axis.plot(
            *start.T, marker, color="white", markeredgecolor=colour, markersize=5.5,
            markeredgewidth=1.3, linewidth=0, zorder=3.5,
            label=f"{'picks' if colour == ORANGE else 'front'} as believed",
        )  # fmt: skip
        drawn.append(start)
    return drawn


def _intervals(
    axis: Axes,
    estimates: Sequence[Mapping[str, Estimate]],
    pair: tuple[str, str],
    colour: str,
    marker: str,
    label: str,
    size: float = 7,
) -> None:
    """Draw estimates (objective -> mean, se, n) as markers with 95 % intervals in both axes."""
    if not estimates:
        return
    points = _percent(estimates, pair)
    low, high = (
        np.array([[100 * _interval(e[name])[side] for name in pair] for e in estimates])
        for side in (0, 1)
    )
    axis.errorbar(
        points[:, 0], points[:, 1], xerr=[points[:, 0] - low[:, 0], high[:, 0] - points[:, 0]],
        yerr=[points[:, 1] - low[:, 1], high[:, 1] - points[:, 1]],
        fmt=marker, color=colour, markersize=size, markeredgecolor="white", markeredgewidth=0.8,
        elinewidth=1.1, label=label, zorder=4,
    )  # fmt: skip


def _interval(estimate: Estimate) -> tuple[float, float]:
    """Wilson's interval; a cost's is normal."""
    return wilson(estimate) if estimate.tokens is None else normal_interval(estimate)


def _name(axis: Axes, picked: Sequence[Member], pair: tuple[str, str]) -> None:
    """Write the picks' names and numbers below them, on lines that do not meet.

    A pick near the left edge has its name on its right, one near the lower edge above it, so that
    it stays off the axes.
    """
    points = _percent([member.validation for member in picked], pair)
    (low, high), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    for place, index in enumerate(np.argsort(points[:, 0], kind="stable")):
        member = picked[index]
        names = ", ".join(pick.replace("best:", "best ") for pick in member.picks)
        left = points[index, 0] < low + 0.3 * (high - low)
        up = 1 if points[index, 1] < bottom + 0.2 * (top - bottom) else -1
        axis.annotate(
            f"{names} (#{member.number})", points[index],
            xytext=(14 if left else -14, up * (30 + 18 * place)), textcoords="offset points",
            ha="left" if left else "right", va="center", fontsize=9, color=ORANGE, zorder=5,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.8, "shrinkB": 4},
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0},
        )  # fmt: skip


def _shade(axis: Axes, front: Front, done: Sequence[Evaluation], believed: Believed) -> None:
    """Shade what the candidates dominate above the reference point, by what chose the members."""
    names = front.objectives
    corner = np.array([100 * front.reference[name] for name in names])
    points = _percent(list(believed.values()) or [c.objectives for c in done], names)
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


def _limit(axis: Axes, points: NDArray[np.float64], corner: NDArray[np.float64]) -> None:
    """Show all points, and the reference point if that leaves them half of either axis."""
    low, high = points.min(axis=0), points.max(axis=0)
    least = np.maximum(high - low, 1.0)
    low = np.minimum(low, np.maximum(corner, low - least))
    high = np.maximum(high, np.minimum(corner, high + least))
    pad = np.maximum(0.08 * (high - low), 1.0)
    low, high = np.maximum(low - pad, -2), np.minimum(high + pad, 100.5)
    axis.set_xlim(low[0], high[0])
    axis.set_ylim(low[1], high[1])


def _percent(
    estimates: Sequence[Mapping[str, Estimate]], names: Sequence[str]
) -> NDArray[np.float64]:
    rows = [[100 * by_objective[name].mean for name in names] for by_objective in estimates]
    return np.array(rows, dtype=float).reshape(len(rows), len(names))
