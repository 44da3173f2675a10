"""How well a method agrees with its oracle: asserted, and kept for the table of `make methods`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mergefront.merging.methods import METHODS

MARKS = ("<!-- oracles: begin -->", "<!-- oracles: end -->")


@dataclass
class Agreement:
    """All comparisons of one method with one oracle."""

    cases: int = 0
    entries: int = 0
    largest: float = 0.0


FOUND: dict[tuple[str, str], Agreement] = {}


def agree(method: str, oracle: str, found: Any, wanted: Any, *, rtol: float, atol: float) -> None:
    """Assert that |found - wanted| <= atol + rtol |wanted| everywhere, and remember by how much."""
    mine, theirs = (np.asarray(one, dtype=np.float64) for one in (found, wanted))
    remember(method, oracle, mine, theirs)
    np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=atol)


def remember(method: str, oracle: str, found: Any, wanted: Any) -> None:
    """Keep a comparison whose assertion is made elsewhere."""
    mine, theirs = (np.asarray(one, dtype=np.float64) for one in (found, wanted))
    kept = FOUND.setdefault((method, oracle), Agreement())
    kept.cases += 1
    kept.entries += mine.size
    kept.largest = max(kept.largest, float(np.abs(mine - theirs).max(initial=0.0)))


def table() -> str:
    """The oracle matrix in Markdown; methods that no oracle was heard on are said so."""
    lines = [
        "| method | oracle | cases | entries | largest difference |",
        "|---|---|---:|---:|---:|",
    ]
    for method in METHODS:
        rows = [(oracle, one) for (name, oracle), one in FOUND.items() if name == method]
        lines += [
            f"| `{method}` | {oracle} | {one.cases} | {one.entries:,} | {one.largest:.1e} |"
            for oracle, one in rows
        ] or [f"| `{method}` | none in this run | | | |"]
    return "\n".join(lines)


def update(page: Path) -> None:
    """Put the table between the page's marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    page.write_text(f"{before}{MARKS[0]}\n{table()}\n{MARKS[1]}{after}", encoding="utf-8")
