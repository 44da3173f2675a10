"""What building a candidate costs on a GPU, and that it gives the CPU's bits.

Random-weight terms of a 2 B and a 7 B language model's real shapes (Qwen2's, all layers; what an
engine merges by default, so no embedding and no head):

(a) bits: `combine` on the device and on the CPU, for every method and three checkpoint dtypes on
    a small tensor with zeros, equal and subnormal entries, and on the largest real tensor.
(b) time: `combine` over the whole model, for every method, against a device copy that moves the
    same bytes (CUDA events; least of several runs). The layers' tensors are distinct memory for
    `--pool` layers and used in turns beyond that: all layers are timed, none is extrapolated.
(c) streaming: the same from pinned host memory; one layer is timed, the model's time is that
    times its layers.
(d) fused kernels for weighted sums and TIES (`triton_kernels.py`) against eager torch: time, bits.

Needs torch, numpy and transformers (for shapes), triton for (d); of mergefront only
`mergefront.merging.methods`, straight from the source tree if it is not installed.

    python benchmarks/gpu_merge.py --json benchmarks/gpu_merge.json      (one GPU, minutes)
    python benchmarks/gpu_merge.py --device cpu --size tiny              (seconds, tries the script)
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

if importlib.util.find_spec("mergefront") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from random_terms import DONORS, SIZES, Pool, Small, layer_shapes, mix_of, row_of

from mergefront.merging.arithmetic import as_float32, combine
from mergefront.merging.method import Method, Mix
from mergefront.merging.methods import METHODS
from mergefront.merging.methods.thresholds import step

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
ELECTING = ("ties", "dare_ties", "della", "breadcrumbs_ties", "paper_ties", "paper_dare_ties")
GOALS = {"weighted sum": 1.5, "electing": 4.0}
CHUNKS = (1 << 20, 1 << 22, 1 << 24, 1 << 26)
Job = tuple[list[Tensor], Tensor]
"""A tensor's terms, and where the result goes."""

Kernel = Callable[[Sequence[Tensor], Tensor], None]
SWEPT = ("linear", "task_arithmetic", "ties", "sce")
"""Timed at several sizes of chunk, to choose `arithmetic.DEVICE_CHUNK` by."""


def differing(mix: Mix, terms: Sequence[Tensor], dtype: torch.dtype, device: str) -> int:
    """How many elements differ in any bit: the CPU's in one piece, the device's in other chunks."""
    outs = []
    for where, chunk in (("cpu", 1 << 30), (device, None), (device, 997)):
        if chunk == 997 and terms[0].numel() > 1 << 20:
            continue
        out = torch.empty(terms[0].shape, dtype=dtype, device=where)
        combine(mix, [term.to(where) for term in terms], dtype, out, chunk=chunk)
        outs.append(bits(out))
    return sum(int((other != outs[0]).sum()) for other in outs[1:])


def bits(tensor: Tensor) -> Tensor:
    return tensor.cpu().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def seconds(work: Callable[[], None], device: str, runs: int) -> float:
    """Least time of several runs after one that is not counted: CUDA events, or a CPU's clock."""
    work()
    spent = []
    for _ in range(runs):
        if device == "cpu":
            start = time.perf_counter()
            work()
            spent.append(time.perf_counter() - start)
            continue
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        spent.append(begin.elapsed_time(end) / 1e3)
    return min(spent)


