"""A recipe: method, coefficients and overrides, everything needed to build one merged model.

A recipe is plain data: JSON on disk, hashed, readable and writable by hand. Not here: how its
numbers become weights (`merging.plan`) and how weights become tensors (`merging.build`).

The table maps source -> group -> coefficient. A group that a donor does not name has coefficient
0, one that the receiver does not name has 1. Groups are named as `anatomy.groups` names them
("3.mlp", "final.norm", "embedding"), or, in recipes written by hand, by a pattern:
- "*": every group but embedding and head, which belong to a vocabulary and must be named;
- "*.mlp": that part in every layer ("*.norm" includes the final norm);
- "3.*": every part of that layer.
An exact name beats a pattern, and "*.mlp" and "3.*" beat "*"; between those two, "3.*" wins.

An override replaces whole groups by a source's own tensors ("base", "receiver" or an alias) or
by zeros. Overrides are applied last, and a later one beats an earlier one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pydantic import Field

from mergefront.errors import ConfigError
from mergefront.json_file import parse_json
from mergefront.models.anatomy import GroupIndex
from mergefront.models.locate import ModelNames
from mergefront.records import CoefficientTable
from mergefront.yaml_file import Strict, validate

__all__ = [
    "FORMAT",
    "MethodName",
    "Override",
    "Recipe",
    "identity",
    "matching",
]

FORMAT: Final = "mergefront/recipe@1"
MethodName = Literal[
    "linear",
    "task_arithmetic",
    "layer_swap",
    "nearswap",
    "arcee_fusion",
    "slerp",
    "nuslerp",
    "multislerp",
    "karcher",
    "model_stock",
    "ram",
    "ram_plus",
    "sce",
    "frank",
    "low_rank",
    "tsv",
    "isotropic",
    "ties",
    "dare_linear",
    "dare_ties",
    "della_linear",
    "della",
    "breadcrumbs",
    "breadcrumbs_ties",
    "paper_dare_linear",
    "paper_dare_ties",
    "paper_ties",
    "paper_layer_swap",
]


class Override(Strict):
    """Replace `groups` (names or patterns) by the tensors of `source`, or by zeros."""

    groups: tuple[str, ...]
    source: str


class _Document(Strict):
    """The JSON file."""

    format: Literal["mergefront/recipe@1"]
    method: MethodName
    parameters: dict[str, Any] = Field(default_factory=dict)
    models: ModelNames
    table: dict[str, dict[str, float]] = Field(default_factory=dict)
    overrides: tuple[Override, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """Everything needed to build one model. `models` names its models.

    `parameters` are the method's, as the user wrote them: without defaults, so that a recipe's
    hash does not change when a default does.
    """

    method: str
    models: ModelNames
    table: CoefficientTable = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[Override, ...] = ()

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise ConfigError("recipe: " + "; ".join(problems))

    @property
    def donors(self) -> tuple[str, ...]:
        """The donors' aliases, in the order in which they are summed."""
        return tuple(self.models.donors)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document as plain values."""
        return {
            "format": FORMAT,
            "method": self.method,
            "parameters": dict(self.parameters),
            "models": self.models.model_dump(exclude_none=True),
            "table": {
                source: {
                    name: float(self.table[source][name]) + 0.0  # + 0.0 turns -0.0 into 0.0
                    for name in sorted(self.table[source], key=_natural)
                }
                for source in ("receiver", *self.donors)
                if source in self.table
            },
            "overrides": [override.model_dump(mode="json") for override in self.overrides],
        }

    def to_json(self) -> str:
        """Return the recipe file's text: stable, ending in a newline."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe file. Raises ConfigError as `from_json` does, or if it is no text."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            raise ConfigError(f"{path}: cannot be read: {problem}") from problem
        return cls.from_json(text, path)

    @classmethod
    def from_json(cls, text: str, path: Path | str = "recipe") -> Recipe:
        """Read a recipe file's text; `path` is for messages.

        Raises:
            ConfigError: naming the file and every faulty field.
        """
        try:
            content = parse_json(text)
            if "\\u0000" in json.dumps(content):
                raise ValueError("a text holds NUL, expected characters")
        except ValueError as problem:
            raise ConfigError(f"{path}: not valid JSON: {problem}") from problem
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: expected a JSON object")
        document = validate(content, _Document, str(path))
        try:
            return cls(
                method=document.method,
                models=document.models,
                table=document.table,
                parameters=document.parameters,
                overrides=document.overrides,
            )
        except ConfigError as problem:
            raise ConfigError(f"{path}: {problem.message}", hint=problem.hint) from problem

    def hash(self) -> str:
        """Return 12 hex digits of the SHA-256 of the canonical JSON: the recipe's identity.

        Neither the order of rows nor of groups matters; that of the donors does, because it is the
        order of summation.
        """
        document = self.to_dict() | {"donor_order": list(self.donors)}
        canonical = json.dumps(
            document, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True
        )
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def resolved(self, index: GroupIndex) -> dict[str, dict[str, float]]:
        """Return the table with every pattern expanded: source -> group name -> coefficient.

        Raises:
            ConfigError: a name or pattern matches no group of the receiver.
        """
        return {source: _resolved_row(source, row, index) for source, row in self.table.items()}

    def overridden(self, index: GroupIndex) -> dict[str, str]:
        """Return group name -> source for every overridden group.

        Raises:
            ConfigError: a name or pattern matches no group of the receiver.
        """
        sources: dict[str, str] = {}
        for override in self.overrides:
            for pattern in override.groups:
                names = _matched("overrides", pattern, index)
                sources.update(dict.fromkeys(names, override.source))
        return sources


