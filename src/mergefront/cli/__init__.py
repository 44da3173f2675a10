"""The command line: verbs, rendering, exit codes. The only package that prints.

stdout is data, stderr is progress and messages. Exit codes: 0 done, 1 a bug of mergefront, 2 the
user can mend it, 3 the engine failed. Each verb imports what it needs when it runs, so that --help
answers at once. Not here: anything that computes (`jobs`, `search`, `runs`).

Reading order, by the panels of --help: `search`, `evaluation`, `tasks`, `models`; `options`,
`terminal` and `display` are shared.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Annotated

import typer

from mergefront.cli import evaluation, models, search, tasks
from mergefront.cli.terminal import complain
from mergefront.errors import MergefrontError
from mergefront.redaction import RedactingFormatter, without_secrets

# Set before a verb imports torch: its C++ code would log warnings to stderr at every start.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

app = typer.Typer(
    name="mergefront",
    help="Search how much of which LLM to merge into a vision-language model, layer by layer.\n\n"
    "The built-in example takes some minutes on two CPU cores: mergefront search digits\n\n"
    "For your own models: mergefront init RECEIVER DONOR, then mergefront plan run.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


_OS_HINT = "check that the path exists and may be written to, and that its disk is not full"


def _version(value: bool) -> None:
    if value:
        typer.echo(f"mergefront {metadata.version('mergefront')}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print the log to stderr.")
    ] = False,
) -> None:
    handler = logging.StreamHandler()
    handler.setLevel(logging.DEBUG if verbose else logging.WARNING)
    handler.setFormatter(RedactingFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("mergefront").setLevel(logging.INFO)  # a run's log.txt gets all of it


_PANELS: Mapping[str, Sequence[Callable[..., None]]] = {
    "Search": (search.init, search.plan, search.search, search.status),
    "Results": (search.front, search.export, search.compare, search.rebuild),
    "Evaluate": (evaluation.score,),
    "Models": (models.inspect, models.activations, models.merge, models.methods),
    "Installation": (models.doctor, models.zoo, models.schema),
}
for panel, verbs in _PANELS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)
app.add_typer(tasks.verbs, name="tasks", rich_help_panel="Evaluate")


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
        sys.stderr.write(without_secrets(traceback.format_exc()))
        complain(
            f"this is a bug of mergefront: {type(error).__name__}: {error}",
            "please report it with the lines above",
        )
        sys.exit(1)
