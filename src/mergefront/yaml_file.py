"""YAML files read into pydantic models: checked whole, with every problem named at once.

Not here: the models, which say what a file means: `config` (runs), `space.file`, `tasks.task_file`.

Reading order: `Strict`, `load_yaml`, `differences`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from mergefront.errors import ConfigError
from mergefront.redaction import without_secrets

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


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Say which fields of two nested plain values differ: each by its path, both values beside it.

    Mappings are compared by their common fields, whatever the order, and lists of equal length by
    position. Where two mappings share no field, or lists have other lengths, the whole is named.
    """
    if before == after:
        return []
    pairs: dict[str, tuple[Any, Any]] = {}
    if isinstance(before, Mapping) and isinstance(after, Mapping) and before.keys() & after.keys():
        keys = sorted({*before, *after})
        pairs = {key: (before.get(key), after.get(key)) for key in keys}
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = {str(number): pair for number, pair in enumerate(zip(before, after, strict=True))}
    if not pairs:
        return [f"{path} was {before!r}, is {after!r}"]
    return [
        words
        for key, pair in pairs.items()
        for words in differences(*pair, f"{path}.{key}".lstrip("."))
    ]


def _problem(error: Any, model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in error["loc"]) or "file"
    if error["type"] == "extra_forbidden":
        known = ", ".join(sorted(model.model_fields)) if len(error["loc"]) == 1 else ""
        return f"{path}: unknown field" + (f" (known: {known})" if known else "")
    if error["type"] == "missing":
        return f"{path}: missing, expected a value"
    value = error.get("input")
    shown = "" if isinstance(value, dict | list) else f" (found {without_secrets(repr(value))})"
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
