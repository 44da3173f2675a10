"""What `differences` says of two nested plain values."""

from __future__ import annotations

from typing import Any

import pytest

from mergefront.yaml_file import differences

KNOBS = {"method": "ties", "knobs": [{"high": 1.0, "layers": "all"}, {"high": 2.0}]}


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (KNOBS, []),
        (dict(reversed(KNOBS.items())), []),
        ({**KNOBS, "method": "linear"}, ["method was 'ties', is 'linear'"]),
        ({"method": "ties"}, [f"knobs was {KNOBS['knobs']!r}, is None"]),
        (
            {**KNOBS, "knobs": [{"high": 1.5, "layers": {"knots": 3}}, {"low": 2.0}]},
            [
                "knobs.0.high was 1.0, is 1.5",
                "knobs.0.layers was 'all', is {'knots': 3}",
                "knobs.1 was {'high': 2.0}, is {'low': 2.0}",
            ],
        ),
    ],
)
def test_differences_name_each_field_and_both_values(after: Any, words: list[str]) -> None:
    assert differences(KNOBS, after) == words


def test_a_path_goes_before_the_fields() -> None:
    assert differences({"r": 1}, {"r": 2}, "items") == ["items.r was 1, is 2"]
