"""The cells of a row: looked up, as text, compared with values of a task file.
The options of a multiple-choice row, in the forms in which data sets write them."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

_ABSENT = object()


def cell_of(row: Row, column: str) -> Any:
    """The cell of a column; `a.b` is the field b of a cell that holds a mapping."""
    found = _looked_up(row, column)
    return None if found is _ABSENT else found


def has_column(row: Row, column: str) -> bool:
    """Whether a row has a column."""
    return _looked_up(row, column) is not _ABSENT


def text_of(cell: Any) -> str:
    """A cell as text: nothing for a missing one, 3 for 3.0, which gaps in a column cause, and the
    parts of a list with commas between."""
    if isinstance(cell, str):
        return cell
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, list | tuple):
        return ", ".join(text_of(one) for one in cell)
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def joined(row: Row, columns: Sequence[str]) -> str:
    """The values of one or several columns as one text, nothing if all are missing."""
    if len(columns) == 1:
        return text_of(cell_of(row, columns[0]))
    parts = [text_of(cell_of(row, column)) for column in columns]
    return " / ".join(parts) if any(parts) else ""


def _looked_up(row: Row, column: str) -> Any:
    if column in row:
        return row[column]
    name, _, rest = column.partition(".")
    inner = row.get(name)
    return _looked_up(inner, rest) if rest and isinstance(inner, Mapping) else _ABSENT


def among(cell: Any, values: Sequence[str | int | float | bool]) -> bool:
    """Whether a cell equals one of the values; `3` in a text cell equals the number 3."""
    return any(_same(cell, value) for value in values)


def _same(cell: Any, value: str | int | float | bool) -> bool:
    """Equality in which a text cell stands for what it spells: "3" for 3, "True" for true; an empty
    text stands for a missing cell, and a list matches by any of its parts."""
    if isinstance(cell, list | tuple):
        return any(_same(one, value) for one in cell)
    if value == "" and isinstance(value, str):
        return text_of(cell).strip() == ""
    if isinstance(cell, str) and not isinstance(value, str):
        return cell.strip().lower() == str(value).lower()
    return bool(cell == value)


MOST_OPTIONS = 26
"""Options are named by the letters A to Z."""

LONGEST = 20_000
"""Characters of a cell that is read as a Python list."""

_FORMS = (r"\(({})\)\s*", r"({})[.．]\s*", r"({})[:：]\s*", r"({})\)\s*")
"""How a text marks its options: (A) red, A. red, A: red, A) red."""


def options_of(cell: Any) -> tuple[str, ...] | None:
    """The options in a cell, or None if it holds none.

    A cell is a list, or a text: a JSON or Python list, parts between vertical bars, or options
    marked by letters in one form throughout ("(a) red (b) blue", "A. red; B. blue").
    """
    if isinstance(cell, str):
        listed = list_in(cell)
        if listed is None and "|" in cell:
            listed = cell.split("|")
        return checked(listed) if listed is not None else labelled(cell)
    return checked(cell) if isinstance(cell, list | tuple) else None


def checked(options: Sequence[Any]) -> tuple[str, ...] | None:
    """The options as texts; None if there are none or too many, or one is empty."""
    texts = tuple(text_of(one).strip() for one in options)
    return texts if 1 <= len(texts) <= MOST_OPTIONS and all(texts) else None


def list_in(text: str) -> list[Any] | None:
    """The list that a text spells in JSON or in Python (literals only, nothing is run)."""
    text = text.strip()
    if not text.startswith("[") or len(text) > LONGEST:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return found if isinstance(found, list) else None
    return None


def labelled(text: str) -> tuple[str, ...] | None:
    """Options that letters mark, A first and in order, at least two; None if there are none.

    The last option ends with its line.
    """
    for form in _FORMS:
        for first in "Aa":
            found = _marked(text, form, first)
            if found is not None:
                return found
    return None


def _marked(text: str, form: str, first: str) -> tuple[str, ...] | None:
    """Options in one form, from the last place where the first letter is marked."""
    starts = list(re.finditer(r"(?:^|(?<=[\s,;；]))" + form.format(first), text))
    for start in reversed(starts):
        marks = [start]
        while len(marks) < MOST_OPTIONS:
            letter = chr(ord(first) + len(marks))
            pattern = re.compile(r"(?<=[\s,;；])" + form.format(letter))
            mark = pattern.search(text, marks[-1].end())
            if mark is None:
                break
            marks.append(mark)
        if len(marks) < 2:
            continue
        ends = [mark.start() for mark in marks[1:]]
        last = text.find("\n", marks[-1].end())
        ends.append(len(text) if last < 0 else last)
        parts = [text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
        return checked([part.strip().rstrip(",;；").strip() for part in parts])
    return None
