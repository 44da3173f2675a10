"""Figures: what they show, that files repeat byte for byte, and edge cases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from fixtures_science import OBJECTIVES, REFERENCE, candidates, front_json
from mergefront.plots import front_figure, history_figure, profile_figure, save
from mergefront.profiles import Profile
from mergefront.records import Evaluation

FOUND = candidates(30)
FRONT = front_json(FOUND)


def profile(n_layers: int, sources: tuple[str, ...] = ("arithmetic", "comparison")) -> Profile:
    shape = (len(sources), 3, n_layers)
    values = np.linspace(0, 1, int(np.prod(shape))).reshape(shape)
    return Profile(sources, ("attention", "mlp", "norm"), values, {})


def labelled(axis: Any) -> dict[str, np.ndarray]:
    handles, labels = axis.get_legend_handles_labels()
    lines = [getattr(h, "lines", [h])[0] if hasattr(h, "lines") else h for h in handles]
    return {k: h.get_xydata() for k, h in zip(labels, lines, strict=True)}


def test_the_front_shows_every_candidate_and_validated_members_where_they_belong() -> None:
    axis = front_figure(FRONT, FOUND, sampler="como-cma").axes[0]
    shown = labelled(axis)
    assert len(shown["candidates (search items)"]) == 30 - 4 - 1  # warm starts, one failure
    assert len(shown["warm starts (search items)"]) == 4
    members = FRONT["members"]
    for label, chosen in (
        ("front (validation items, 95 %)", [m for m in members if not m["picks"]]),
        ("picks (validation items, 95 %)", [m for m in members if m["picks"]]),
    ):
        expected = [[100 * m["validation"][o]["mean"] for o in OBJECTIVES] for m in chosen]
        assert shown[label].tolist() == pytest.approx(np.array(expected))
    (corner,) = shown["reference point"]
    assert corner.tolist() == pytest.approx([26.0, 74.4])
    assert axis.get_xlabel() == "reasoning (% of items)"
    assert axis.get_ylabel() == "perception (% of items)"
    names = {text.get_text() for text in axis.texts}
    assert any("knee" in name for name in names)
    assert any("best reasoning" in name for name in names)


def test_the_shade_is_the_hypervolume() -> None:
    axis = front_figure(FRONT, FOUND, sampler="como-cma").axes[0]
    (shade,) = [c for c in axis.collections if isinstance(c, PolyCollection)]
    x, y = shade.get_paths()[0].vertices.T
    area = abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2
    assert area / 100**2 == pytest.approx(FRONT["hypervolume"]["search"], rel=1e-6)


@pytest.mark.parametrize("keep", [0, 1])
def test_fronts_of_next_to_nothing(keep: int, tmp_path: Path) -> None:
    front = {**FRONT, "members": FRONT["members"][:keep]}
    save(front_figure(front, FOUND[:keep], sampler="como-cma"), tmp_path, "front")
    save(history_figure(FOUND[:keep], OBJECTIVES, REFERENCE), tmp_path, "history")


def test_three_objectives_have_a_panel_for_each_pair_with_the_first(tmp_path: Path) -> None:
    def third(scores: dict[str, Any]) -> dict[str, Any]:
        return {**scores, "brevity": scores["perception"]}

    found = [
        Evaluation(e.number, e.point, e.origin, third(dict(e.objectives)), failure=e.failure)
        for e in FOUND
        if not e.failure
    ]
    front = {
        **FRONT,
        "objectives": [*OBJECTIVES, "brevity"],
        "reference": {**REFERENCE, "brevity": 0.5},
        "receiver": {k: third(v) for k, v in FRONT["receiver"].items()},
        "members": [{**m, "validation": third(m["validation"])} for m in FRONT["members"]],
    }
    figure = front_figure(front, found, sampler="como-cma")
    assert [a.get_ylabel() for a in figure.axes] == [
        "perception (% of items)",
        "brevity (% of items)",
    ]
    save(figure, tmp_path, "front")
    with pytest.raises(ValueError, match="two objectives"):
        front_figure({**FRONT, "objectives": ["reasoning"]}, FOUND, sampler="como-cma")


def test_history_ends_at_the_hypervolume_and_the_best() -> None:
    axes = history_figure(FOUND, OBJECTIVES, REFERENCE).axes
    volume = axes[0].lines[0].get_ydata()
    assert volume[-1] == pytest.approx(FRONT["hypervolume"]["search"])
    assert (np.diff(volume) > -1e-12).all()  # up to rounding
    for axis, name in zip(axes[1:], OBJECTIVES, strict=True):
        best = max(e.objectives[name].mean for e in FOUND if not e.failure)
        assert axis.lines[1].get_ydata()[-1] == pytest.approx(100 * best)
        assert len(axis.lines[0].get_ydata()) == 29


def test_profiles_have_a_panel_for_each_part_and_donor_and_a_line_for_each_recipe() -> None:
    profiles = [profile(6), profile(6, ("arithmetic",))]
    axes = profile_figure(["a", "b"], profiles).axes
    assert len(axes) == 6
    for index, axis in enumerate(axes):
        part, source = ("attention", "mlp", "norm")[index // 2], index % 2
        name = ("arithmetic", "comparison")[source]
        ours, theirs = (line.get_ydata() for line in axis.lines[1:])
        assert ours.tolist() == profiles[0].curve(name, part).tolist()
        assert theirs.tolist() == profiles[1].curve(name, part).tolist()
    assert len({line.get_color() for line in axes[0].lines[1:]}) == 2
    assert len({line.get_marker() for line in axes[0].lines[1:]}) == 2


@pytest.mark.parametrize(("n_layers", "recipes", "donors"), [(1, 1, 1), (64, 9, 3)])
def test_profiles_of_any_size(n_layers: int, recipes: int, donors: int, tmp_path: Path) -> None:
    one = profile(n_layers, tuple(f"donor{i}" for i in range(donors)))
    figure = profile_figure([f"r{i}" for i in range(recipes)], [one] * recipes)
    assert [len(a.lines) for a in figure.axes] == [1 + recipes] * len(one.parts) * donors
    save(figure, tmp_path, "p")


def test_files_repeat_byte_for_byte(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        paths = save(front_figure(FRONT, FOUND, sampler="como-cma"), tmp_path / folder, "front")
        assert [p.name for p in paths] == ["front.png", "front.svg"]
    for name in ("front.png", "front.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert b"<dc:date>" not in (tmp_path / "a" / "front.svg").read_bytes()


def test_importing_plots_does_not_import_matplotlib() -> None:
    script = "import sys, mergefront.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
