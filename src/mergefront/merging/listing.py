"""What methods there are, told from the methods themselves."""

from __future__ import annotations

import inspect
from typing import Any

from . import METHODS
from .method import Method


def listing() -> list[dict[str, Any]]:
    """Return for each method its name, what it is, its parameters, and whether it needs a base.

    `parameters` maps a parameter to its legal values or (lowest, highest); `searchable` names
    those that a space may search.
    """
    return [
        {
            "name": name,
            "what": _what(method),
            "parameters": _parameters(method),
            "searchable": list(method.searchable),
            "needs_base": _needs_base(method),
            "file": inspect.getfile(type(method)).rpartition("/")[2],
        }
        for name, method in METHODS.items()
    ]


def _what(method: Method) -> str:
    """The class's own sentence where several share a file, else the file's."""
    module = inspect.getmodule(type(method))
    first = (getattr(module, "__doc__", "") or "").strip().splitlines()[0]
    return first.rstrip(".")


def _parameters(method: Method) -> dict[str, Any]:
    legal: dict[str, Any] = dict(getattr(method, "legal", {}))
    return legal | dict(getattr(method, "ranges", {}))


def _needs_base(method: Method) -> bool:
    """Whether any of its terms reads a base, at default parameters."""
    terms = method.terms(("donor",), {})
    sources = {source for term in terms for source in method.reads(term, {})}
    return any(source == "base" or source.startswith("base:") for source in sources)
