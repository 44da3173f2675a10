"""The options of a multiple-choice row, in the forms in which data sets write them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from mergefront.tasks.cells import text_of

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
