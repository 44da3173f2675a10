"""The schema of a task file. A user adds a benchmark by writing one; there is no Python in it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mergefront.config import Count, Strict
from mergefront.records import RuleName


class Data(Strict):
    """Where the rows come from: exactly one of zoo, path and hub."""

    zoo: Literal["digits_perception", "digits_reasoning"] | None = Field(
        None, description="Questions shipped with mergefront."
    )
    path: str | None = Field(
        None, description="A .jsonl, .json, .csv or .parquet file, relative to the task file."
    )
    hub: str | None = Field(None, description="A dataset of the Hugging Face hub.")
    revision: str | None = Field(None, description="Commit of the hub dataset to pin.")
    config: str | None = Field(None, description="Configuration of the hub dataset.")
    split: str | None = Field(None, description="Split of the hub dataset.")

    @model_validator(mode="after")
    def _one(self) -> Data:
        given = [name for name in ("zoo", "path", "hub") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of zoo, path and hub (found {given or 'none'})")
        if self.hub is not None and self.split is None:
            raise ValueError("a hub dataset needs its split")
        return self


class Fields(Strict):
    """Which column holds what."""

    id: str | None = Field(None, description="Unique name of a row; default: its content's hash.")
    question: str = "question"
    images: tuple[str, ...] = Field(("image",), description="Columns with images, in order.")
    answer: str = Field("answer", description="The gold, or a list of golds.")
    choices: str | None = Field(
        None, description='Column with the options: a list, a JSON list, or text such as "a | b".'
    )
    cluster: str | None = Field(
        None,
        description="Rows with equal values are not independent; default: the row's images "
        "together, or without images the row itself.",
    )
    stratum: str | None = Field(None, description="Kind of question; splits keep its shares.")
    split: str | None = Field(
        None, description="Column that assigns rows to search, validation or test."
    )


class Task(Strict):
    """One benchmark, or a slice of one."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    data: Data
    fields: Fields = Field(default_factory=Fields)
    where: dict[str, tuple[str | int | float | bool, ...]] = Field(
        default_factory=dict, description="Column -> values kept."
    )
    prompt: str = Field("{question}", description="{question} and {choices} are filled in.")
    rule: RuleName = Field(description="How an answer is marked.")
    max_tokens: Count = Field(64, description="Longest answer.")
    salt: str = Field("v1", description="Changes the order and the split of the items.")
    licence: str | None = None
    source: str | None = Field(None, description="Where the benchmark and its rules come from.")
    format: Literal["mergefront/task@1"] = "mergefront/task@1"

    @model_validator(mode="after")
    def _prompt(self) -> Task:
        if "{question}" not in self.prompt:
            raise ValueError("prompt must contain {question}")
        return self
