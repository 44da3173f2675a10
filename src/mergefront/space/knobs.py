"""One dimension of a search space: what a number in [0, 1] means.

Not here: how knobs set coefficients (`lines`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_SNAP: Final = 1e-12


@dataclass(frozen=True)
class Knob:
    """One dimension: a number in [low, high], or one of `choices`, which share [0, 1] equally.

    A number is a coefficient, for cosines an amplitude, for a ramp's turning point a depth in
    [0, 1], or a parameter of the method. A choice's number is its position, also in `start`. If
    the knob is `whole`, the whole numbers from low to high share [0, 1] equally.
    """

    name: str
    low: float
    high: float
    start: float
    choices: tuple[str, ...] = ()
    whole: bool = False

    @property
    def bins(self) -> int:
        """How many values share [0, 1] equally; 0 if every number in [low, high] is a value."""
        return round(self.high - self.low) + 1 if self.whole else len(self.choices)

    def number(self, u: float) -> float:
        """Decode u in [0, 1]: linear, and exact at both bounds and at 0.

        A number within 1e-12 of the bounds' width around 0 is 0, even if it is a bound. Of n
        choices or whole numbers u means the one at position floor(n u), and u = 1 the last.
        """
        if self.bins:
            first = self.low if self.whole else 0.0
            return first + min(self.bins - 1, int(u * self.bins))
        value = self.high if u == 1.0 else self.low + u * (self.high - self.low)
        return 0.0 if abs(value) < _SNAP * (self.high - self.low) else value

    def value(self, u: float) -> float | str:
        """Decode u in [0, 1] for people: a number (an int if whole), or the word of a choice."""
        if self.choices:
            return self.choices[int(self.number(u))]
        return int(self.number(u)) if self.whole else self.number(u)

    def position(self, value: float) -> float:
        """Encode a number, clipped to the bounds, as u in [0, 1].

        A choice and a whole number (the nearest one) become the middle of their bin.
        """
        if self.choices:
            return (value + 0.5) / len(self.choices)
        if self.whole:
            return (round(min(self.high, max(self.low, value))) - self.low + 0.5) / self.bins
        u = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, u))