def worst(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The largest ratio to the bound in each family that has a goal."""
    families = {
        "weighted sum": [row for row in rows if not row["join"]],
        "electing": [row for row in rows if row["method"] in ELECTING],
    }
    return {name: max(row["ratio"] for row in found) for name, found in families.items()}


def copy_rate(device: str, runs: int) -> float:
    """Bytes a second of a copy on the device, read and written ones counted."""
    size = 1 << (24 if device == "cpu" else 31)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: void(target.copy_(source)), device, runs)


def void(_: object) -> None:
    """So that an expression is a statement."""


def one_method(method: Method, pool: Pool, rate: float, runs: int) -> dict[str, Any]:
    """Bits and time of one method."""
    different = {}
    for dtype in DTYPES:
        small = Small.random((96, 160), dtype)
        mix = mix_of(method, small)
        terms = [method.prepare(term, small) for term in mix.terms]
        different[str(dtype).removeprefix("torch.")] = differing(mix, terms, dtype, pool.device)
    small = Small.random((96, 160), torch.bfloat16)
    mix = mix_of(method, small)
    kinds = {term: method.prepare(term, small).dtype for term in mix.terms}
    jobs = pool.jobs(kinds)
    largest = max(jobs, key=lambda job: job[1].numel())[0]
    different["largest"] = differing(mix, largest, torch.bfloat16, pool.device)

    def candidate(chunk: int | None = None) -> None:
        for terms, out in jobs:
            combine(mix, terms, out.dtype, out, chunk=chunk)

    moved = sum(tensor.nbytes for terms, out in jobs for tensor in (*terms, out))
    spent = seconds(candidate, pool.device, runs)
    chunks = CHUNKS if method.name in SWEPT else ()
    by_chunk = {chunk: seconds(partial(candidate, chunk), pool.device, 1) for chunk in chunks}
    row = {
        "method": method.name, "terms": len(mix.terms), "join": mix.join is not None,
        "differing": different, "bytes": moved, "s": spent, "ratio": spent * rate / moved,
        "by_chunk_s": by_chunk, "streamed_s": streamed(mix, jobs, pool, runs),
    }  # fmt: skip
    kernel = kernel_of(method, mix, small)
    return row | (fused(kernel, mix, jobs, pool, rate / moved, runs) if kernel else {})


def streamed(mix: Mix, jobs: Sequence[Job], pool: Pool, runs: int) -> float:
    """Seconds for the model with its terms in (pinned) host memory: one layer's, times layers."""
    pinned = [
        ([_pinned(term, pool.device) for term in terms], out)
        for terms, out in jobs[: len(pool.shapes)]
    ]

    def layer() -> None:
        for terms, out in pinned:
            combine(mix, [t.to(out.device, non_blocking=True) for t in terms], out.dtype, out)

    return seconds(layer, pool.device, runs) * pool.layers


def _pinned(term: Tensor, device: str) -> Tensor:
    return term if device == "cpu" else term.cpu().pin_memory()


def kernel_of(method: Method, mix: Mix, small: Small) -> Kernel | None:
    """The fused kernel of a mix: for weighted sums and TIES; none without triton, or for a copy."""
    if importlib.util.find_spec("triton") is None or len(mix.terms) < 2:
        return None
    from triton_kernels import MOST_TERMS, fused_sum, fused_ties

    if mix.join is None:
        fits = len(mix.terms) <= MOST_TERMS
        return (lambda terms, out: fused_sum(terms, mix.weights, out)) if fits else None
    if method.name != "ties":
        return None
    tables = method.measure(small, DONORS)
    row = row_of(method, small)
    factors = [as_float32(row[donor]) for donor in DONORS]
    strengths = [as_float32(factor / max(factors)) for factor in factors]
    least = [float(tables[donor][step(0.2)]) for donor in DONORS]  # its default density
    return lambda terms, out: fused_ties(terms, least, factors, strengths, out)


def fused(
    kernel: Kernel, mix: Mix, jobs: Sequence[Job], pool: Pool, per_s: float, runs: int
) -> dict[str, Any]:
    """Bits and time of a fused kernel."""
    terms, out = max(jobs, key=lambda job: job[1].numel())
    found: dict[str, Any] = {"fused_differing": 0}
    # Triton's interpreter truncates to 16-bit floats instead of rounding, on a CPU only
    for dtype in DTYPES if pool.device == "cuda" else (torch.float32,):
        eager, ours = (torch.zeros_like(out, dtype=dtype) for _ in range(2))
        combine(mix, terms, dtype, eager)
        kernel(terms, ours)
        found["fused_differing"] += int((bits(ours) != bits(eager)).sum())
    if pool.device == "cpu":
        return found  # interpreted: no time worth measuring

    def candidate() -> None:
        for terms, out in jobs:
            kernel(terms, out)

    spent = seconds(candidate, pool.device, runs)
    return found | {"fused_s": spent, "fused_ratio": spent * per_s}


def one_size(size: str, device: str, pool_layers: int, runs: int) -> dict[str, Any]:
    shapes, layers = layer_shapes(size)
    pool = Pool(device, shapes, layers, min(pool_layers, layers), {})
    rate = copy_rate(device, runs)
    values = layers * sum(shape.numel() for shape in shapes)
    print(f"\n{size}: {values / 1e9:.2f} G values, {layers} layers, copy {rate / 1e9:.0f} GB/s")
    print(f"  {'method':18s} {'differ':>6s} {'ms':>9s} {'/bytes':>6s} {'streamed':>9s} fused")
    rows = []
    for method in METHODS.values():
        row = one_method(method, pool, rate, runs)
        rows.append(row)
        print(
            f"  {row['method']:18s} {sum(row['differing'].values()):6d} {1e3 * row['s']:9.3f} "
            f"{row['ratio']:6.2f} {1e3 * row['streamed_s']:9.1f} {_fused_words(row)}",
            flush=True,
        )
    for family, ratio in worst(rows).items():
        print(f"  {family}: at most {ratio:.2f} times the bytes' own time, goal {GOALS[family]}")
    return {"size": size, "values": values, "copy_bytes_s": rate, "methods": rows}


def _fused_words(row: Mapping[str, Any]) -> str:
    if "fused_differing" not in row:
        return ""
    words = f"{row['fused_differing']} differ"
    return f"{words}, {row['fused_ratio']:.2f}" if "fused_ratio" in row else words


def machine(device: str) -> dict[str, Any]:
    triton = importlib.util.find_spec("triton") is not None
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": __import__("triton").__version__ if triton else None,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=SIZES, nargs="+", default=["2b", "7b"])
    parser.add_argument("--pool", type=int, default=4, help="layers with memory of their own")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "error: torch sees no CUDA device\nhint: --device cpu --size tiny\n")
    if given.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    about = machine(given.device)
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    torch.manual_seed(0)
    sizes = []
    for size in given.size:
        sizes.append(one_size(size, given.device, given.pool, given.runs))
        if given.device == "cuda":
            torch.cuda.empty_cache()
    rows = [row for found in sizes for row in found["methods"]]
    different = [row["method"] for row in rows if sum(row["differing"].values())]
    print(f"\nnot bit-identical: {', '.join(different) or 'none'}")
    if given.json:
        found = {"machine": about, "goals": GOALS, "electing": ELECTING, "sizes": sizes}
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    if different:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
