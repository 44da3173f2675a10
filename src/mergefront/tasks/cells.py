"""One cell of a row: looked up, as text, compared with values of a task file, read as options."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

MOST_OPTIONS = 26
"""Options are named by the letters A to Z."""

LONGEST_LIST = 20_000
"""Characters of a cell that is read as a Python list."""

_ABSENT = object()

_LABEL_FORMS = (r"\(({})\)\s*", r"({})[.．]\s*", r"({})[:：]\s*", r"({})\)\s*")
"""How a text labels its options: (A) red, A. red, A: red, A) red."""


def cell_of(row: Row, column: str) -> Any:
    """Return the cell of a column; `a.b` is the field b of a cell that holds a mapping."""
    cell = _look_up(row, column)
    return None if cell is _ABSENT else cell


def has_column(row: Row, column: str) -> bool:
    """Return whether a row has a column."""
    return _look_up(row, column) is not _ABSENT


def text_of(cell: Any) -> str:
    """Return a cell as text: an empty one for None and NaN; the parts of a list with commas.

    A whole float loses its ".0", for a gap in a column makes floats of whole numbers.
    """
    if isinstance(cell, str):
        return cell
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, list | tuple):
        return ", ".join(text_of(part) for part in cell)
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def joined_text(row: Row, columns: Sequence[str]) -> str:
    """Return the values of one or several columns as one text; an empty one if all are empty."""
    if len(columns) == 1:
        return text_of(cell_of(row, columns[0]))
    parts = [text_of(cell_of(row, column)) for column in columns]
    return " / ".join(parts) if any(parts) else ""


def _look_up(row: Row, column: str) -> Any:
    if column in row:
        return row[column]
    name, _, rest = column.partition(".")
    inner = row.get(name)
    return _look_up(inner, rest) if rest and isinstance(inner, Mapping) else _ABSENT


def equals_any(cell: Any, values: Sequence[str | int | float | bool]) -> bool:
    """Return whether a cell equals one of the values; `3` in a text cell equals the number 3."""
    return any(_equals(cell, value) for value in values)


def _equals(cell: Any, value: str | int | float | bool) -> bool:
    """Return whether a cell equals a value of a task file.

    A text cell equals what it spells: "3" equals 3, "True" equals true. An empty text equals a
    missing cell. A list equals what any of its parts equals.
    """
    if isinstance(cell, list | tuple):
        return any(_equals(part, value) for part in cell)
    if value == "" and isinstance(value, str):
        return text_of(cell).strip() == ""
    if isinstance(cell, str) and not isinstance(value, str):
        return cell.strip().lower() == str(value).lower()
    return bool(cell == value)


def options_of(cell: Any) -> tuple[str, ...] | None:
    """Return the options in a cell, or None if it holds none.

    A cell is a list, or a text: a JSON or Python list, parts between vertical bars, or options
    labelled by letters in one form throughout ("(a) red (b) blue", "A. red; B. blue").
    """
    if isinstance(cell, str):
        parts = list_in(cell)
        if parts is None and "|" in cell:
            parts = cell.split("|")
        return _checked_options(parts) if parts is not None else labelled_options(cell)
    return _checked_options(cell) if isinstance(cell, list | tuple) else None


def _checked_options(options: Sequence[Any]) -> tuple[str, ...] | None:
    """Return the options as texts; None if there are none or too many, or one is empty."""
    texts = tuple(text_of(option).strip() for option in options)
    return texts if 1 <= len(texts) <= MOST_OPTIONS and all(texts) else None


def list_in(text: str) -> list[Any] | None:
    """Return the list that a text spells in JSON or in Python (literals only, nothing is run)."""
    text = text.strip()
    if not text.startswith("[") or len(text) > LONGEST_LIST:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return value if isinstance(value, list) else None
    return None


def labelled_options(text: str) -> tuple[str, ...] | None:
    """Return options that letters label, from A on and at least two, or None.

    The last option ends with its line.
    """
    for form in _LABEL_FORMS:
        for first_letter in "Aa":
            options = _options_in_form(text, form, first_letter)
            if options is not None:
                return options
    return None


def _options_in_form(text: str, form: str, first_letter: str) -> tuple[str, ...] | None:
    """Return options in one form, from the last place where the first letter is a label."""
    starts = list(re.finditer(r"(?:^|(?<=[\s,;；]))" + form.format(first_letter), text))
    for start in reversed(starts):
        labels = [start]
        while len(labels) < MOST_OPTIONS:
            letter = chr(ord(first_letter) + len(labels))
            pattern = re.compile(r"(?<=[\s,;；])" + form.format(letter))
            label = pattern.search(text, labels[-1].end())
            if label is None:
                break
            labels.append(label)
        if len(labels) < 2:
            continue
        ends = [label.start() for label in labels[1:]]
        line_end = text.find("\n", labels[-1].end())
        ends.append(len(text) if line_end < 0 else line_end)
        parts = [text[label.end() : end] for label, end in zip(labels, ends, strict=True)]
        return _checked_options([part.strip().rstrip(",;；").strip() for part in parts])
    return None
