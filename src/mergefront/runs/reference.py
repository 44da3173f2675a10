"""References to runs and their candidates: `RUN`, `RUN:PICK`, and the candidate that a pick names.

Not here: how picks are chosen (`members`), how a candidate's recipe is opened (`reopen`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mergefront.errors import RunError, UserError
from mergefront.runs.directory import RunDirectory

if TYPE_CHECKING:
    from mergefront.runs.front import Front, Member

KNEE: Final = "knee"
GUARDED: Final = "guarded"
BEST: Final = "best:"
WEIGHTED: Final = "weighted:"


def split_reference(text: str) -> tuple[str, str]:
    """Return run and pick (or number) of RUN:PICK; RUN alone is RUN:knee."""
    run, _, pick = text.partition(":")
    return run, pick or KNEE


def find_run(runs: Path, name: str) -> Path | None:
    """Return the directory of a run that is named by its path or its name under `runs`."""
    for path in (Path(name), runs / name):
        if name and (path / "config.yaml").is_file():
            return path
    return None


def open_run(runs: Path, name: str) -> RunDirectory:
    """Open a run that is named by its path or its name under `runs`.

    Raises:
        RunError: there is no such run.
    """
    return RunDirectory.open(find_run(runs, name) or runs / name)


def resolve_pick(front: Front, pick: str, where: Path) -> int:
    """Return the number of the candidate that a pick names.

    A pick is knee, guarded, best:OBJECTIVE, weighted:OBJECTIVE=WEIGHT,..., or a number. Weights
    are of what the search believes of the members.

    Raises:
        RunError: there is no such pick.
        UserError: a weight is faulty.
    """
    if pick.startswith(WEIGHTED):
        weights = _weights(pick, front.objectives)

        def weighted_sum(member: Member) -> float:
            return sum(weight * member.believed[name].mean for name, weight in weights.items())

        return max(front.members, key=weighted_sum).number
    for member in front.members:
        if pick in member.picks:
            return member.number
    if pick.isdigit() and int(pick) < front.candidates:
        return int(pick)
    example = WEIGHTED + ",".join(f"{name}=1" for name in front.objectives)
    legal = [KNEE, GUARDED, *(BEST + name for name in front.objectives), example]
    raise RunError(
        f"{where}: there is no pick {pick!r}",
        hint=f"use {', '.join(legal)} or a candidate's number below {front.candidates}",
    )


def _weights(pick: str, objectives: Sequence[str]) -> dict[str, float]:
    """The weights of a pick like weighted:reasoning=2,perception=1; the other objectives weigh 0.

    Raises:
        UserError: it names another objective, or a weight is no number above 0.
    """
    weights: dict[str, float] = {}
    for entry in pick.removeprefix(WEIGHTED).split(","):
        name, _, number = entry.partition("=")
        try:
            weights[name] = float(number)
        except ValueError:
            weights[name] = math.nan
        if name not in objectives or not 0.0 < weights[name] < math.inf:
            raise UserError(
                f"{pick!r}: {entry!r} is no weight of an objective",
                hint=f"write for example {WEIGHTED}{objectives[0]}=2,{objectives[-1]}=1",
            )
    return weights
