"""The GPU benchmark tries itself on a CPU: its whole path, on tiny shapes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mergefront.merging.methods import METHODS

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_merge.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    without = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=without
    )


def test_without_a_device_it_says_so() -> None:
    done = run()
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr
    assert "--device cpu --size tiny" in done.stderr


@pytest.fixture(scope="module")
def size(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("gpu_merge") / "found.json"
    done = run("--device", "cpu", "--size", "tiny", "--runs", "1", "--json", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(out.read_text())["sizes"]
    return found[0]


def test_every_method_gives_the_same_bits_in_any_chunks(size: dict[str, Any]) -> None:
    """In one piece, in the usual chunks and in odd ones, zeros and subnormal numbers included."""
    q_o, k_v, mlp, vectors = 2 * 64 * 64, 2 * 64 * 32, 3 * 64 * 160, 64 + 2 * 32 + 2 * 64
    assert size["values"] == 2 * (q_o + k_v + mlp + vectors)
    assert [row["method"] for row in size["methods"]] == list(METHODS)
    for row in size["methods"]:
        assert set(row["differing"]) == {"bfloat16", "float16", "float32", "largest"}
        assert not any(row["differing"].values()), row
        assert min(row["s"], row["ratio"], row["streamed_s"]) > 0


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_fused_kernels_give_the_same_bits(size: dict[str, Any]) -> None:
    found = {
        row["method"]: row["fused_differing"] for row in size["methods"] if "fused_differing" in row
    }
    assert {"linear", "task_arithmetic", "slerp", "low_rank", "ties"} <= found.keys()
    assert not any(found.values()), found
