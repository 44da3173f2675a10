"""What methods there are, told from the methods themselves."""

from __future__ import annotations

import inspect
from typing import Any

from . import METHODS
from .method import Method


def listing() -> list[dict[str, Any]]:
    """Return for each method its name, what it is, its parameters, and whether it needs a base.

    `parameters` maps a parameter to its legal values (words, true and false) or, where those are
    numbers, to (lowest, highest); `searchable` names those that a space may search.
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
    """The file's sentence; its title and the class's own where several share a file."""
    fellows = [one for one in METHODS.values() if type(one).__module__ == type(method).__module__]
    told = [inspect.getmodule(type(method)), type(method)][: 1 if len(fellows) == 1 else 2]
    first = [(inspect.getdoc(one) or "").splitlines()[0].rstrip(".") for one in told]
    return ": ".join([first[0].partition(":")[0], first[1]] if len(first) > 1 else first)


def _parameters(method: Method) -> dict[str, Any]:
    legal: dict[str, Any] = dict(getattr(method, "legal", {}))
    return legal | dict(getattr(method, "ranges", {}))


def _needs_base(method: Method) -> bool:
    """Whether any of its terms reads a base, at default parameters."""
    terms = method.terms(("donor",), {})
    sources = {source for term in terms for source in method.reads(term, {})}
    return any(source == "base" or source.startswith("base:") for source in sources)
