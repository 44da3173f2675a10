#!/usr/bin/env bash
# README command one: set up, then run the embedded default: a whole merge search on the zoo.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
engine=()
if ! .venv/bin/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("vllm") is None)'; then
  engine=(--engine transformers)
fi
.venv/bin/mergefront search digits "${engine[@]}" "$@"
.venv/bin/mergefront compare digits:knee digits:best:reasoning digits:best:perception --out runs/digits/profiles