def identity(models: ModelNames) -> Recipe:
    """Return the recipe of the receiver itself."""
    return Recipe(method="linear", models=models)


def matching(pattern: str, index: GroupIndex) -> list[str]:
    """Return the names of the groups that a name or pattern of a recipe stands for."""
    if pattern == "*":
        return [group.name for group in index.groups if group.part not in ("embedding", "head")]
    if pattern.startswith("*."):
        return index.by_part.get(pattern[2:], [])
    if pattern.endswith(".*"):
        return index.by_layer.get(pattern[:-2], [])
    return [pattern] if pattern in index.names else []


def _matched(field_name: str, pattern: str, index: GroupIndex) -> list[str]:
    names = matching(pattern, index)
    if names:
        return names
    layers = max((group.layer for group in index.groups if group.layer is not None), default=-1) + 1
    head = "" if index.by_part.get("head") else " (its head is tied)"
    raise ConfigError(
        f"recipe: {field_name}: {pattern!r} matches no group of the receiver, which has "
        f"{layers} layers, numbered from 0{head}"
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorting key that puts layer 10 after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _precedence(pattern: str) -> int:
    """Return a pattern's precedence: a higher one beats a lower one."""
    if pattern == "*":
        return 0
    return 1 if pattern.startswith("*.") else 2 if pattern.endswith(".*") else 3


def _resolved_row(source: str, row: Mapping[str, float], index: GroupIndex) -> dict[str, float]:
    coefficients: dict[str, float] = {}
    for pattern in sorted(row, key=_precedence):
        names = _matched(f"table.{source}", pattern, index)
        coefficients.update(dict.fromkeys(names, float(row[pattern])))
    return {
        group.name: coefficients[group.name] for group in index.groups if group.name in coefficients
    }


def _problems(recipe: Recipe) -> list[str]:
    """Return everything wrong with a recipe that can be seen without opening its models."""
    problems = []
    if recipe.method not in get_args(MethodName):
        legal = ", ".join(get_args(MethodName))
        problems.append(f"method: found {recipe.method!r}, expected one of {legal}")
    rows = ("receiver", *recipe.donors)
    for source, row in recipe.table.items():
        if source not in rows:
            problems.append(f"table: found source {source!r}, expected one of {', '.join(rows)}")
        problems += [
            f"table.{source}.{name}: found {value}, expected a finite number"
            for name, value in row.items()
            if not math.isfinite(value)
        ]
    replacements = (*rows, "base", "zero")
    problems += [
        f"overrides: found source {override.source!r}, expected one of {', '.join(replacements)}"
        for override in recipe.overrides
        if override.source not in replacements
    ]
    return problems
