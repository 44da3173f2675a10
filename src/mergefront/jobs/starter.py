"""What helps to write a first YAML file: a commented configuration, and JSON Schemas for editors.

`starter_config` is the text that `mergefront init` writes, `json_schema` what `mergefront schema`
prints. Not here: the fields themselves (`config`, `space.file`, `tasks`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import yaml
from pydantic import BaseModel

from mergefront.config import RESERVED_NAMES, RunConfig
from mergefront.errors import UserError
from mergefront.space.file import SpaceSpec
from mergefront.tasks import Task
from mergefront.yaml_file import validate

_TEMPLATE = """\
# yaml-language-server: $schema=./run.schema.json
# (write that schema with: mergefront schema run > run.schema.json)
format: mergefront/run@1
name: {name}                       # the directory under runs/

receiver: {receiver}               # the VLM: a folder, a hub id, or zoo:NAME
# revision: <commit>               # pin a hub model, so that a resume finds the same weights
base: {base}                       # the common ancestor that the donors were fine-tuned from
donors:                            # alias: {{model, revision, base}}; each may name its own base
{donors}

{space}

objectives:                        # the search improves the first and keeps the others
  reasoning: [{reasoning}]         # task names, or paths of task files
  perception: [{perception}]
{first}items: {items}  # per objective; s.e. ~ 0.5/sqrt(n)

search: {{sampler: auto, seed: 0, warm_start: [receiver, uniform]}}
budget: {{candidates: 200, hours: 8}}                   # hours include validation, test and export
engine: {{kind: vllm, dtype: auto}}
export: knee                       # what is exported to runs/{folder}/best: knee, best:reasoning...
"""
_ZOO_SPACE = """\
# knots_by_part suits a night; uniform (one coefficient a donor) is the baseline to beat. Their
# bounds suit the zoo: larger models can collapse at 0.1 to 0.2, use real_pairs for them.
space: knots_by_part"""
_REAL_SPACE = """\
# real_pairs suits a night: its knobs go from 0 to 0.3 and start at 0.1, since real pairs can
# collapse at 0.1 to 0.2. knots_by_part has the same knobs with the zoo's bounds (0 to 1.5).
space: real_pairs"""
_ZOO_ITEMS = "{search: 400, validation: 1000, test: 2000}"
_REASONING = ("mathvista_math", "mathverse_vision_only", "mmstar_reasoning", "mathvision")
_PERCEPTION = ("mmstar_perception", "blink", "cv_bench", "textvqa")
_REAL_ITEMS = "{search: 400, validation: 600, test: 700}"
_TASKS_FIRST = """\
  # `mergefront tasks list` has more; your own questions: docs/bring-your-own-questions.md
"""


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
    zoo = _is_zoo(receiver)
    reasoning = ("digits_reasoning",) if zoo else _REASONING
    perception = ("digits_perception",) if zoo else _PERCEPTION
    run = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-") or "run"
    text = _TEMPLATE.format(
        name=_scalar(run),
        folder=run,
        receiver=_scalar(receiver),
        base=_scalar(base) if base is not None else "null",
        donors="\n".join(f"  {_scalar(a)}: {{model: {_scalar(m)}}}" for a, m in aliases.items()),
        space=_ZOO_SPACE if zoo else _REAL_SPACE,
        reasoning=", ".join(reasoning),
        perception=", ".join(perception),
        first="" if zoo else _TASKS_FIRST,
        items=_ZOO_ITEMS if zoo else _REAL_ITEMS,
    )
    validate(yaml.safe_load(text), RunConfig, "mergefront init")
    return text


def starter_notes(receiver: str, file: str) -> str:
    """Say what to do before the written configuration runs; empty if there is nothing to do."""
    if _is_zoo(receiver):
        return ""
    return f"what it would download and need: mergefront plan {file}"


def _is_zoo(receiver: str) -> bool:
    return receiver.startswith("zoo:")


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
