"""Numbers as text: signs, units, costs, and what there is no number for."""

from __future__ import annotations

from mergefront.records import Estimate
from mergefront.stats import text


def test_means_have_their_error_and_differences_their_sign() -> None:
    assert text.mean_with_error(Estimate(0.625, 0.0123, 400)) == "62.5 ± 1.2"
    cost = Estimate(0.25, 0.01, 400, tokens=96.037)
    assert text.mean_with_error(cost) == "25.0 ± 1.0 (96.04 tokens)"
    assert text.gain_with_interval(0.031, 0.01, 0.052) == "+3.1 [+1.0, +5.2]"
    assert text.gain_with_interval(-0.02, -0.03, 0.0, -4.0) == "-2.0 [-3.0, +0.0] (-4.00 tokens)"
    assert text.interval(0.601, 0.649) == "[60.1, 64.9]"


def test_small_chances_are_not_printed_as_zero() -> None:
    assert [text.p_value(p) for p in (0.0004, 0.001, 0.0126, 1.0, None)] == [
        "< 0.001", "0.001", "0.013", "1.000", "-"
    ]  # fmt: skip


def test_units_and_plurals() -> None:
    assert text.share(0.425) == "42 %"
    assert text.share(0.425, 1) == "42.5 %"
    assert [text.plural(n, "member") for n in (0, 1, 2)] == ["0 members", "1 member", "2 members"]
