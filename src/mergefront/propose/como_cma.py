"""COMO-CMA-ES: several CMA-ES that spread along the front, replayable.

Each of p kernels is a CMA-ES that maximises the uncrowded hypervolume improvement of its points
over the other kernels' incumbents; together they maximise the hypervolume of the incumbents.

Reference: Toure, Hansen, Auger, Brockhoff, Uncrowded Hypervolume Improvement: COMO-CMA-ES and
the Sofomore framework, GECCO 2019, arXiv:1904.08823 (algorithms 2 and 3). Different here, because
a night has some hundred candidates: the incumbent is a kernel's best evaluated point of its last
population; the paper evaluates the kernel's mean for that, one candidate in each generation. What
else differs, kernels share with `scalar_cma`: see `kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mergefront.propose.corner import Least, raised, reference_point
from mergefront.propose.improvement import improvements
from mergefront.propose.kernels import Kernels, Values
from mergefront.propose.replay import Proposer, Tell

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ComoCmaProposer(Proposer):
    """The sampler `como-cma`, with two kernels for each objective.

    Constraints raise the reference: a candidate that breaks one counts minus its distance from
    the corner, and kernels climb towards it.
    """

    def __init__(
        self,
        *,
        dimension: int,
        seed: int,
        start: Sequence[float],
        n_objectives: int,
        reference: Sequence[float] | None,
        constraints: Least | None = None,
    ) -> None:
        assert len(start) == dimension
        self._reference = reference
        self._constraints = constraints
        count = 1 if n_objectives == 1 else 2 * n_objectives
        self._kernels = Kernels(count=count, seed=seed, start=start, merit=self._merit)

    def propose(self, tells: Sequence[Tell], number: int) -> NDArray[np.float64]:
        """Return the point of trial `number`, given `tells` in finishing order."""
        return self._kernels.draw(tells, number)

    def _merit(
        self, kernel: int, incumbents: Sequence[Values | None], told: Sequence[Values]
    ) -> Callable[[Values], float]:
        others = [v for k, v in enumerate(incumbents) if k != kernel and v is not None]
        reference_M = raised(reference_point(told, self._reference), self._constraints).tolist()
        return lambda values: uncrowded_improvement(values, others, reference_M)


def uncrowded_improvement(
    values_M: Sequence[float], front: Sequence[Sequence[float]], reference_M: Sequence[float]
) -> float:
    """Return the hypervolume that a point adds to a front, or minus its distance from adding any.

    All objectives are maximised; 1 to 4 of them. With an empty front a point above the reference
    counts its own hypervolume. Reference: arXiv:1904.08823, definition 2.

    What a point adds in three and four objectives is summed over boxes (`improvement`): moarchiving
    1.1 was seen not to return from that in three.
    """
    if len(values_M) == 1:
        return float(values_M[0]) - max([reference_M[0], *(other[0] for other in front)])
    if not len(front):
        above_M = np.asarray(values_M, dtype=np.float64) - reference_M
        short = float(np.linalg.norm(np.minimum(above_M, 0.0)))
        return -short if short > 0.0 else float(np.prod(above_M))
    if len(values_M) > 2:
        added = improvements(np.array([values_M]), np.array(front), np.array(reference_M))[0]
        if added > 0.0:
            return float(added)
    from moarchiving import get_mo_archive

    archive = get_mo_archive(
        [[-v for v in other] for other in front],
        reference_point=[-r for r in reference_M],
        n_obj=len(reference_M),
    )
    point = [-v for v in values_M]
    if len(values_M) > 2:
        return -float(archive.distance_to_pareto_front(point))
    return float(archive.hypervolume_improvement(point))
