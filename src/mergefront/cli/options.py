"""Arguments and options that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mergefront.records import Dtype

ConfigName = Annotated[
    str, typer.Argument(help="A run configuration (.yaml), or the name of a shipped one.")
]
Receiver = Annotated[
    str, typer.Argument(help="The vision-language model: a folder, a hub id, or zoo:NAME.")
]
Base = Annotated[
    str | None,
    typer.Option(
        help="The model that the donors were fine-tuned from: a folder, hub id, zoo:NAME."
    ),
]
RunName = Annotated[str, typer.Argument(help="A run: its name, or the path of its directory.")]
Runs = Annotated[Path, typer.Option("--runs", help="Directory that holds the runs.")]
WrittenDtype = Annotated[
    Dtype,
    typer.Option(
        help="Floating type of the weights written; auto: that of each tensor in the receiver."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]
