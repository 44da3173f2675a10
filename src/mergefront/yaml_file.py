"""YAML files read into pydantic models: checked whole, with every problem named at once.

What the files mean is where their models are: `config` (runs), `space_file`, `tasks.spec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from mergefront.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """Base of everything read from a file: unknown fields are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def load_yaml(path: Path, model: type[M]) -> M:
    """Read a YAML file into a pydantic model.

    Raises:
        ConfigError: the file is missing, is no YAML mapping, or has faulty fields; every faulty
            field is named in the one message.
    """
    return validate(read_mapping(path), model, str(path))


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", hint="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of fields, found {type(data).__name__}")
    return data


def validate(data: Mapping[str, Any], model: type[M], where: str) -> M:
    """Check `data` against a pydantic model. Raises ConfigError listing every problem."""
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        problems = [_problem(e, model) for e in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(problems)) from None


def _problem(error: Any, model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in error["loc"]) or "file"
    if error["type"] == "extra_forbidden":
        known = ", ".join(sorted(model.model_fields)) if len(error["loc"]) == 1 else ""
        return f"{path}: unknown field" + (f" (known: {known})" if known else "")
    if error["type"] == "missing":
        return f"{path}: missing, expected a value"
    found = error.get("input")
    shown = "" if isinstance(found, dict | list) else f" (found {found!r})"
    return f"{path}: {error['msg'].removeprefix('Value error, ')}{shown}"


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML 1.1 keeps the last of two equal keys silently; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def dump_yaml(model: BaseModel) -> str:
    """The resolved configuration as YAML, every field written out."""
    return yaml.safe_dump(model.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
