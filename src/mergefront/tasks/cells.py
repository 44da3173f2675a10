"""The cells of a row: looked up, as text, compared with values of a task file."""

from __future__ import annotations

import math
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
