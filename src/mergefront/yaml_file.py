"""YAML files read into pydantic models: checked whole, with every problem named at once.

Files may be a stranger's: size, nesting, aliases and numbers are limited, and each fault is one
ConfigError that names the file and the line or field.

Not here: the models, which say what a file means: `config` (runs), `space.file`, `tasks.task_file`.

Reading order: `Strict`, `load_yaml`, `differences`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from mergefront.errors import ConfigError
from mergefront.redaction import without_secrets

M = TypeVar("M", bound=BaseModel)

LARGEST_FILE: Final = 1 << 18
"""Bytes of a YAML file; a space of 300 knobs written out has 50,000."""
_MOST_VALUES: Final = 100_000
_LONGEST_NUMBER: Final = 100
_MOST_PROBLEMS: Final = 20  # that a message names
_LONGEST_VALUE: Final = 200  # characters of a value in a message
_UNWRITABLE: Final = re.compile("[\0\ud800-\udfff]")


class Strict(BaseModel):
    """Base of everything read from a file: unknown fields are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `true` for a number, which pydantic would take for 1."""
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and not _takes_bool(field.annotation):
            raise ValueError("expected another value than true or false")
        return value


def _takes_bool(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_takes_bool, get_args(annotation)))


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
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: cannot be read: it is no ordinary file")
        with path.open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", hint="check the path") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if len(content) > LARGEST_FILE:
        raise ConfigError(f"{path}: it is larger than expected, at most {LARGEST_FILE:,} bytes")
    try:
        data = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is PyYAML's for \\U00110000
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: its values are nested too deeply") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of fields, found {type(data).__name__}")
    return data


def validate(data: Mapping[str, Any], model: type[M], where: str) -> M:
    """Check `data` against a pydantic model. Raises ConfigError listing every problem."""
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        errors = error.errors(include_url=False)
        problems = [_problem(e, model) for e in errors[:_MOST_PROBLEMS]]
        if len(errors) > _MOST_PROBLEMS:
            problems.append(f"and {len(errors) - _MOST_PROBLEMS:,} more")
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
    path = ".".join(_shortened(str(part)) for part in error["loc"]) or "file"
    if error["type"] == "extra_forbidden":
        known = ", ".join(sorted(model.model_fields)) if len(error["loc"]) == 1 else ""
        return f"{path}: unknown field" + (f" (known: {known})" if known else "")
    if error["type"] == "missing":
        return f"{path}: missing, expected a value"
    value = error.get("input")
    shown = "" if isinstance(value, dict | list) else f" (found {_shortened(repr(value))})"
    return f"{path}: {_shortened(error['msg'].removeprefix('Value error, '), 2000)}{shown}"


def _shortened(text: str, longest: int = _LONGEST_VALUE) -> str:
    """Return a text as messages show it: without secrets, in part if it is long."""
    shown = without_secrets(text)
    return shown if len(shown) <= longest else f"{shown[:longest]}... ({len(shown):,} characters)"


class _Loader(yaml.SafeLoader):
    """YAML 1.1 within limits; a key that is given twice, or is no plain value, is an error."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sizes: dict[int, int | None] = {}

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        if self._size(node) > _MOST_VALUES:
            raise _fault(node, f"its aliases stand for over {_MOST_VALUES:,} values, expected less")
        return self.construct_document(node)

    def _size(self, node: yaml.Node) -> int:
        """Return how many values a node holds, each alias counted as what it stands for."""
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) not in self._sizes:
            self._sizes[id(node)] = None
            children = [
                child
                for entry in node.value
                for child in (entry if isinstance(entry, tuple) else (entry,))
            ]
            self._sizes[id(node)] = 1 + sum(map(self._size, children))
        size = self._sizes[id(node)]
        if size is None:
            raise _fault(node, "an alias stands inside its own anchor")
        return size

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            raise _fault(node, f"{str(node.value)[:60]!r} is no {kind}") from error

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        text = super().construct_scalar(node)
        if isinstance(text, str) and _UNWRITABLE.search(text):
            raise _fault(node, "a text holds NUL or half a surrogate pair, expected characters")
        if node.tag.endswith((":int", ":float")) and len(text) > _LONGEST_NUMBER:
            raise _fault(node, f"a number has {len(text):,} digits, expected fewer")
        return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _fault(key_node, f"a key is a {type(key).__name__}, expected a text")
            if key in seen:
                raise _fault(key_node, f"key {str(key)[:100]!r} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _fault(node: yaml.Node, words: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, words, node.start_mark)


def dump_yaml(model: BaseModel) -> str:
    """The resolved configuration as YAML, every field written out."""
    return yaml.safe_dump(model.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
