"""Count bound names that say nothing: pronouns and participles (`one`, `found`, `given`, ...).

    python scripts/count_names.py [--most SHARE] [FOLDER ...]

Prints the share of such names among all bound names, for the whole and for the worst files. A bound
name is a variable, parameter, function or class; underscores in front do not count. With `--most`,
exits with 1 if the share is larger (0.01 is 1 %).
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from pathlib import Path

EMPTY_WORDS = frozenset(
    [
        "found",
        "told",
        "made",
        "one",
        "mine",
        "theirs",
        "them",
        "said",
        "wanted",
        "given",
        "known",
        "here",
        "there",
        "some",
        "both",
        "what",
        "own",
        "kept",
        "left",
        "other",
        "others",
        "held",
        "missing",
        "seen",
        "done",
        "asked",
        "taken",
        "chosen",
        "now",
        "then",
        "thing",
        "things",
    ]
)
"""Pronouns, participles and adverbs that were used as whole names in this project."""


def bound_names(tree: ast.AST) -> list[str]:
    """Return every name that a module binds, without leading underscores."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.arg):
            names.append(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
    return [name.lstrip("_") for name in names]


def main() -> int:
    """Print the count; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("src")])
    parser.add_argument("--most", type=float, help="largest share that is accepted")
    arguments = parser.parse_args()
    total, rows = 0, []
    for file in sorted(f for folder in arguments.folders for f in folder.rglob("*.py")):
        names = bound_names(ast.parse(file.read_text(encoding="utf-8")))
        empty = Counter(name for name in names if name in EMPTY_WORDS)
        total += len(names)
        rows.append((empty.total(), file, empty))
    count = sum(row[0] for row in rows)
    share = count / max(total, 1)
    print(f"{count} of {total} bound names are pronouns or participles: {100 * share:.2f} %")
    for number, file, empty in sorted(rows, key=lambda row: -row[0])[:15]:
        if number:
            words = ", ".join(f"{word} {n}" for word, n in empty.most_common())
            print(f"{number:5d}  {file}: {words}")
    return int(arguments.most is not None and share > arguments.most)


if __name__ == "__main__":
    sys.exit(main())
