# mypy: disable-error-code="union-attr, index, attr-defined, type-var, arg-type"
# (matplotlib's getters return unions of all that may be plotted)
"""Figures: what they show, that files repeat byte for byte, and edge cases."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from fixtures_science import (
    OBJECTIVES,
    REFERENCE,
    belief_of,
    believed_of,
    candidates,
    front_json,
    raced_candidates,
)
from mergefront.records import Estimate, Evaluation
from mergefront.runs.front import Front
from mergefront.runs.history import BEHIND, KNOWN
from mergefront.runs.plots import (
    calibration_figure,
    front_figure,
    history_figure,
    profile_figure,
    race_figure,
    save,
)
from mergefront.sampling.gp import GaussianProcess
from mergefront.space.profiles import Profile
from mergefront.stats.pareto import hypervolume

CANDIDATES = candidates(30)
FRONT = Front.from_dict(front_json(CANDIDATES))
RACED = raced_candidates()
RACED_FRONT = Front.from_dict(front_json(RACED))
BELIEVED = believed_of(RACED)


def profile(n_layers: int, sources: tuple[str, ...] = ("arithmetic", "comparison")) -> Profile:
    shape = (len(sources), 3, n_layers)
    values = np.linspace(0, 1, int(np.prod(shape))).reshape(shape)
    return Profile(sources, ("attention", "mlp", "norm"), values, {})


def labelled(axis: Any) -> dict[str, np.ndarray]:
    handles, labels = axis.get_legend_handles_labels()
    lines = [getattr(h, "lines", [h])[0] if hasattr(h, "lines") else h for h in handles]
    return {k: h.get_xydata() for k, h in zip(labels, lines, strict=True)}


def test_the_front_shows_every_candidate_and_validated_members_where_they_belong() -> None:
    axis = front_figure(FRONT, CANDIDATES).axes[0]
    shown = labelled(axis)
    assert len(shown["candidates (search items)"]) == 30 - 4 - 1  # warm starts, one failure
    assert len(shown["warm starts (search items)"]) == 4
    members = FRONT.members
    for label, group in (
        ("front (validation, 95 %)", [m for m in members if not m.picks]),
        ("picks (validation, 95 %)", [m for m in members if m.picks]),
    ):
        expected = [[100 * m.validation[o].mean for o in OBJECTIVES] for m in group]
        assert shown[label].tolist() == pytest.approx(np.array(expected))
    (corner,) = shown["reference (26.0, 74.4)"]
    assert corner.tolist() == pytest.approx([26.0, 74.4])
    assert axis.get_xlabel() == "reasoning (% of items)"
    assert axis.get_ylabel() == "perception (% of items)"
    names = {text.get_text() for text in axis.texts}
    assert any("knee" in name for name in names)
    assert any("best reasoning" in name for name in names)


def shaded(axis: Any) -> float:
    (shade,) = [c for c in axis.collections if isinstance(c, PolyCollection)]
    x, y = shade.get_paths()[0].vertices.T
    return float(abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2 / 100**2)


def test_the_shade_is_the_hypervolume_of_what_chose_the_members() -> None:
    axis = front_figure(FRONT, CANDIDATES).axes[0]
    assert shaded(axis) == pytest.approx(FRONT.hypervolume.search, rel=1e-6)
    axis = front_figure(RACED_FRONT, RACED, believed=BELIEVED).axes[0]
    covered = hypervolume(belief_of(RACED).mean_NM, list(REFERENCE.values()))
    assert abs(covered - RACED_FRONT.hypervolume.search) > 1e-4
    assert shaded(axis) == pytest.approx(covered, rel=1e-6)


def test_who_left_is_apart_and_members_go_from_belief_to_validation() -> None:
    axis = front_figure(RACED_FRONT, RACED, believed=BELIEVED).axes[0]
    shown = labelled(axis)
    leavers = [e for e in RACED if e.raced.left]
    assert 10 < len(leavers) < 50
    places = [[100 * e.objectives[o].mean for o in OBJECTIVES] for e in leavers]
    assert shown["left the race early"].tolist() == pytest.approx(np.array(places))
    assert len(shown["candidates (search items)"]) == 64 - 1 - 4 - len(leavers)
    lines = {tuple(line.get_xydata().ravel().round(6)) for line in axis.lines}
    for label, picked in (("front", False), ("picks", True)):
        members = [m for m in RACED_FRONT.members if bool(m.picks) == picked]
        start, end = (
            np.array([[100 * getattr(m, step)[o].mean for o in OBJECTIVES] for m in members])
            for step in ("believed", "validation")
        )
        assert shown[f"{label} as believed"].tolist() == pytest.approx(start)
        assert {tuple(line.ravel().round(6)) for line in np.stack([start, end], axis=1)} <= lines
    for limits, name in ((axis.get_xlim(), "reasoning"), (axis.get_ylim(), "perception")):
        for member in RACED_FRONT.members:
            assert limits[0] < 100 * member.believed[name].mean < limits[1]


def test_calibration_is_what_a_model_without_the_candidate_foretells() -> None:
    """Brute force: with each candidate left out in turn, the kernel kept."""
    model, evaluated = belief_of(RACED).model, [e for e in RACED if not e.failure]
    standing = [e for e, stands in zip(evaluated, model.not_collapsed_N, strict=True) if stands]
    points = np.array([e.point for e in standing])
    for axis, name, surface in zip(
        calibration_figure(OBJECTIVES, RACED, model).axes, OBJECTIVES, model.surfaces, strict=True
    ):
        values, errors, partial = (
            np.array([getattr(e.objectives[name], field) for e in standing])
            for field in ("mean", "se", "partial")
        )
        inside, outside = axis.containers
        drawn = np.concatenate([c.lines[0].get_xydata() for c in (inside, outside)])
        assert sorted(drawn[:, 1]) == pytest.approx(sorted(100 * values))
        for index in range(0, len(standing), 9):
            rest = np.arange(len(standing)) != index
            alone = GaussianProcess(
                surface.kernel, points[rest], values[rest], errors[rest], partial[rest]
            )
            expected = [100 * alone.mean(points[[index]])[0], 100 * values[index]]
            assert np.abs(drawn - expected).max(axis=1).min() < 0.05
        check = surface.calibration()
        assert len(inside.lines[0].get_xydata()) == round(check.within_95 * check.n)
        for container, meets in ((inside, True), (outside, False)):
            places = container.lines[0].get_xydata()[:, 1]
            for bar, place in zip(container.lines[2][0].get_segments(), places, strict=True):
                assert (bar[0, 0] <= place <= bar[1, 0]) == meets


def test_too_few_candidates_have_no_calibration() -> None:
    with pytest.raises(ValueError, match="too few candidates"):
        calibration_figure(OBJECTIVES, RACED[:3], belief_of(RACED[:3]).model)


def test_the_race_shows_what_each_answered_and_why_it_left(tmp_path: Path) -> None:
    figure = race_figure(RACED_FRONT, RACED)
    (axis,) = figure.axes
    bars = {c.get_label(): {round(b.get_center()[0]): b.get_height() for b in c}
            for c in axis.containers}  # fmt: skip
    expected = {e.number: sum(o.n for o in e.objectives.values()) for e in RACED if not e.failure}
    assert {k: v for heights in bars.values() for k, v in heights.items()} == expected
    for why in (BEHIND, KNOWN):
        leavers = {e.number for e in RACED if e.raced.left == why}
        assert leavers
        assert set(bars[f"left: {why} ({len(leavers)})"]) == leavers
    marks = {line.get_label(): sorted(line.get_xdata()) for line in axis.lines}
    spared = [e.number for e in RACED if e.raced.spared == BEHIND]
    assert marks[f"would have left: {BEHIND} ({len(spared)})"] == spared
    front = sorted(belief_of(RACED).front)
    assert marks[f"on the front as believed ({len(front)})"] == front
    assert marks["failed (1)"] == [7]
    saved = 1 - sum(expected.values()) / (len(expected) * max(expected.values()))
    assert f"{100 * saved:.0f} % of the items" in figure.get_suptitle()
    save(figure, tmp_path, "race")


@pytest.mark.parametrize("keep", [0, 1])
def test_fronts_of_next_to_nothing(keep: int, tmp_path: Path) -> None:
    front = replace(FRONT, members=FRONT.members[:keep])
    save(front_figure(front, CANDIDATES[:keep]), tmp_path, "front")
    save(history_figure(CANDIDATES[:keep], OBJECTIVES, REFERENCE), tmp_path, "history")


def test_three_objectives_have_a_panel_for_each_pair_with_the_first(tmp_path: Path) -> None:
    def third(scores: Mapping[str, Estimate]) -> dict[str, Estimate]:
        return {**scores, "brevity": scores["perception"]}

    evaluations = [
        Evaluation(e.number, e.point, e.origin, third(e.objectives), failure=e.failure)
        for e in CANDIDATES
        if not e.failure
    ]
    front = replace(
        FRONT,
        objectives=(*OBJECTIVES, "brevity"),
        reference={**REFERENCE, "brevity": 0.5},
        receiver={split: third(scores) for split, scores in FRONT.receiver.items()},
        members=tuple(replace(m, validation=third(m.validation)) for m in FRONT.members),
    )
    figure = front_figure(front, evaluations)
    assert [a.get_ylabel() for a in figure.axes] == [
        "perception (% of items)",
        "brevity (% of items)",
    ]
    save(figure, tmp_path, "front")
    with pytest.raises(ValueError, match="two objectives"):
        front_figure(replace(FRONT, objectives=("reasoning",)), CANDIDATES)


def test_history_ends_at_the_hypervolume_and_the_best() -> None:
    axes = history_figure(CANDIDATES, OBJECTIVES, REFERENCE).axes
    volume = axes[0].lines[0].get_ydata()
    assert volume[-1] == pytest.approx(FRONT.hypervolume.search)
    assert (np.diff(volume) > -1e-12).all()  # up to rounding
    for axis, name in zip(axes[1:], OBJECTIVES, strict=True):
        best = max(e.objectives[name].mean for e in CANDIDATES if not e.failure)
        assert axis.lines[1].get_ydata()[-1] == pytest.approx(100 * best)
        assert len(axis.lines[0].get_ydata()) == 29


def test_history_follows_what_is_believed_where_the_model_chose() -> None:
    axes = history_figure(RACED, OBJECTIVES, REFERENCE, BELIEVED).axes
    covered = hypervolume(belief_of(RACED).mean_NM, list(REFERENCE.values()))
    assert axes[0].lines[0].get_ydata()[-1] == pytest.approx(covered)
    for axis, name in zip(axes[1:], OBJECTIVES, strict=True):
        best = max(estimates[name].mean for estimates in BELIEVED.values())
        assert axis.lines[1].get_ydata()[-1] == pytest.approx(100 * best)
        scored = [100 * e.objectives[name].mean for e in RACED if not e.failure]
        assert axis.lines[0].get_ydata().tolist() == pytest.approx(scored)


def test_profiles_have_a_panel_for_each_part_and_donor_and_a_line_for_each_recipe() -> None:
    profiles = [profile(6), profile(6, ("arithmetic",))]
    axes = profile_figure(["a", "b"], profiles).axes
    assert len(axes) == 6
    for index, axis in enumerate(axes):
        part, source = ("attention", "mlp", "norm")[index // 2], index % 2
        name = ("arithmetic", "comparison")[source]
        first, second = (line.get_ydata() for line in axis.lines[1:])
        assert first.tolist() == profiles[0].curve(name, part).tolist()
        assert second.tolist() == profiles[1].curve(name, part).tolist()
    assert len({line.get_color() for line in axes[0].lines[1:]}) == 2
    assert len({line.get_marker() for line in axes[0].lines[1:]}) == 2


@pytest.mark.parametrize(("n_layers", "recipes", "donors"), [(1, 1, 1), (64, 9, 3)])
def test_profiles_of_any_size(n_layers: int, recipes: int, donors: int, tmp_path: Path) -> None:
    depth_profile = profile(n_layers, tuple(f"donor{i}" for i in range(donors)))
    figure = profile_figure([f"r{i}" for i in range(recipes)], [depth_profile] * recipes)
    assert [len(a.lines) for a in figure.axes] == [1 + recipes] * len(depth_profile.parts) * donors
    save(figure, tmp_path, "p")


def test_files_repeat_byte_for_byte(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        paths = save(front_figure(FRONT, CANDIDATES), tmp_path / folder, "front")
        assert [p.name for p in paths] == ["front.png", "front.svg"]
    for name in ("front.png", "front.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert b"<dc:date>" not in (tmp_path / "a" / "front.svg").read_bytes()


def test_importing_plots_does_not_import_matplotlib() -> None:
    script = "import sys, mergefront.runs.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
