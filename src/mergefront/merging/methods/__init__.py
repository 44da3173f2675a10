"""Merge methods: pure functions on tensors, one file a method, with paper and equation.

Reading order: `method` (what a method is), `common`, `task_arithmetic` (the plainest one),
`arithmetic` (how terms are joined), `sources` of `opened` models and their `slots` (what a method
reads), `plan` (recipe -> what each group is made of), `build` (recipe -> tensors and folders).
Shared by several methods: `sparse` on `thresholds`, `gram`, `spectral`.

What methods there are, told from the methods themselves."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from mergefront.errors import ConfigError
from mergefront.merging.method import Method
from mergefront.merging.methods.arcee_fusion import ArceeFusion
from mergefront.merging.methods.breadcrumbs import Breadcrumbs, BreadcrumbsTies
from mergefront.merging.methods.dare import DareLinear, DareTies
from mergefront.merging.methods.della import Della, DellaLinear
from mergefront.merging.methods.frank import Frank
from mergefront.merging.methods.isotropic import Isotropic
from mergefront.merging.methods.karcher import Karcher
from mergefront.merging.methods.layer_swap import LayerSwap
from mergefront.merging.methods.linear import Linear
from mergefront.merging.methods.low_rank import LowRankDeltas
from mergefront.merging.methods.model_stock import ModelStock
from mergefront.merging.methods.multislerp import MultiSlerp
from mergefront.merging.methods.nearswap import NearSwap
from mergefront.merging.methods.nuslerp import NuSlerp
from mergefront.merging.methods.paper import (
    PaperDareLinear,
    PaperDareTies,
    PaperLayerSwap,
    PaperTies,
)
from mergefront.merging.methods.ram import Ram, RamPlus
from mergefront.merging.methods.sce import Sce
from mergefront.merging.methods.slerp import Slerp
from mergefront.merging.methods.task_arithmetic import TaskArithmetic
from mergefront.merging.methods.ties import Ties
from mergefront.merging.methods.tsv import TaskSingularVectors

__all__ = ["METHODS", "Method", "method_of"]

_ALL: Final[tuple[Method, ...]] = (
    *(Linear(), TaskArithmetic(), LayerSwap(), NearSwap(), ArceeFusion()),
    *(Slerp(), NuSlerp(), MultiSlerp(), Karcher(), ModelStock()),
    *(Ram(), RamPlus(), Sce(), Frank()),
    *(LowRankDeltas(), TaskSingularVectors(), Isotropic()),
    *(Ties(), DareLinear(), DareTies(), DellaLinear(), Della()),
    *(Breadcrumbs(), BreadcrumbsTies()),
    *(PaperDareLinear(), PaperDareTies(), PaperTies(), PaperLayerSwap()),
)

METHODS: Final[Mapping[str, Method]] = MappingProxyType({one.name: one for one in _ALL})


def method_of(name: str) -> Method:
    """Return a method by name.

    Raises:
        ConfigError: if there is no such method, naming those that there are.
    """
    if name not in METHODS:
        raise ConfigError(f"no merge method {name!r}; there are: {', '.join(METHODS)}")
    return METHODS[name]


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
