"""Print the figures of a source tree that say how it reads: sizes, comments, rooms, imports, names.

    python scripts/house.py [PACKAGE_FOLDER ...]        (default: src/mergefront)

Lines of files and functions are (median / 90th percentile / largest). Comments are lines with
nothing but a comment, as a share of the lines of code (neither blank, comment nor docstring). An
import chain counts modules that import each other in a row, `import` inside functions and under
TYPE_CHECKING left out; modules in a cycle count as one link each. Names: see count_names.py.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

from count_names import EMPTY_WORDS, bound_names

sys.setrecursionlimit(10_000)


def sizes(lengths: list[int]) -> str:
    """Return median, 90th percentile and maximum of some lengths."""
    ninth = quantiles(lengths, n=10, method="inclusive")[-1] if len(lengths) > 1 else lengths[0]
    return f"{median(lengths):.0f} / {ninth:.0f} / {max(lengths)}"


def functions(tree: ast.AST) -> Iterator[int]:
    """Yield the lines of each function, from `def` to its end."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def docstring_lines(tree: ast.AST) -> set[int]:
    """Return the numbers of the lines that belong to strings standing alone."""
    return {
        number
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def imported(tree: ast.Module, module: str, is_package: bool, modules: set[str]) -> set[str]:
    """Return the package's own modules that a module imports when it is imported itself."""
    targets = set()
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif isinstance(node, ast.If | ast.Try | ast.With):
            waiting += [
                child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)
            ]
        elif isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parents = module.split(".")[
                    : None if is_package and node.level == 1 else -node.level
                ]
                start = ".".join([*parents, *filter(None, [node.module])])
            targets |= {
                full if (full := f"{start}.{alias.name}") in modules else start
                for alias in node.names
            }
    return (targets & modules) - {module}


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """Return the longest row of modules in which each imports the next."""
    best: dict[str, list[str]] = {}

    def chain(module: str, above: frozenset[str]) -> list[str]:
        if module not in best:
            below = [chain(m, above | {module}) for m in graph[module] if m not in above]
            longest = max(below, key=len, default=[])
            best[module] = [module, *longest]
        return best[module]

    return max((chain(module, frozenset()) for module in sorted(graph)), key=len)


def figures(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (what, figure) for the package in `folder`."""
    files = sorted(folder.rglob("*.py"))
    if not files:
        sys.exit(f"{folder}: no Python files")
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    trees = {file: ast.parse(text) for file, text in texts.items()}
    yield "lines", str(sum(len(text.splitlines()) for text in texts.values()))
    yield "file median / p90 / max", sizes([len(text.splitlines()) for text in texts.values()])
    yield (
        "function median / p90 / max",
        sizes([n for tree in trees.values() for n in functions(tree)]),
    )
    comments = code = 0
    for file, text in texts.items():
        documentation = docstring_lines(trees[file])
        for number, line in enumerate(text.splitlines(), start=1):
            comment = line.lstrip().startswith("#") and number not in documentation
            comments += comment
            code += bool(line.strip()) and not comment and number not in documentation
    yield "whole-line comments / code", f"{100 * comments / max(code, 1):.1f} %"
    roots = [file for file in folder.glob("*.py") if not file.name.startswith("__")]
    packages = list(folder.glob("*/__init__.py"))
    yield "root modules + packages", f"{len(roots)} + {len(packages)}"
    modules = {}
    for file in files:
        parts = [folder.name, *file.relative_to(folder).with_suffix("").parts]
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    graph = {
        name: imported(trees[file], name, file.name == "__init__.py", set(modules))
        for name, file in modules.items()
    }
    chain = longest_chain(graph)
    yield "longest import chain", f"{len(chain)} ({' > '.join(chain)})"
    names = [name for tree in trees.values() for name in bound_names(tree)]
    empty = sum(name in EMPTY_WORDS for name in names)
    yield "pronoun names", f"{100 * empty / max(len(names), 1):.2f} % of {len(names)}"


def main() -> None:
    """Print a table for each folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("src/mergefront")])
    for folder in parser.parse_args().folders:
        print(folder)
        for what, figure in figures(folder):
            print(f"  {what:<28} {figure}")


if __name__ == "__main__":
    main()
