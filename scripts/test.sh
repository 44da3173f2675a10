#!/usr/bin/env bash
# README command two: set up, then format, lint, types, imports, docs and tests. CI runs this.
# Words after the command go to pytest: scripts/test.sh -m "not slow"
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh dev
export PATH="$PWD/.venv/bin:$PATH" NO_MKDOCS_2_WARNING=1
ruff format --check .
ruff check .
mypy
lint-imports
python scripts/count_names.py --most 0.01
mkdocs build --strict --quiet
# Two processes, a whole file in each: an engine is started once for the tests of its file.
pytest --numprocesses 2 --dist loadfile "$@"
