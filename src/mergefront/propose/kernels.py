"""Several CMA-ES kernels that share a budget: who draws, who learns when, where they begin.

Trial `number` belongs to kernel `number % p`, and a kernel learns when a population of its own
trials has been told, in whatever order. By what merit a kernel ranks points is its owner's:
`como_cma` (what they add to the other kernels' hypervolume), `scalar_cma` (a weighting of its own).

A kernel also learns from the best recent points of the others, shortened to a likely length; a
night has some hundred candidates, and this was worth it (measured in docs/lab.md). Kernels start
along the front of the warm starts; without any, around the space's start.

State is a fold over the tells and uses no random numbers; these enter only when a point is drawn,
seeded by the trial's number. Hence a sampler that starts from nothing replays exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mergefront.pareto import non_dominated
from mergefront.propose.kernel import Kernel
from mergefront.propose.replay import Tell, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

Values = tuple[float, ...]

Merit = Callable[[int, Sequence[Values | None], Sequence[Values]], Callable[[Values], float]]
"""Kernel, every kernel's incumbent (None before its first generation), all values told so far ->
what that kernel maximises, a function of one candidate's values."""

_POPULATION = 6  # smallest that pycma adapts its step by path length for
_GUESTS = 3  # points of others that a kernel learns from in each generation
_JITTER = 0.1  # standard deviation of the kernels' places around the warm starts' line
_LAYOUT, _DRAW = 20, 21  # purposes of derived seeds


class Kernels:
    """`count` kernels from `start` (length D); caches the fold of the tells it saw last."""

    def __init__(self, *, count: int, seed: int, start: Sequence[float], merit: Merit) -> None:
        step = min(0.25, 0.5 / math.sqrt(len(start)))
        self._layout = _Layout(seed, tuple(start), step)
        self._count = count
        self._merit = merit
        self._seen: list[Tell] = []
        self._fold = self._empty()

    def draw(self, tells: Sequence[Tell], number: int) -> NDArray[np.float64]:
        """Return the point of trial `number`, given `tells` in finishing order."""
        if list(tells[: len(self._seen)]) != self._seen:
            self._seen, self._fold = [], self._empty()
        for tell in tells[len(self._seen) :]:
            self._fold.tell(tell)
        self._seen = list(tells)
        kernel = self._fold.kernels()[number % self._count]
        return kernel.draw(generator(self._layout.seed, _DRAW, number))

    def _empty(self) -> _Fold:
        return _Fold(self._layout, self._count, self._merit)


class _Layout:
    """Where kernels start: evenly along the line through the warm starts' front."""

    def __init__(self, seed: int, start_D: tuple[float, ...], step: float) -> None:
        self.seed = seed
        self._start_D = start_D
        self._step = step

    def kernels(self, count: int, warm: Sequence[Tell]) -> list[Kernel]:
        """Return new kernels in the order of the first objective, lowest first."""
        line = self._line(warm)
        places = (np.arange(count) + 0.5) / count * (len(line) - 1)
        kernels = []
        for index, place in enumerate(places):
            left = math.floor(place)
            right = min(left + 1, len(line) - 1)
            mean_D = line[left] + (place - left) * (line[right] - line[left])
            noise_D = generator(self.seed, _LAYOUT, index).standard_normal(len(mean_D))
            mean_D = np.clip(mean_D + _JITTER * noise_D, 0.0, 1.0)
            kernels.append(Kernel(mean_D.tolist(), self._step, _POPULATION))
        return kernels

    def _line(self, warm: Sequence[Tell]) -> NDArray[np.float64]:
        evaluated = [(tell.values, tell.point) for tell in warm if tell.values is not None]
        if not evaluated:
            return np.array([self._start_D])
        front = non_dominated([values for values, _ in evaluated])
        return np.array([point for _, point in sorted(evaluated[i] for i in front)])


class _Fold:
    """What the tells amount to. Until one of our own points is told, kernels may be laid anew."""

    def __init__(self, layout: _Layout, count: int, merit: Merit) -> None:
        self._layout = layout
        self._count = count
        self._merit = merit
        self._told: list[Tell] = []
        self._working: list[Kernel] | None = None
        self._drafts: tuple[int, list[Kernel]] = (-1, [])
        self._populations: list[list[Tell]] = [[] for _ in range(count)]
        self._incumbents: list[Values | None] = [None] * count

    def kernels(self) -> list[Kernel]:
        """Return the kernels to draw from now."""
        if self._working is not None:
            return self._working
        if self._drafts[0] != len(self._told):
            self._drafts = (len(self._told), self._layout.kernels(self._count, self._told))
        return self._drafts[1]

    def tell(self, tell: Tell) -> None:
        """Take in one more finished trial."""
        if tell.proposed:
            self._working = self.kernels()
        self._told.append(tell)
        if not tell.proposed:
            return
        kernel = tell.number % self._count
        self._populations[kernel].append(tell)
        if len(self._populations[kernel]) == _POPULATION:
            self._learn(kernel, self._populations[kernel])
            self._populations[kernel] = []

    def _learn(self, kernel: int, population: list[Tell]) -> None:
        """Rank a kernel's population, with guests, and adapt; failed points come last."""
        numbers = {tell.number for tell in population}
        latest = self._told[-self._count * _POPULATION :]
        guests = [tell for tell in latest if tell.values and tell.number not in numbers]
        own = [tell for tell in population if tell.values]
        if not own:
            return  # nothing to learn from a population that failed as a whole
        told = [tell.values for tell in self._told if tell.values is not None]
        worth = self._merit(kernel, self._incumbents, told)
        fitness = {tell.number: worth(tell.values) for tell in (*own, *guests) if tell.values}
        guests.sort(key=lambda tell: (-fitness[tell.number], tell.number))
        batch = population + guests[:_GUESTS]
        last = min(fitness.values()) - 1.0
        assert self._working is not None
        self._working[kernel].tell(
            [tell.point for tell in batch], [fitness.get(tell.number, last) for tell in batch]
        )
        self._incumbents[kernel] = max(own, key=lambda tell: fitness[tell.number]).values
