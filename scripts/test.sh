#!/usr/bin/env bash
# README command two: set up, then format, lint, types, architecture and tests. CI runs this.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh dev
export PATH="$PWD/.venv/bin:$PATH"
ruff format --check .
ruff check .
mypy
lint-imports
pytest "$@"
