"""One row of a table -> one item, or an error that names the row."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

from mergefront.errors import UserError
from mergefront.records import SPLITS, Item, Rule, RuleName, Split
from mergefront.tasks.cells import (
    MOST_OPTIONS,
    Row,
    cell_of,
    equals_any,
    has_column,
    joined_text,
    list_in,
    options_of,
    text_of,
)
from mergefront.tasks.scoring import answer_text, expected_gold, normalised_gold
from mergefront.tasks.scoring.choices import with_labels
from mergefront.tasks.task_file import (
    KIND,
    PLACEHOLDER,
    ByRow,
    Columns,
    NumberBlocks,
    RuleSpec,
    Task,
    columns_of,
)

T = TypeVar("T")

_MARKER = re.compile(r"<\s*image\s*_?(\d*)\s*>", re.IGNORECASE)
_AT_END = re.compile(rf"(?:\s*{_MARKER.pattern})+\s*\Z", re.IGNORECASE)


def check_columns(task: Task, row: Row, *, images: bool) -> None:
    """Raises UserError if the task file names columns that the data does not have."""
    columns_by_field: dict[str, Iterable[str]] = {
        f"fields.{name}": columns_of(columns)
        for name, columns in task.fields
        if images or name != "images"
    }
    for name, choice in (("rule", task.rule), ("hint", task.hint)):
        columns_by_field[name] = [choice.column] if isinstance(choice, ByRow) else ()
    columns_by_field |= {"where": task.where, "exclude": task.exclude}
    absent = [
        f"{column} ({field})"
        for field, columns in columns_by_field.items()
        for column in columns
        if column != KIND and not has_column(row, column)
    ]
    if absent:
        columns_found = ", ".join(sorted(name for name in row if not name.startswith("_")))
        raise UserError(
            f"task {task.name}: the data has no column {', '.join(absent)}",
            hint=f"columns found: {columns_found}; correct the names in the task file",
        )


def is_selected(task: Task, row: Row) -> bool:
    """Return whether `where` keeps a row and `exclude` does not drop it."""
    return all(equals_any(cell_of(row, c), values) for c, values in task.where.items()) and not any(
        equals_any(cell_of(row, c), values) for c, values in task.exclude.items()
    )


def row_label(task: Task, row: Row, number: int) -> str:
    """Return a row's name in messages: its number in the data, from 1, and its id."""
    columns = columns_of(task.fields.id)
    key = f" (id {joined_text(row, columns)})" if columns else ""
    return f"task {task.name}: row {number}{key}"


def item_of(
    task: Task, row: Row, digests: tuple[bytes, ...], image_hash: Callable[[], str], label: str
) -> Item:
    """Return the item of a row, with `digests` in place of its images.

    Args:
        task: says what the columns mean.
        row: one row of the data.
        digests: sha256 of each of the row's images, as they lie in the data.
        image_hash: sha256 of all its images together; called only where the row has no id.
        label: the row's name in messages.

    Raises:
        UserError: the gold or the options are faulty, or the task has no case for the row.
    """
    fields = task.fields
    choices = _options_of_row(task, row, label)
    row = {**row, KIND: "choice" if choices else "open"}
    question = _prompt(task, row, choices, label)
    if fields.id is not None:
        key = joined_text(row, columns_of(fields.id))
    else:
        content = json.dumps([question, str(cell_of(row, fields.answer)), image_hash()])
        key = hashlib.sha256(content.encode()).hexdigest()[:16]
    name = f"{task.name}/{key}"
    cluster_key = _cluster_key(row, fields.cluster, label)
    # The number of a problem has a meaning only within its dataset, whose slices share clusters.
    cluster = f"{task.data.hub}/{cluster_key}" if cluster_key and task.data.hub else cluster_key
    cluster = cluster or (image_hash() if digests else name)
    rule = _rule(task, row, label)
    item = Item(
        id=name,
        task=task.name,
        question=question,
        images=digests,
        answers=_gold_answers(task, row, rule, choices, label),
        cluster=cluster,
        stratum=joined_text(row, columns_of(fields.stratum)),
        choices=choices,
        max_tokens=task.max_tokens,
        rule=rule,
        unit=f"{task.name}/{cluster_key or cluster}" if task.unit == "cluster" else "",
    )
    return with_labels(item) if task.mode == "labels" else item


def declared_split(row: Row, column: str, label: str) -> Split:
    """Return the split that a row declares. Raises UserError for any other value."""
    value = cell_of(row, column)
    for split in SPLITS:
        if value == split:
            return split
    raise UserError(
        f"{label}: the column {column!r} (fields.split) holds {value!r}, which is no split",
        hint=f"its values are {', '.join(SPLITS)}; drop other rows with "
        f"where: {{{column}: [{', '.join(SPLITS)}]}}",
    )


def _prompt(task: Task, row: Row, choices: tuple[str, ...], label: str) -> str:
    letters = [chr(65 + i) for i in range(len(choices) or 4)]
    listed = "\n".join(f"({a}) {text}" for a, text in zip(letters, choices, strict=False))
    hint = _case_of_row(task.hint, "hint", row, label)
    question = text_of(cell_of(row, task.fields.question))
    if task.markers == "name":
        question = _AT_END.sub("", question)
    filled = {
        "question": _with_treated_markers(task, question),
        "choices": listed,
        "letters": ", ".join(letters[:-1]) + f" or {letters[-1]}" if letters[1:] else letters[0],
        "hint": hint,
    }
    prompt = task.prompt
    for name in ("choices", "hint"):  # a placeholder without a text takes its line with it
        if not filled[name]:
            prompt = re.sub(rf"^\{{{name}\}}\n|\n\{{{name}\}}$", "", prompt, flags=re.MULTILINE)
    return PLACEHOLDER.sub(lambda placeholder: filled[placeholder[1]], prompt)


