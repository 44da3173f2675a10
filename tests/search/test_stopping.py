"""When a search ends early: what more candidates may be expected to gain."""

from __future__ import annotations

import numpy as np
import pytest

from mergefront.records import Estimate, Evaluation, Seconds
from mergefront.runs.belief import believe
from mergefront.search.stopping import EVERY, Patience, expected_gain

NAMES = ("reasoning", "perception")
REFERENCE = {"reasoning": 0.3, "perception": 0.6}


def search(n: int, width: float, se: float = 0.01) -> list[Evaluation]:
    """A search that has seen the first `width` of one knob; both are best at the box's middle."""
    random = np.random.default_rng(0)
    points = random.random((n, 2)) * [width, 1.0]
    away = ((points - 0.5) ** 2).sum(axis=1)
    values = np.column_stack([0.7 - away, 0.9 - 0.8 * away])
    values += se * random.standard_normal(values.shape)
    return [
        Evaluation(
            i, tuple(point.tolist()), "x",
            {o: Estimate(float(v), se, 400) for o, v in zip(NAMES, row, strict=True)},
            Seconds(generate=36.0),
        )
        for i, (point, row) in enumerate(zip(points, values, strict=True))
    ]  # fmt: skip


def gain(found: list[Evaluation]) -> float:
    expected = expected_gain(believe(found, NAMES, REFERENCE), found, [0.3, 0.6], 0)
    assert expected is not None
    return expected


def test_less_is_expected_where_all_has_been_seen() -> None:
    assert gain(search(60, 0.3)) > 3 * gain(search(60, 1.0))
    assert gain(search(200, 1.0)) < gain(search(40, 1.0))
    few = search(10, 1.0)
    assert expected_gain(believe(few, NAMES, REFERENCE), few, [0.3, 0.6], 0) is None


@pytest.mark.parametrize(("least", "looks"), [(None, 0), (1e-9, 0), (1e9, 3)])
def test_three_looks_in_a_row_must_find_too_little(least: float | None, looks: int) -> None:
    found = search(80, 1.0)
    patience = Patience(least, [0.3, 0.6], seed=0)
    ended = [
        n for n in range(40, 81) if patience.ended(believe(found[:n], NAMES, REFERENCE), found[:n])
    ]
    assert ended[:1] == ([40 + (looks - 1) * EVERY] if looks else [])
    if least is not None:
        belief = believe(found, NAMES, REFERENCE)
        volume = (belief.front_KM[:, 0] - 0.3).max() * (belief.front_KM[:, 1] - 0.6).max()
        expected = expected_gain(belief, found, [0.3, 0.6], 0)
        assert expected is not None
        assert patience.rate is not None
        assert patience.rate >= 100 * expected / volume  # a hundred candidates an hour
