"""Merge methods: pure functions on tensors, one file a method, with paper and equation.

Reading order: `method` (what a method is), `linear`, `task_arithmetic`, `arithmetic` (the one
weighted sum), `sources` (opened and paired models), `plan` (recipe -> weights per group), `build`
(recipe -> tensors and folders).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from mergefront.errors import ConfigError

from .linear import Linear
from .method import Method
from .task_arithmetic import TaskArithmetic

__all__ = ["METHODS", "Method", "method_of"]

METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {"linear": Linear(), "task_arithmetic": TaskArithmetic()}
)


def method_of(name: str) -> Method:
    """Return a method by name.

    Raises:
        ConfigError: if there is no such method, naming those that there are.
    """
    if name not in METHODS:
        raise ConfigError(f"no merge method {name!r}; there are: {', '.join(METHODS)}")
    return METHODS[name]
