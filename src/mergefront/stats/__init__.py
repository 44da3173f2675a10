"""Error bars and tests: means of clustered items, paired differences, fronts, sample sizes.

Items of one cluster (same problem, pair or image) are not independent, so clusters are counted,
resampled and compared. Nothing here knows where scores come from.

`means` has means and paired differences with intervals, `comparison` p-values (McNemar, a
clustered t test), Holm's adjustment and the items that a difference needs, `pareto` fronts and
hypervolumes, `volumes` their error bars, `partial` estimates from part of the items. `pareto` and
`partial` are imported by their own names.

Every interval says in its docstring how often it covered the truth when simulated; the simulation
is `benchmarks/coverage.py`, its table is in docs/statistics.md.
"""

from __future__ import annotations

from mergefront.stats.comparison import (
    PairedComparison,
    TestName,
    compare,
    design_effect,
    detectable,
    discordance,
    holm,
    items_needed,
    mcnemar,
    paired_p,
)
from mergefront.stats.means import (
    Interval,
    estimate,
    normal_interval,
    paired_bootstrap,
    paired_difference,
    score_interval,
    wilson,
)
from mergefront.stats.volumes import hypervolume_difference, hypervolume_interval

__all__ = [
    "Interval",
    "PairedComparison",
    "TestName",
    "compare",
    "design_effect",
    "detectable",
    "discordance",
    "estimate",
    "holm",
    "hypervolume_difference",
    "hypervolume_interval",
    "items_needed",
    "mcnemar",
    "normal_interval",
    "paired_bootstrap",
    "paired_difference",
    "paired_p",
    "score_interval",
    "wilson",
]
