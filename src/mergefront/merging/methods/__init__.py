"""Merge methods: pure functions on tensors, one file a method, with paper and equation.

Reading order: `task_arithmetic` (the plainest one) with `base` (what several share), then any
other. Shared by several methods: `sparse` on `thresholds`, `gram`, `spectral`. What a method is
stands in `merging.method`.
"""

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

METHODS: Final[Mapping[str, Method]] = MappingProxyType({each.name: each for each in _ALL})
"""Name -> the method with its parameters at their defaults."""


def method_of(name: str, parameters: Mapping[str, Any] | None = None) -> Method:
    """Return a method by name, with parameters of its own.

    Raises:
        ConfigError: there is no such method, naming those that there are, or a parameter is
            illegal.
    """
    if name not in METHODS:
        raise ConfigError(f"no merge method {name!r}; there are: {', '.join(METHODS)}")
    return METHODS[name].of(parameters or {})


def listing() -> list[dict[str, Any]]:
    """Return for each method its name, what it is, its parameters, and whether it needs a base.

    `parameters` maps a parameter to its legal values (words, true and false) or, where those are
    numbers, to (lowest, highest); `searchable` names those that a space may search.
    """
    return [
        {
            "name": name,
            "what": _summary(method),
            "parameters": method.parameters,
            "searchable": list(method.searchable),
            "needs_base": _needs_base(method),
            "file": inspect.getfile(type(method)).rpartition("/")[2],
        }
        for name, method in METHODS.items()
    ]


def _summary(method: Method) -> str:
    """Return the first sentence of the file; title and class's sentence if files are shared."""
    module = type(method).__module__
    alone = sum(type(each).__module__ == module for each in METHODS.values()) == 1
    documented = [inspect.getmodule(type(method)), *([] if alone else [type(method)])]
    first = [(inspect.getdoc(each) or "").splitlines()[0].rstrip(".") for each in documented]
    return first[0] if alone else f"{first[0].partition(':')[0]}: {first[1]}"


def _needs_base(method: Method) -> bool:
    """Whether any of its terms reads a base, at default parameters."""
    sources = {source for term in method.terms(("donor",)) for source in method.reads(term)}
    return any(source == "base" or source.startswith("base:") for source in sources)
