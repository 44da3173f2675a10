"""More knobs for a space during a run: the finer file, and old points in its terms.

A curve over n equally spaced knots is one over 2n - 1 as well, with every other knot halfway
between its neighbours, so that nothing that was evaluated is lost. Not here: when a search does so
(`patience`), and which trials belong to which space (`versions`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mergefront.errors import SpaceError
from mergefront.space.file import SpaceSpec
from mergefront.space.layers import Knots, embedded, finer
from mergefront.space.lines import Claim, CurveClaim


def refined_spec(
    spec: SpaceSpec, claims: Sequence[Claim], lines: Collection[int] | None
) -> SpaceSpec:
    """Return the file with some lines refined; default: all lines with knots.

    Raises:
        SpaceError: a line cannot be refined, or none has knots.
    """
    knots = [number for number, line in enumerate(spec.knobs) if isinstance(line.layers, Knots)]
    chosen = sorted(knots if lines is None else set(lines))
    if not chosen:
        raise SpaceError("no line of this space has knots, so that it cannot be refined")
    made = list(spec.knobs)
    for number in chosen:
        line = spec.knobs[number]
        mine = [one for one in claims if isinstance(one, CurveClaim) and one.line == line]
        present = {depth for claim in mine for _, depth in claim.depths}
        layers = finer(line.layers, len(present))
        if layers is None or not mine:
            raise SpaceError(
                f"knobs.{number} cannot be refined",
                hint="layers: knots and all can, cosines up to the number of layers",
            )
        made[number] = line.model_copy(update={"layers": layers})
    return spec.model_copy(update={"knobs": tuple(made)})


def carried_over(
    numbers: Sequence[tuple[Claim, Sequence[float]]], claims: Sequence[Claim]
) -> list[float]:
    """Return the numbers of finer claims' knobs that give the same table as those of coarser ones.

    Raises:
        SpaceError: the claims are no refinement.
    """
    found: list[float] = []
    if len(numbers) == len(claims):
        for (coarse, mine), fine in zip(numbers, claims, strict=True):
            theirs = _theirs(coarse, mine, fine)
            if theirs is None:
                break
            found += theirs
        else:
            return found
    raise SpaceError("a point cannot be carried over: the other space is no refinement of its own")


def _theirs(coarse: Claim, numbers: Sequence[float], fine: Claim) -> Sequence[float] | None:
    if coarse == fine:
        return numbers
    line = coarse.line.model_copy(update={"layers": fine.line.layers})
    same = (line, coarse.donors, coarse.depths) == (fine.line, fine.donors, fine.depths)
    if not same or not isinstance(coarse, CurveClaim):
        return None
    depths = [depth for _, depth in coarse.depths]
    return embedded(numbers, coarse.line.layers, fine.line.layers, coarse.curve, depths)
