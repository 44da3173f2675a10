"""Scores, differences and p-values as text, so that a number looks the same wherever it stands.

The terminal, the report, the model card and the messages print through these functions. Means,
errors and interval ends are fractions; the text has percent, or points for a difference. `tokens`
is what a cost comes to in tokens; it is None for other objectives.
"""

from __future__ import annotations

from mergefront.records import Estimate


def plural(number: int, noun: str) -> str:
    """`1 member`, `2 members`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent(fraction: float, decimals: int = 1) -> str:
    """`62.5`: without its unit, for a column whose head has it."""
    return f"{100 * fraction:.{decimals}f}"


def share(fraction: float, decimals: int = 0) -> str:
    """`62 %`: with its unit, for a sentence."""
    return f"{percent(fraction, decimals)} %"


def points(difference: float) -> str:
    """`+3.1`: a difference in points, always with its sign."""
    return f"{100 * difference:+.1f}"


def interval(low: float, high: float) -> str:
    """`[60.1, 64.9]`: the interval of a mean."""
    return f"[{percent(low)}, {percent(high)}]"


def points_interval(low: float, high: float) -> str:
    """`[+1.0, +5.2]`: the interval of a difference."""
    return f"[{points(low)}, {points(high)}]"


def mean_with_error(estimate: Estimate) -> str:
    """`62.5 ± 1.2`: a mean and its standard error; `62.5 ± 1.2 (96.04 tokens)` for a cost."""
    tokens = "" if estimate.tokens is None else f" ({estimate.tokens:.2f} tokens)"
    return f"{percent(estimate.mean)} ± {percent(estimate.se)}{tokens}"


def gain_with_interval(mean: float, low: float, high: float, tokens: float | None = None) -> str:
    """`+3.1 [+1.0, +5.2]`: a difference and its interval; `... (-4.00 tokens)` for a cost."""
    cost = "" if tokens is None else f" ({tokens:+.2f} tokens)"
    return f"{points(mean)} {points_interval(low, high)}{cost}"


def p_value(p: float | None) -> str:
    """`0.013` or `< 0.001`; `-` where nothing was tested."""
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
