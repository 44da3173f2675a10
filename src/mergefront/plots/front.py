"""The front as a picture: candidates, validated members with intervals, receiver, reference.

Reading order: `front_figure`, `_front_panel`, then its parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mergefront.pareto import non_dominated
from mergefront.plots.style import BLACK, BLUE, GREY, ORANGE, legend, new_figure
from mergefront.records import Estimate, Evaluation
from mergefront.statistics import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


def front_figure(
    front: Mapping[str, Any], candidates: Sequence[Evaluation], *, sampler: str
) -> Figure:
    """Draw a run's front: one panel for the first objective against each other one.

    Args:
        front: front.json (format mergefront/front@1) of two or more objectives.
        candidates: all candidates; failed ones are left out. Those whose origin is not `sampler`
            are marked as warm starts.

    Small grey dots, the line and the shade (the hypervolume; two objectives only) are estimates on
    search items, which flatter; members of the front and the receiver are drawn where validation
    items put them, with 95 % Wilson intervals.

    Raises:
        ValueError: fewer than two objectives.
    """
    names = list(front["objectives"])
    if len(names) < 2:
        raise ValueError("a front needs two objectives; draw the history instead")
    figure, axes = new_figure(1, len(names) - 1, size=(7.2, 5.6) if len(names) == 2 else (5.4, 5.0))
    done = [c for c in candidates if not c.failure]
    for axis, other in zip(axes[0], names[1:], strict=True):
        _front_panel(axis, front, done, (names[0], other), sampler)
        if len(names) == 2:
            _shade(axis, front, done)
        axis.set_xlabel(f"{names[0]} (% of items)")
        axis.set_ylabel(f"{other} (% of items)")
    title = f"{front['run']}: front of {front['candidates']} candidates"
    figure.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold")
    handles, labels = axes[0][0].get_legend_handles_labels()
    legend(figure, dict(zip(labels, handles, strict=True)))
    return figure


def _front_panel(
    axis: Axes,
    front: Mapping[str, Any],
    done: Sequence[Evaluation],
    pair: tuple[str, str],
    sampler: str,
) -> None:
    """Everything but the shade: cloud, warm starts, members, receiver, reference, limits."""
    cloud = _percent([c.objectives for c in done], pair)
    warm = np.array([c.origin != sampler for c in done], dtype=bool)
    axis.plot(
        *cloud[~warm].T, "o", color=GREY, markersize=3.5, alpha=0.55, markeredgewidth=0,
        label="candidates (search items)", zorder=2,
    )  # fmt: skip
    axis.plot(
        *cloud[warm].T, "s", color="white", markeredgecolor="#666666", markersize=5,
        label="warm starts (search items)", zorder=2.5,
    )  # fmt: skip
    others = [m for m in front["members"] if not m["picks"]]
    picked = [m for m in front["members"] if m["picks"]]
    for members, colour, marker, label in (
        (others, BLUE, "o", "front"),
        (picked, ORANGE, "D", "picks"),
    ):
        _intervals(
            axis, [m["validation"] for m in members], pair, colour, marker,
            f"{label} (validation items, 95 %)",
        )  # fmt: skip
    receiver = front["receiver"]
    there = receiver.get("validation") or receiver["search"]
    _intervals(axis, [there], pair, BLACK, "*", "receiver (validation items, 95 %)", size=13)
    corner = [100 * front["reference"][name] for name in pair]
    axis.plot(*corner, "+", color=BLACK, markersize=9, label="reference point", zorder=3)
    validated = [m["validation"] for m in front["members"]]
    shown = [_percent([*validated, there], pair), np.array([corner])]
    if len(cloud):
        shown.append(np.quantile(cloud, [0.1, 1.0], axis=0))
    _limit(axis, np.vstack(shown))
    _name(axis, picked, pair)


def _intervals(
    axis: Axes,
    estimates: Sequence[Mapping[str, Any]],
    pair: tuple[str, str],
    colour: str,
    marker: str,
    label: str,
    size: float = 7,
) -> None:
    """Draw estimates (objective -> mean, se, n) as markers with Wilson intervals in both axes."""
    if not estimates:
        return
    points = _percent(estimates, pair)
    low, high = (
        np.array([[100 * wilson(_estimate(e[name]))[side] for name in pair] for e in estimates])
        for side in (0, 1)
    )
    axis.errorbar(
        points[:, 0], points[:, 1], xerr=[points[:, 0] - low[:, 0], high[:, 0] - points[:, 0]],
        yerr=[points[:, 1] - low[:, 1], high[:, 1] - points[:, 1]],
        fmt=marker, color=colour, markersize=size, markeredgecolor="white", markeredgewidth=0.8,
        elinewidth=1.1, label=label, zorder=4,
    )  # fmt: skip


def _name(axis: Axes, picked: Sequence[Mapping[str, Any]], pair: tuple[str, str]) -> None:
    """Write the picks' names and numbers below them, on lines that do not meet.

    A pick near the left edge has its name on its right, so that it stays off the axis.
    """
    points = _percent([member["validation"] for member in picked], pair)
    low, high = axis.get_xlim()
    for place, index in enumerate(np.argsort(points[:, 0], kind="stable")):
        member = picked[index]
        names = ", ".join(pick.replace("best:", "best ") for pick in member["picks"])
        left = points[index, 0] < low + 0.3 * (high - low)
        axis.annotate(
            f"{names} (#{member['number']})", points[index],
            xytext=(14 if left else -14, -30 - 18 * place), textcoords="offset points",
            ha="left" if left else "right", va="center", fontsize=9, color=ORANGE, zorder=5,
            arrowprops={"arrowstyle": "-", "color": ORANGE, "linewidth": 0.8, "shrinkB": 4},
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0},
        )  # fmt: skip


def _shade(axis: Axes, front: Mapping[str, Any], done: Sequence[Evaluation]) -> None:
    """Shade what the candidates dominate above the reference point, by search estimates."""
    names = front["objectives"]
    corner = np.array([100 * front["reference"][name] for name in names])
    points = _percent([c.objectives for c in done], names)
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
        label="hypervolume (search items)", zorder=1.5,
    )  # fmt: skip


def _limit(axis: Axes, points: NDArray[np.float64]) -> None:
    low, high = points.min(axis=0), points.max(axis=0)
    pad = np.maximum(0.08 * (high - low), 1.0)
    low, high = np.maximum(low - pad, -2), np.minimum(high + pad, 100.5)
    axis.set_xlim(low[0], high[0])
    axis.set_ylim(low[1], high[1])


def _percent(estimates: Sequence[Mapping[str, Any]], names: Sequence[str]) -> NDArray[np.float64]:
    rows = [[100 * _estimate(e[name]).mean for name in names] for e in estimates]
    return np.array(rows, dtype=float).reshape(len(rows), len(names))


def _estimate(value: Any) -> Estimate:
    return value if isinstance(value, Estimate) else Estimate(**value)
