"""Time: what a run has used of its hours, and what it must keep for the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from mergefront.config import BLIND_ITEMS, RunConfig
from mergefront.records import Evaluation
from mergefront.tasks import ItemSet


@dataclass
class Clock:
    """Wall seconds that a run has used, over all its sessions, against its budget of hours."""

    hours: float | None
    before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        return self.before + time.monotonic() - self.started

    def left(self) -> float:
        """Seconds left; infinite without a budget in hours."""
        return float("inf") if self.hours is None else self.hours * 3600 - self.elapsed()


def reserve(config: RunConfig, items: ItemSet, found: Sequence[Evaluation]) -> float:
    """Seconds to keep for one more candidate, validation, test and export.

    By the dearest item of the last five candidates that answered any; 0 without a budget in hours.
    """
    timed = [e for e in found if not e.failure and e.seconds.generate > 0]
    if not timed or config.budget.hours is None:
        return 0.0
    per_item = max(e.seconds.total / e.answered(config.costs) for e in timed[-5:])
    validated = (config.report.finalists + 1) * len(items.flat("validation"))
    pickable = 3 + len(config.objectives)  # knee, guarded, the receiver
    tested = pickable * len(items.flat("test"))
    unseen = min(len(items.flat("validation")), BLIND_ITEMS * len(config.asked))
    blind = pickable * unseen if config.report.blind else 0
    asked = len(items.flat("search")) + validated + tested + blind
    export = 120.0 if config.export else 10.0
    return float(1.2 * per_item * asked + export)
