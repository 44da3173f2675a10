"""One dimension of a search space: what a number in [0, 1] means.

Not here: how knobs set coefficients (`claims`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_SNAP: Final = 1e-12


@dataclass(frozen=True)
class Knob:
    """One dimension: a number in [low, high], or one of `choices`, which share [0, 1] equally.

    A number is a coefficient, for cosines an amplitude, for a ramp's turning point a depth in
    [0, 1], or a parameter of the method. A choice's number is its position, `start` included.
    """

    name: str
    low: float
    high: float
    start: float
    choices: tuple[str, ...] = ()

    def number(self, u: float) -> float:
        """Decode u in [0, 1]: linear, exact at both bounds, and exactly 0 where 0 is meant.

        What lies within 1e-12 of the bounds' width around 0 is 0, a bound included. Of n choices
        the one at position floor(n u) is meant, the last one where u is 1.
        """
        if self.choices:
            return float(min(len(self.choices) - 1, int(u * len(self.choices))))
        value = self.high if u == 1.0 else self.low + u * (self.high - self.low)
        return 0.0 if abs(value) < _SNAP * (self.high - self.low) else value

    def value(self, u: float) -> float | str:
        """Decode u in [0, 1] for people: the number, or the word that is chosen."""
        return self.choices[int(self.number(u))] if self.choices else self.number(u)

    def position(self, value: float) -> float:
        """Encode a number, clipped to the bounds, as u in [0, 1]; a choice as its bin's middle."""
        if self.choices:
            return (value + 0.5) / len(self.choices)
        u = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, u))
