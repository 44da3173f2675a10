"""The command line: verbs, rendering, exit codes. The only package that prints.

stdout is data, stderr is progress and messages. Exit codes: 0 done, 1 our bug, 2 something the
user can mend, 3 the engine failed. Heavy libraries are imported inside the verbs, so that --help
answers at once. Reading order: `launch` (init, search, status), `planning` (plan), `results`
(front, export, compare, rebuild), `evaluation` (score), `tasks` and `checks` (tasks list, show,
fetch; check, power), `models` (inspect, merge), `machine` (doctor, zoo, schema), `display`.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import Annotated

import typer

import mergefront
from mergefront.cli import evaluation, launch, machine, models, planning, results, tasks
from mergefront.cli.terminal import complain
from mergefront.errors import MergefrontError

# Before torch is imported by any verb: its C++ side would greet every engine on stderr.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

app = typer.Typer(
    name="mergefront",
    help="Search how much of which LLM to merge into a vision-language model, layer by layer.\n\n"
    "Start with: mergefront search digits (the built-in example, some minutes on two CPU cores). "
    "For your own models: mergefront init RECEIVER DONOR.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


_OS_HINT = "check that the path exists, may be written to, and that its disk is not full"


def _version(value: bool) -> None:
    if value:
        typer.echo(f"mergefront {mergefront.__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more to stderr.")] = False,
) -> None:
    handler = logging.StreamHandler()
    handler.setLevel(logging.DEBUG if verbose else logging.WARNING)
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", handlers=[handler]
    )
    logging.getLogger("mergefront").setLevel(logging.INFO)  # a run's log.txt gets all of it


for module in (launch, planning, results, evaluation, tasks, models, machine):
    module.register(app)


def main() -> None:
    """Entry point of the `mergefront` command."""
    try:
        app()
    except MergefrontError as error:
        complain(error.message, error.hint)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        complain(f"{error.filename or 'a file'}: {error.strerror or error}", _OS_HINT)
        sys.exit(2)
    except Exception as error:
        traceback.print_exc()
        complain(
            f"this is a bug of mergefront: {type(error).__name__}: {error}",
            "please report it with the lines above",
        )
        sys.exit(1)