def _rule(task: Task, row: Row, label: str) -> Rule:
    spec: RuleName | RuleSpec = _case_of_row(task.rule, "rule", row, label)
    rule = Rule(**vars(spec)) if isinstance(spec, RuleSpec) else Rule(spec)
    if task.fields.digits is not None:
        cell = text_of(cell_of(row, task.fields.digits))
        if cell and not re.fullmatch(r"\d{1,2}", cell):
            raise UserError(
                f"{label}: the column {task.fields.digits!r} (fields.digits) holds {cell!r}, which "
                "is no number of decimals",
                hint="expected a whole number such as 2, or nothing",
            )
        rule = replace(rule, digits=int(cell)) if cell else rule
    return rule


def _case_of_row(choice: T | ByRow[T], field: str, row: Row, label: str) -> T:
    """Return the choice for a row: the choice itself, or the case of the row's value."""
    if not isinstance(choice, ByRow):
        return choice
    value = text_of(cell_of(row, choice.column))
    if value not in choice.cases:
        raise UserError(
            f"{label}: the column {choice.column!r} holds {value!r}, for which {field} has no case",
            hint=f"cases given: {', '.join(choice.cases)}",
        )
    return choice.cases[value]


def _gold_answers(
    task: Task, row: Row, rule: Rule, choices: tuple[str, ...], label: str
) -> tuple[str, ...]:
    cell = cell_of(row, task.fields.answer)
    if task.golds == "literal" and isinstance(cell, str):
        cell = list_in(cell) or cell
    golds = [text_of(part) for part in (cell if isinstance(cell, list | tuple) else [cell])]
    # One of the ten annotators of a VQA question may have written nothing.
    quantifier = any if rule.name == "vqa" else all
    if not golds or not quantifier(gold.strip() for gold in golds):
        raise UserError(
            f"{label}: the column {task.fields.answer!r} (fields.answer) holds no gold",
            hint="fill it in, or drop the row",
        )
    if task.golds == "index":
        golds = [_letter_of_index(gold, choices, label) for gold in golds]
    elif task.golds == "boxed":
        golds = [_boxed_answer(gold, label) for gold in golds]
    normalised = [_normalised_gold(rule, gold, choices) for gold in golds]
    if rule.name == "vqa" and any(gold is not None for gold in normalised):
        return tuple(golds)  # an unusable gold still counts among those that disagree
    for gold, usable_gold in zip(golds, normalised, strict=True):
        if usable_gold is None:
            raise UserError(
                f"{label}: no answer can match the gold {gold!r} under the rule {rule.name}",
                hint=f"expected {expected_gold(rule, choices)}",
            )
    return tuple(gold for gold in normalised if gold is not None)


_normalised_gold = lru_cache(maxsize=1 << 14)(normalised_gold)
"""A cache, for many rows have the same gold."""


def _letter_of_index(gold: str, choices: Sequence[str], label: str) -> str:
    if gold.strip().isdecimal() and int(gold) < len(choices):
        return chr(65 + int(gold))
    raise UserError(
        f"{label}: the gold {gold!r} (fields.answer) is the number of no option",
        hint=f"golds: index expects 0 to {len(choices) - 1}",
    )


def _boxed_answer(solution: str, label: str) -> str:
    if "\\boxed" not in solution:
        raise UserError(
            f"{label}: the solution (fields.answer) has no \\boxed answer",
            hint="drop the row with exclude",
        )
    return answer_text(solution)


def _options_of_row(task: Task, row: Row, label: str) -> tuple[str, ...]:
    """Return the options of a row; none if the column is blank or the question lists none."""
    columns = columns_of(task.fields.choices)
    if not columns:
        return ()
    cell = cell_of(row, columns[0])
    if len(columns) > 1:
        cells = [text_of(cell_of(row, column)) for column in columns]
        cell = [text for text in cells if text]
    inlined = columns == (task.fields.question,)
    optional = inlined or isinstance(task.rule, ByRow)
    options = options_of(cell)
    if options is None and not (optional and (inlined or _is_blank(cell))):
        raise UserError(
            f"{label}: {', '.join(columns)} (fields.choices) holds no options: {cell!r}",
            hint=f'expected 1 to {MOST_OPTIONS}, none empty: a list, a JSON list such as ["red", '
            '"blue"], or text such as red | blue',
        )
    return tuple(_with_treated_markers(task, text) for text in options or ())


def _is_blank(cell: Any) -> bool:
    return cell in (None, "", "[]", []) or (isinstance(cell, float) and math.isnan(cell))


def _cluster_key(row: Row, columns: Columns | NumberBlocks | None, label: str) -> str:
    if not isinstance(columns, NumberBlocks):
        return joined_text(row, columns_of(columns))
    number = text_of(cell_of(row, columns.column))
    if not re.fullmatch(r"-?\d+", number):
        raise UserError(
            f"{label}: the column {columns.column!r} (fields.cluster) holds {number!r}",
            hint="expected a whole number, by which rows are counted into clusters",
        )
    return str((int(number) - columns.first) // columns.size)


def _with_treated_markers(task: Task, text: str) -> str:
    if task.markers == "keep":
        return text
    if task.markers == "name":
        return _MARKER.sub(lambda marker: f"image {marker[1]}".strip(), text)
    return re.sub(r"[ \t]{2,}", " ", _MARKER.sub("", text)).strip()
