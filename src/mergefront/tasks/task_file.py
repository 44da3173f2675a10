"""The schema of a task file, and the library of shipped ones.

A user adds a benchmark by writing such a file; there is no Python in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args

from pydantic import Field, field_validator, model_validator

from mergefront.config import Count
from mergefront.errors import ConfigError
from mergefront.records import RuleName
from mergefront.yaml_file import Strict, load_yaml

LIBRARY = Path(__file__).parent / "library"

T = TypeVar("T")

Cell = str | int | float | bool
Columns = str | Annotated[tuple[str, ...], Field(min_length=1)]
"""One column, or several whose values together count as one."""

CONFIG, SPLIT, KIND = "_config", "_split", "_kind"
"""Columns that every row has besides its own: the dataset's configuration and split that it comes
from, and its kind: `choice` if it has options, `open` if it has none."""

PLACEHOLDER = re.compile(r"\{(question|choices|letters|hint)\}")


class Data(Strict):
    """Where the rows come from: exactly one of zoo, path and hub."""

    zoo: Literal["digits_perception", "digits_reasoning"] | None = Field(
        None, description="Questions shipped with mergefront."
    )
    path: str | None = Field(
        None,
        description="A .jsonl, .json, .csv or .parquet file, or the folder of a dataset (images "
        "with a metadata file, save_to_disk, a copy of a hub repository), relative to the task "
        "file.",
    )
    hub: str | None = Field(None, description="A dataset of the Hugging Face hub.")
    revision: str | None = Field(None, description="Commit of the hub dataset to pin.")
    config: str | None = Field(None, description="Configuration of the dataset.")
    configs: tuple[str, ...] = Field((), description="Several configurations, one after another.")
    split: str | None = Field(None, description="Split of the dataset.")
    splits: tuple[str, ...] = Field((), description="Several splits, one after another.")
    file: str | None = Field(
        None, description="Table of a hub repository that is no dataset by itself (data.jsonl)."
    )
    archive: str | None = Field(
        None, description="Zip file in which image paths lie: of the repository, or beside `path`."
    )
    image_root: str | None = Field(
        None,
        description="Folder in which image paths lie if it is not the data's own, relative to the "
        "task file. Paths that lead out of it are refused.",
    )
    streaming: bool = Field(False, description="Read row by row instead of downloading it whole.")

    @model_validator(mode="after")
    def _has_one_origin(self) -> Data:
        origins = [name for name in ("zoo", "path", "hub") if getattr(self, name) is not None]
        if len(origins) != 1:
            found = ", ".join(origins) or "none"
            raise ValueError(f"expected exactly one of zoo, path and hub, found {found}")
        if self.hub is not None and self.file is None and not (self.split or self.splits):
            raise ValueError("a hub dataset needs split or splits, found neither")
        if (self.config and self.configs) or (self.split and self.splits):
            raise ValueError("expected config or configs, and split or splits, found both")
        if self.file is not None and self.hub is None:
            raise ValueError("file names a table of a hub repository: it needs hub, found none")
        return self

    @property
    def all_configs(self) -> tuple[str | None, ...]:
        return self.configs or (self.config,)

    @property
    def all_splits(self) -> tuple[str | None, ...]:
        return self.splits or (self.split,)


class NumberBlocks(Strict):
    """Clusters by number: rows with equal (value - first) // size, for the value in `column`."""

    column: str
    size: Count
    first: int = Field(1, description="Number of the first row.")


class Fields(Strict):
    """Which column holds what. `a.b` is the field b of a column a that holds a mapping."""

    id: Columns | None = Field(
        None, description="Unique name of a row; default: its content's hash."
    )
    question: str = "question"
    images: tuple[str, ...] = Field(("image",), description="Columns with images, in order.")
    answer: str = Field("answer", description="The gold, or a list of golds.")
    choices: Columns | None = Field(
        None,
        description='Column with the options: a list, a JSON or Python list, text such as "a | b" '
        'or "(a) red (b) blue"; or several columns with an option each; or the question\'s own '
        "column, if its text lists them.",
    )
    cluster: Columns | NumberBlocks | None = Field(
        None,
        description="Rows with equal values are not independent; default: the row's images "
        "together, or without images the row itself.",
    )
    stratum: Columns | None = Field(
        None, description="Kind of question; splits keep the shares of each."
    )
    split: str | None = Field(
        None, description="Column that assigns rows to search, validation or test."
    )
    digits: str | None = Field(
        None, description="Column with the decimals that a float is rounded to."
    )


class ByRow(Strict, Generic[T]):
    """A choice that depends on the row: the value of a column -> what holds."""

    column: str
    cases: dict[str, T] = Field(min_length=1)


class RuleSpec(Strict):
    """A scoring rule with its parameters."""

    name: RuleName
    digits: int | None = Field(None, ge=0, description="Decimals that are compared.")
    absolute: float = Field(0.0, ge=0, description="Absolute tolerance.")
    relative: float = Field(0.0, ge=0, description="Relative tolerance.")


