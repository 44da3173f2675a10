"""Tests only: lets a CUDA build of torchvision be imported beside a CPU build of torch.

Its compiled operators then do not load, and Python code that describes them fails. Before
torchvision is first imported, this declares operators of those names; none is ever called. Put
this folder on PYTHONPATH, so that child processes get it too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

OPERATORS = (
    *("nms", "qnms", "roi_align", "_roi_align_backward", "qroi_align", "roi_pool"),
    *("_roi_pool_backward", "ps_roi_align", "_ps_roi_align_backward", "ps_roi_pool"),
    *("_ps_roi_pool_backward", "deform_conv2d", "_deform_conv2d_backward"),
)


class Declare(MetaPathFinder):
    """Finds nothing; declares the operators when torchvision is looked for."""

    library: Any = None

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchvision" and self.library is None:
            import torch

            self.library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
            for operator in OPERATORS:
                self.library.define(f"{operator}(Tensor whatever) -> Tensor")
        return None


sys.meta_path.insert(0, Declare())
