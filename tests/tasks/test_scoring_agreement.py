"""Our verdicts on released answers of real systems, against the official ones.

The answers are no part of the project. They are read from the folder that MERGEFRONT_SCORING_DATA
names, else from `shared/data/scoring` beside the checkout; where there is none, the test says so.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path(
    os.environ.get("MERGEFRONT_SCORING_DATA") or ROOT.parent / "shared" / "data" / "scoring"
)
GOALS = {"mathvista": (5000, 0.985), "mathvision": (6080, 0.97)}


@pytest.fixture(scope="module")
def agreement() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "scoring_agreement", ROOT / "benchmarks" / "scoring_agreement.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", GOALS)
def test_agreement_with_official_verdicts(agreement: ModuleType, name: str) -> None:
    if not (FOLDER / f"{name}.jsonl.gz").exists():
        pytest.skip(f"no released answers here ({name}.jsonl.gz); set MERGEFRONT_SCORING_DATA")
    rows = agreement.rows_of(FOLDER, name)
    count, goal = GOALS[name]
    assert len(rows) == count
    free = [row for row in rows if not row.is_choice]
    assert sum(row.agrees for row in free) / len(free) >= goal
    faults = Counter(agreement.fault(row) for row in rows if row.is_choice and not row.agrees)
    assert faults[agreement.UNKNOWN] == 0, faults
    assert set(faults) > {agreement.FORCED} or set(faults) > {agreement.FORM}


def test_faults_are_told_apart(agreement: ModuleType) -> None:
    """The classes on made-up rows: ours is right or wrong in each, and the official otherwise."""
    cases = [
        ("I cannot say.", "N/A", True, agreement.FORCED),
        ("The picture is bright.", "B", True, agreement.INFERRED),
        ("The answer is (B) blue.", "N/A", False, agreement.UNREAD),
        ("The answer is (B) blue.", "A", False, agreement.MISREAD),
        ("The answer is (A). No, the answer is (B).", "A", False, agreement.BOTH),
        ("The answer is (B) blue.", "B", False, agreement.UNKNOWN),
    ]
    for reply, extraction, official, why in cases:
        data: dict[str, Any] = {
            "pid": "1",
            "answer": "blue",
            "choices": ["red", "blue"],
            "response": reply,
        }
        data |= {"extraction": extraction, "official_correct": official}
        item = agreement.item_of(data)
        ours = agreement.score_all([item], [agreement.Answer(reply, 1, True)])[0]
        row = agreement.Row(data, item, ours)
        assert (row.agrees, agreement.fault(row)) == (False, why), reply