class Task(Strict):
    """One benchmark, or a slice of one."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    objective: Literal["reasoning", "perception"] | None = Field(
        None, description="What it is made for; the run's configuration decides."
    )
    data: Data
    fields: Fields = Field(default_factory=Fields)
    where: dict[str, tuple[Cell, ...]] = Field(
        default_factory=dict, description="Column -> values kept."
    )
    exclude: dict[str, tuple[Cell, ...]] = Field(
        default_factory=dict, description="Column -> values dropped, such as known faults."
    )
    prompt: str = Field(
        "{question}",
        description="{question}, {choices} (the lettered options), {letters} (A, B or C) and "
        "{hint} are filled in.",
    )
    hint: str | ByRow[str] = Field("", description="What {hint} becomes, for all rows or by kind.")
    markers: Literal["keep", "strip", "name"] = Field(
        "keep",
        description="Marks such as <image 1> in the question and the options: kept, dropped, or "
        'turned into words ("image 1").',
    )
    rule: RuleName | RuleSpec | ByRow[RuleName | RuleSpec] = Field(
        description="How an answer is marked."
    )
    golds: Literal["value", "index", "literal", "boxed"] = Field(
        "value",
        description="What the answer column holds: the gold; the number of the right option, from "
        "0; a gold or a Python list of golds; or a solution with the gold in its last \\boxed.",
    )
    mode: Literal["generate", "labels"] = Field(
        "generate",
        description="Answers are generated, or (choice and yes_no only) the label with the "
        "highest probability counts.",
    )
    unit: Literal["item", "cluster"] = Field(
        "item", description="cluster: a cluster scores as its worst item."
    )
    faulty: Literal["error", "drop"] = Field(
        "error",
        description="Rows without a usable gold or options stop the run, or are dropped, warned of "
        "and named in the item set's card (at most 5 % of the rows).",
    )
    max_tokens: Count = Field(64, description="Longest answer.")
    max_pixels: Count | None = Field(
        None, description="Larger images are scaled down to this many pixels."
    )
    salt: str = Field("v1", description="Changes the order and the split of the items.")
    rows: Count | None = Field(
        None, description="Items the whole dataset gives; another number is warned of."
    )
    licence: str | None = None
    source: str | None = Field(None, description="Where the benchmark and its rules come from.")
    prompt_source: str | None = Field(None, description="Where its official prompt stands.")
    scoring_source: str | None = Field(None, description="Where its official scoring stands.")
    notes: str | None = Field(None, description="What a user of the numbers must know.")
    unverified: tuple[str, ...] = Field(
        (), description="Facts about the data that could not be checked when the file was written."
    )
    format: Literal["mergefront/task@1"] = "mergefront/task@1"

    @field_validator("rule", mode="before")
    @classmethod
    def _rule_exists(cls, rule: Any) -> Any:
        """Name the rules that exist; pydantic's message would name every form of `rule`."""
        cases = rule.get("cases") if isinstance(rule, dict) else None
        for case in cases.values() if isinstance(cases, dict) else [rule]:
            name = case.get("name") if isinstance(case, dict) else case
            if isinstance(name, str) and name not in get_args(RuleName):
                rules = ", ".join(get_args(RuleName))
                raise ValueError(f"there is no rule {name!r}; the rules are {rules}")
        return rule

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Task:
        prompt, fields, rules = self.prompt, self.fields, ", ".join(self.rules)
        by_words = self.mode == "labels" and not set(self.rules) <= {"choice", "yes_no"}
        hint_alone = ("{hint}" in prompt) != bool(self.hint)
        problems = {
            "prompt must contain {question}": "{question}" not in prompt,
            "hint and {hint} in prompt belong together: give both or neither": hint_alone,
            "prompt has {choices}: name their column in fields.choices": "{choices}" in prompt
            and fields.choices is None,
            f"mode labels is for the rules choice and yes_no, found {rules}": by_words,
            "unit cluster needs fields.cluster": self.unit == "cluster" and fields.cluster is None,
            "golds index needs fields.choices": self.golds == "index" and fields.choices is None,
        }
        if any(problems.values()):
            raise ValueError("; ".join(text for text, applies in problems.items() if applies))
        return self

    @property
    def rules(self) -> tuple[RuleName, ...]:
        """Return the rules that mark the rows, in the file's order."""
        cases = list(self.rule.cases.values()) if isinstance(self.rule, ByRow) else [self.rule]
        names = [case.name if isinstance(case, RuleSpec) else case for case in cases]
        return tuple(dict.fromkeys(names))


def columns_of(columns: Columns | NumberBlocks | None) -> Sequence[str]:
    """Return the columns that a field names: none, one or several."""
    if columns is None:
        return ()
    if isinstance(columns, NumberBlocks):
        return (columns.column,)
    return (columns,) if isinstance(columns, str) else columns


def task_path(name: str, relative_to: Path) -> Path:
    """Return a task's file: a shipped one by name, or a path. Raises ConfigError."""
    shipped = LIBRARY / f"{name}.yaml"
    if os.path.isfile(shipped):  # Path.is_file would raise for a name that is too long
        return shipped
    path = relative_to / name
    if path.suffix in {".yaml", ".yml"}:
        return path
    names = ", ".join(sorted(p.stem for p in LIBRARY.glob("*.yaml")))
    raise ConfigError(
        f"objectives: there is no task {name!r}",
        hint=f"use one of the library ({names}) or the path of a task file ending in .yaml",
    )


def load_task(path: Path) -> Task:
    """Read and check a task file. Raises ConfigError with every problem of the file."""
    return load_yaml(path, Task)


def library() -> list[Task]:
    """Return the shipped tasks, by name."""
    return [load_task(path) for path in sorted(LIBRARY.glob("*.yaml"))]
