"""Small pieces of terminal output that the verbs share."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from mergefront.records import Dtype, Estimate

if TYPE_CHECKING:
    from mergefront.runs.gains import AnswerSummary, Gain

WrittenDtype = Annotated[
    Dtype,
    typer.Option(
        help="Floating type of the weights written; auto: that of each tensor in the receiver."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]

out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False)


def complain(message: str, hint: str = "") -> None:
    """`error:` then `hint:` on stderr."""
    err.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    if hint:
        err.print(Text.assemble(("hint: ", "bold cyan"), hint), soft_wrap=True)


def say(message: str) -> None:
    """One line of progress on stderr."""
    err.print(message, soft_wrap=True, markup=False)


def log_handler(path: Path) -> logging.Handler:
    """Everything that mergefront logs, with times, appended to a run's log.txt."""
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


def emit_json(data: Any) -> None:
    """JSON on stdout."""
    json.dump(_finite(data), sys.stdout, indent=1, allow_nan=False)
    sys.stdout.write("\n")


def _finite(data: Any) -> Any:
    """NaN and infinity as null: JSON has neither."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(one) for one in data] if isinstance(data, list | tuple) else data


@contextmanager
def tensor_bar() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr for writing a checkpoint; yields (bytes done, all) -> None."""
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), DownloadColumn()),
        *(TransferSpeedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("writing", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[str] = ()
) -> Table:
    """A plain table; every column but the first and those named in `text` is right-aligned."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        left = index == 0 or column in text
        made.add_column(column, justify="left" if left else "right", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def percent(estimate: Estimate | None) -> str:
    """`62.5 ±1.2`: a mean in percent with its standard error; a cost's with `(96.04 tokens)`."""
    if estimate is None:
        return "-"
    tokens = "" if estimate.tokens is None else f" ({estimate.tokens:.2f} tokens)"
    return f"{100 * estimate.mean:.1f} ±{100 * estimate.se:.1f}{tokens}"


def points(mean: float, low: float, high: float) -> str:
    """`+3.1 [+1.0, +5.2]`: a difference in points with its 95 % interval."""
    return f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def gain_points(gain: Gain) -> str:
    """A gain in points with its 95 % interval; a cost's also in tokens."""
    tokens = "" if gain.tokens is None else f" ({gain.tokens:+.2f} tokens)"
    return points(gain.mean, gain.low, gain.high) + tokens


def probability(p: float | None) -> str:
    """`0.013`: a p-value."""
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def rates(answers: AnswerSummary) -> str:
    """`0.5 %, 1.2 %, 6.3`: shares without a readable answer and cut off, tokens an answer."""
    return f"{100 * answers.no_answer:.1f} %, {100 * answers.truncated:.1f} %, {answers.tokens:.1f}"
