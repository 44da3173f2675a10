"""The two streams of the terminal, and the pieces of output that the verbs share.

Data goes to stdout (`out`, `emit_json`), everything else to stderr (`err`, `say`, `complain`), so
that a pipe receives data alone. How numbers are written is not here (`stats.text`).
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import progress as bars
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mergefront.records import without_nan
from mergefront.redaction import RedactingFormatter, without_secrets

out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False)


def complain(message: str, hint: str = "") -> None:
    """Print `error:` and, if there is a hint, `hint:` on stderr."""
    err.print(Text.assemble(("error: ", "bold red"), without_secrets(message)), soft_wrap=True)
    if hint:
        err.print(Text.assemble(("hint: ", "bold cyan"), without_secrets(hint)), soft_wrap=True)


def say(message: str) -> None:
    """Print one line of progress on stderr."""
    err.print(message, soft_wrap=True, markup=False)


def log_handler(path: Path) -> logging.Handler:
    """Return a handler that appends what is logged, with times, to a run's log.txt."""
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


def emit_json(data: Any) -> None:
    """Print JSON on stdout."""
    json.dump(without_nan(data), sys.stdout, indent=1, allow_nan=False)
    sys.stdout.write("\n")


@contextmanager
def tensor_bar() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on stderr while a checkpoint is written.

    Yields a function that takes the bytes written so far and the bytes of the whole checkpoint.
    """
    columns = (
        *("{task.description}", bars.BarColumn(), bars.DownloadColumn()),
        *(bars.TransferSpeedColumn(), bars.TimeRemainingColumn()),
    )
    with bars.Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("writing", total=None)
        yield lambda written, total: progress.update(bar, completed=written, total=total)


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[str] = ()
) -> Table:
    """Return a plain table; the first column and those named in `text` are aligned to the left."""
    plain = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        at_left = index == 0 or column in text
        plain.add_column(column, justify="left" if at_left else "right", overflow="fold")
    for row in rows:
        plain.add_row(*row)
    return plain
