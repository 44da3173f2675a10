"""A simulated search on two objectives, and the settings of a small real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fixtures_cli import ZOO_RUN
from mergefront.config import RunConfig
from mergefront.records import Estimate, Evaluation, Seconds
from mergefront.search.setup import PreparedSearch, prepare_search
from mergefront.yaml_file import validate

OBJECTIVES = ("reasoning", "perception")
REFERENCE = {"reasoning": 0.3, "perception": 0.6}


def simulated_search(n: int, width: float, se: float = 0.01) -> list[Evaluation]:
    """A search that has seen the first `width` of one knob; both are best at the box's middle."""
    random = np.random.default_rng(0)
    points = random.random((n, 2)) * [width, 1.0]
    away = ((points - 0.5) ** 2).sum(axis=1)
    values = np.column_stack([0.7 - away, 0.9 - 0.8 * away])
    values += se * random.standard_normal(values.shape)
    return [
        Evaluation(
            i, tuple(point.tolist()), "x",
            {o: Estimate(float(v), se, 400) for o, v in zip(OBJECTIVES, row, strict=True)},
            Seconds(generate=36.0),
        )
        for i, (point, row) in enumerate(zip(points, values, strict=True))
    ]  # fmt: skip


SMALL_RUN: dict[str, Any] = {
    **ZOO_RUN,
    "name": "warm",
    "items": {"search": 8, "validation": 8, "test": 8},
    "engine": {"kind": "transformers"},
}


def small_config(**changes: Any) -> RunConfig:
    """A run on the zoo of eight items a split."""
    return validate(SMALL_RUN | changes, RunConfig, "warm.yaml")


def assembled(runs: Path, **changes: Any) -> PreparedSearch:
    """A search whose study and directory exist and are closed again, without an engine."""
    search = prepare_search(small_config(**changes), runs)
    search.close()
    return search
