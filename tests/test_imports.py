"""No two modules need each other, not even lazily or for types alone."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"


def imports_of_the_package() -> dict[str, set[str]]:
    """Module -> the package's modules that it imports, anywhere in its text."""
    files = {
        ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): file
        for file in SOURCE.rglob("*.py")
    }
    imports: dict[str, set[str]] = {}
    for module, file in files.items():
        imports[module] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imports[module] |= {alias.name for alias in node.names} & files.keys()
            elif isinstance(node, ast.ImportFrom) and node.module in files:
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}"
                    imports[module].add(submodule if submodule in files else node.module)
        imports[module].discard(module)
    return imports


def test_imports_have_no_cycle() -> None:
    imports = imports_of_the_package()
    assert len(imports) > 100
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
