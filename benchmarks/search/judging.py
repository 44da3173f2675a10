"""The marks of judged recipes, asked once and kept by recipe hash; and a benchmark's files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from workbench import OBJECTIVES, Workbench

from mergefront.files import write_text
from mergefront.merging.recipe import Recipe

Run = dict[str, Any]
"""One JSON of DIR/runs."""


def path_of(out: Path, setting: str, seed: int, arm: str) -> Path:
    """The file of a run."""
    return out / "runs" / f"{setting}.{seed}.{arm}.json".replace(" ", "-")


def runs_of(out: Path) -> list[Run]:
    """All runs that are there, whole."""
    return [json.loads(path.read_text()) for path in sorted((out / "runs").glob("[!.]*.json"))]


def recipe_of(bench: Workbench, run: Run, number: int) -> Recipe:
    """The recipe of a run's candidate."""
    (found,) = (one for one in run["candidates"] if one["number"] == number)
    return bench.recipe(found["table"])


def keep_counts(bench: Workbench, out: Path) -> None:
    """Write down how many items there are; refuse a folder that was begun with others."""
    counts = {"search": bench.search_count, "judge": bench.judge_count}
    path = out / "items.json"
    if path.is_file() and json.loads(path.read_text()) != counts:
        raise SystemExit(
            f"{out} was begun with {path.read_text()} items an objective: take another"
        )
    write_text(path, json.dumps(counts))


def bench_of(out: Path) -> Workbench:
    """The workbench of a folder of results; its engine is started by whoever asks something."""
    counts = json.loads((out / "items.json").read_text())
    return Workbench(counts["search"], counts["judge"])


def _path(out: Path, recipe: Recipe) -> Path:
    return out / "judge" / f"{recipe.hash()}.npz"


def judge(bench: Workbench, out: Path, recipe: Recipe) -> int:
    """Have a recipe answer the judge items unless it has; returns how often it was asked."""
    path = _path(out, recipe)
    if path.is_file():
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    asked = bench.ask(recipe, bench.judge_items)
    partial = path.with_suffix(f".{os.getpid()}.npz")
    reasoning, perception = (asked.scores[name].astype(np.uint8) for name in OBJECTIVES)
    np.savez_compressed(partial, reasoning=reasoning, perception=perception)
    os.replace(partial, path)
    return 1


def judged(out: Path, recipe: Recipe) -> list[NDArray[np.float64]] | None:
    """For each objective the marks of a recipe, 0 or 1; None if it has not been judged."""
    if not _path(out, recipe).is_file():
        return None
    with np.load(_path(out, recipe), allow_pickle=False) as file:
        return [file[name].astype(float) for name in OBJECTIVES]
