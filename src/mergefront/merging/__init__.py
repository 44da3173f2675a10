"""Merge methods: pure functions on tensors, one file a method, with paper and equation.

Reading order: `method` (what a method is), `common`, `task_arithmetic` (the plainest one),
`arithmetic` (how terms are joined), `sources` of `opened` models and their `slots` (what a method
reads), `plan` (recipe -> what each group is made of), `build` (recipe -> tensors and folders).
Shared by several methods: `sparse` on `thresholds`, `gram`, `spectral`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from mergefront.errors import ConfigError

from .arcee_fusion import ArceeFusion
from .breadcrumbs import Breadcrumbs, BreadcrumbsTies
from .dare import DareLinear, DareTies
from .della import Della, DellaLinear
from .frank import Frank
from .isotropic import Isotropic
from .karcher import Karcher
from .layer_swap import LayerSwap
from .linear import Linear
from .low_rank import LowRankDeltas
from .method import Method
from .model_stock import ModelStock
from .multislerp import MultiSlerp
from .nearswap import NearSwap
from .nuslerp import NuSlerp
from .ram import Ram, RamPlus
from .sce import Sce
from .slerp import Slerp
from .task_arithmetic import TaskArithmetic
from .ties import Ties
from .tsv import TaskSingularVectors
from .vlm_merging import PaperDareLinear, PaperDareTies, PaperLayerSwap, PaperTies

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
