"""Which sampler, if nobody says: `auto`, by what `benchmarks/search_synthetic.py` measured.

The figures behind the rule are in docs/search.md; where they resolve nothing, the reason says so.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mergefront.errors import UserError
from mergefront.sampling.noisy_gp import design_trials

AUTO: Final = "auto"

MANY_KNOBS: Final = 16
"""Between the 8 with which samplers differ and the 32 with which none was ahead at 100."""


class SamplerChoice(NamedTuple):
    """A sampler's name and why it was chosen: a clause that can follow "since"."""

    name: str
    reason: str


def choose_sampler(dimension: int, candidates: int, n_objectives: int) -> SamplerChoice:
    """Return the sampler for D >= 1 knobs, candidates in all (warm starts too), 1 to 4 objectives.

    Raises:
        UserError: a number out of range.
    """
    if dimension < 1 or candidates < 1 or not 1 <= n_objectives <= 4:
        raise UserError(
            f"sampler {AUTO}: {dimension} knobs, {candidates} candidates, "
            f"{n_objectives} objectives",
            hint="at least 1 knob and 1 candidate, 1 to 4 objectives",
        )
    if candidates <= design_trials(dimension):
        reason = f"{candidates} candidates are too few for a model: an even spread is left"
        return SamplerChoice("qmc", reason)
    reason = (
        "with 4 and 8 knobs and 2 objectives it covered as much or more of made-up fronts than any "
        "other, from 50 candidates on"
    )
    if dimension > MANY_KNOBS:
        reason += (
            "; with 32 and 64 knobs none was measurably ahead of one coefficient for all layers, "
            f"so that fewer than your {dimension} knobs would serve better"
        )
    if n_objectives == 3:
        reason += "; with 3 objectives its lead was within noise"
    elif n_objectives != 2:
        reason += f"; {n_objectives} objectives were not measured"
    return SamplerChoice("noisy-gp", reason)
