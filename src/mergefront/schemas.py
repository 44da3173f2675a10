"""JSON Schemas of the YAML files, from the models that check them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from mergefront.config import RunConfig
from mergefront.space import SpaceSpec
from mergefront.tasks import Task

FileKind = Literal["run", "space", "task"]


def json_schema(kind: FileKind) -> dict[str, Any]:
    """JSON Schema (2020-12) of a run, space or task file."""
    models: dict[FileKind, type[BaseModel]] = {"run": RunConfig, "space": SpaceSpec, "task": Task}
    schema = models[kind].model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"mergefront {kind} file",
        **{key: value for key, value in schema.items() if key != "title"},
    }
