"""What helps to write a first YAML file: a commented configuration, and JSON Schemas for editors.

`starter_config` fills `starter.yaml.jinja` for `mergefront init`, `json_schema` is what
`mergefront schema` prints. Not here: the fields themselves (`config`, `space.file`, `tasks`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel

from mergefront.config import RESERVED_NAMES, RunConfig
from mergefront.errors import UserError
from mergefront.runs.report.templates import open_template
from mergefront.space.file import SpaceSpec
from mergefront.tasks import Task
from mergefront.yaml_file import validate

_TEMPLATE = Path(__file__).with_name("starter.yaml.jinja")


def starter_config(receiver: str, donors: Sequence[str], base: str | None, *, name: str) -> str:
    """Return the YAML text of a valid run configuration, with comments.

    Raises:
        UserError: two donors have the same alias.
        ConfigError: a model's name makes no valid configuration.
    """
    aliases: dict[str, str] = {}
    for donor in donors:
        alias = _alias(donor)
        if alias in aliases:
            raise UserError(
                f"donors {aliases[alias]} and {donor} have the same alias {alias!r}",
                hint="write the configuration for one of them, then add the other to the file",
            )
        aliases[alias] = donor
    run = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-") or "run"
    text = open_template(_TEMPLATE).render(
        run=run,
        receiver=receiver,
        base=base,
        donors=aliases,
        zoo=receiver.startswith("zoo:"),
        scalar=_scalar,
    )
    validate(yaml.safe_load(text), RunConfig, "mergefront init")
    return f"{text}\n"


def _alias(donor: str) -> str:
    """Shorten a donor's name to the last part of its path or id, as an identifier."""
    last = donor.rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    alias = re.sub(r"\W+", "_", last).strip("_").lower()
    if alias in RESERVED_NAMES:
        return f"{alias}_donor"
    return alias if alias.isidentifier() else f"donor_{alias}"


def _scalar(text: str) -> str:
    """Write a string as YAML: plain if YAML reads it back as that string, else quoted."""
    try:
        if yaml.safe_load(f"{{key: {text}}}") == {"key": text}:
            return text
    except yaml.YAMLError:
        pass  # such as a name with ": " in it
    quoted: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**6)
    return quoted.strip()


FileKind = Literal["run", "space", "task"]


def json_schema(kind: FileKind) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a run, space or task file."""
    models: dict[FileKind, type[BaseModel]] = {"run": RunConfig, "space": SpaceSpec, "task": Task}
    schema = models[kind].model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"mergefront {kind} file",
        **{key: value for key, value in schema.items() if key != "title"},
    }
