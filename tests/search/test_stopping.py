"""When a search ends early: what more candidates may be expected to gain."""

from __future__ import annotations

import pytest

from fixtures_search import OBJECTIVES, REFERENCE, simulated_search
from mergefront.records import Evaluation
from mergefront.runs.belief import fit_belief
from mergefront.search.stopping import EVERY, Patience, expected_gain


def gain(found: list[Evaluation]) -> float:
    expected = expected_gain(fit_belief(found, OBJECTIVES, REFERENCE), found, [0.3, 0.6], 0)
    assert expected is not None
    return expected


def test_less_is_expected_where_all_has_been_seen() -> None:
    assert gain(simulated_search(60, 0.3)) > 3 * gain(simulated_search(60, 1.0))
    assert gain(simulated_search(200, 1.0)) < gain(simulated_search(40, 1.0))
    few = simulated_search(10, 1.0)
    assert expected_gain(fit_belief(few, OBJECTIVES, REFERENCE), few, [0.3, 0.6], 0) is None


@pytest.mark.parametrize(("least", "looks"), [(None, 0), (1e-9, 0), (1e9, 3)])
def test_three_looks_in_a_row_must_find_too_little(least: float | None, looks: int) -> None:
    found = simulated_search(80, 1.0)
    patience = Patience(least, [0.3, 0.6], seed=0)
    ended = [
        n
        for n in range(40, 81)
        if patience.ended(fit_belief(found[:n], OBJECTIVES, REFERENCE), found[:n])
    ]
    assert ended[:1] == ([40 + (looks - 1) * EVERY] if looks else [])
    if least is not None:
        belief = fit_belief(found, OBJECTIVES, REFERENCE)
        volume = (belief.front_KM[:, 0] - 0.3).max() * (belief.front_KM[:, 1] - 0.6).max()
        expected = expected_gain(belief, found, [0.3, 0.6], 0)
        assert expected is not None
        assert patience.rate is not None
        assert patience.rate >= 100 * expected / volume  # a hundred candidates an hour
