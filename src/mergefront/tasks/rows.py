"""One row of a table -> one item, or an error that names the row."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from mergefront.errors import UserError
from mergefront.records import SPLITS, Item, Rule, Split
from mergefront.scoring import expected, normal_gold
from mergefront.tasks.spec import Task

Row = Mapping[str, Any]

MOST_OPTIONS = 26
"""Options are named by the letters A to Z."""


def check_columns(task: Task, columns: Iterable[str], *, images: bool) -> None:
    """Raises UserError if the task names a column that the data does not have."""
    fields, there = task.fields, sorted(columns)
    named = {fields.question, fields.answer, fields.choices, fields.id, fields.cluster}
    named |= {fields.stratum, fields.split}
    found = f"columns found: {', '.join(there)}"
    missing = sorted(name for name in named if name is not None and name not in there)
    if missing:
        raise UserError(
            f"task {task.name}: the data has no column {', '.join(missing)}",
            hint=f"{found}; set them under fields:",
        )
    for column in fields.images if images else ():
        if column not in there:
            raise UserError(
                f"task {task.name}: the data has no image column {column!r}",
                hint=f"{found}; set fields.images",
            )
    unknown = sorted(set(task.where) - set(there))
    if unknown:
        raise UserError(
            f"task {task.name}: where names the column {', '.join(unknown)}, which the data lacks",
            hint=found,
        )


def kept(task: Task, row: Row) -> bool:
    """Whether `where` keeps a row."""
    return all(any(_same(row[c], v) for v in values) for c, values in task.where.items())


def label_of(task: Task, row: Row, number: int) -> str:
    """How messages call a row: its number in the data, from 1, and its id."""
    key = f" (id {row[task.fields.id]})" if task.fields.id is not None else ""
    return f"task {task.name}: row {number}{key}"


def item_of(task: Task, row: Row, images: tuple[bytes, ...], label: str) -> Item:
    """The item of a row. Raises UserError for a faulty gold or faulty options."""
    fields = task.fields
    choices = _choices(row[fields.choices], label) if fields.choices else ()
    listed = "\n".join(f"({chr(65 + i)}) {text}" for i, text in enumerate(choices))
    asked = _text(row[fields.question])
    question = task.prompt.replace("{choices}", listed).replace("{question}", asked)
    image_hash = hashlib.sha256(b"".join(images)).hexdigest()
    content = json.dumps([question, str(row[fields.answer]), image_hash])
    key = str(row[fields.id]) if fields.id else hashlib.sha256(content.encode()).hexdigest()[:16]
    name = f"{task.name}/{key}"
    cluster = _text(row[fields.cluster]) if fields.cluster else ""
    return Item(
        id=name,
        task=task.name,
        question=question,
        images=images,
        answers=_golds(task, row, choices, label),
        cluster=cluster or (image_hash if images else name),
        stratum=_text(row[fields.stratum]) if fields.stratum else "",
        choices=choices,
        max_tokens=task.max_tokens,
        rule=Rule(task.rule),
    )


def split_of(row: Row, column: str, label: str) -> Split:
    """The split that a row declares. Raises UserError naming any other value."""
    value = row[column]
    for split in SPLITS:
        if value == split:
            return split
    raise UserError(
        f"{label}: the column {column!r} holds {value!r}, which is no split",
        hint=f"its values are {', '.join(SPLITS)}; drop other rows with "
        f"where: {{{column}: [{', '.join(SPLITS)}]}}",
    )


def _golds(task: Task, row: Row, choices: tuple[str, ...], label: str) -> tuple[str, ...]:
    cell = row[task.fields.answer]
    golds = [_text(one) for one in (cell if isinstance(cell, list | tuple) else [cell])]
    if not golds or not all(gold.strip() for gold in golds):
        raise UserError(
            f"{label}: its gold (column {task.fields.answer!r}) is empty",
            hint="fill it in, or drop the row",
        )
    normal = [(gold, normal_gold(task.rule, gold, choices)) for gold in golds]
    for gold, usable in normal:
        if usable is None:
            raise UserError(
                f"{label}: no answer can match the gold {gold!r} under the rule {task.rule}",
                hint=f"expected {expected(task.rule, choices)}",
            )
    return tuple(usable for _, usable in normal if usable is not None)


def _choices(cell: Any, label: str) -> tuple[str, ...]:
    options = _listed(cell) if isinstance(cell, str) else cell
    texts = [_text(one) for one in options] if isinstance(options, list | tuple) else []
    if not 1 <= len(texts) <= MOST_OPTIONS or not all(text.strip() for text in texts):
        raise UserError(
            f"{label}: these are no options: {cell!r}",
            hint=f'give 1 to {MOST_OPTIONS}, none empty: a list, a JSON list such as ["red", '
            '"blue"], or text such as red | blue',
        )
    return tuple(texts)


def _listed(text: str) -> Any:
    """The list in a text, or None: a JSON list, or parts between vertical bars."""
    if text.strip().startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            pass
    return [part.strip() for part in text.split("|")] if "|" in text else None


def _text(cell: Any) -> str:
    """A cell as text: nothing for a missing one, and 3 for 3.0, which gaps in a column cause."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _same(cell: Any, value: str | int | float | bool) -> bool:
    """Equality in which a text cell stands for what it spells: "3" for 3, "True" for true."""
    if isinstance(cell, str) and not isinstance(value, str):
        return cell.strip().lower() == str(value).lower()
    return bool(cell == value)
