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
(d) a fused kernel for weighted sums (`triton_sum.py`) against eager torch: time and bits.

Needs torch, numpy and transformers (for shapes), triton for (d); of mergefront only
`mergefront.merging`, straight from the source tree if it is not installed.

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
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

if importlib.util.find_spec("mergefront") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch
from torch import Tensor

from mergefront.errors import ConfigError
from mergefront.merging import METHODS
from mergefront.merging.arithmetic import combine
from mergefront.merging.method import Method, Mix

T = TypeVar("T")
SIZES = {  # hidden, intermediate, layers, heads, key-value heads
    "tiny": (64, 160, 2, 4, 2),
    "2b": (1536, 8960, 28, 12, 2),
    "7b": (3584, 18944, 28, 28, 4),
}
DONORS = ("first", "second")
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
ROWS: tuple[Mapping[str, float], ...] = (
    {"first": 0.3, "second": 0.2},
    {"first": 0.3, "second": 0.0},  # methods of one donor
)
ELECTING = ("ties", "dare_ties", "della", "breadcrumbs_ties", "paper_ties", "paper_dare_ties")
GOALS = {"weighted sum": 1.5, "electing": 4.0}
CHUNKS = (1 << 20, 1 << 22, 1 << 24, 1 << 26)


@dataclass(frozen=True)
class Small:
    """A small tensor with its counterparts in all sources (see `merging.method.Slot`)."""

    tensors: Mapping[str, Tensor]
    name: str = "model.layers.20.mlp.up_proj.weight"
    layer: int | None = 20
    n_layers: int = 28
    part: Any = "mlp"
    fellows: tuple[str, ...] = ("model.layers.20.mlp.up_proj.weight",)

    @classmethod
    def random(cls, shape: tuple[int, ...], dtype: torch.dtype) -> Small:
        """Sources around a base; some entries are zero, equal in all, or subnormal in fp32."""
        generator = torch.Generator().manual_seed(0)

        def near(scale: float) -> Tensor:
            return torch.randn(shape, generator=generator) * scale

        base = near(0.05)
        named = {"base": base, "receiver": base + near(0.01)}
        for alias in DONORS:
            named |= {alias: base + near(0.01), f"base:{alias}": base}
        for tensor in named.values():
            flat = tensor.view(-1)
            flat[:100], flat[100:200] = 0.0, base.view(-1)[100:200]
            flat[200:300] = 1e-39 * torch.randn(100, generator=generator)
        return cls({name: tensor.to(dtype) for name, tensor in named.items()})

    def read(self, source: str, name: str | None = None) -> Tensor:
        return self.tensors[source]

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        return make()


def mix_of(method: Method, small: Small) -> Mix:
    """The mix of the first row that the method takes and that is not a mere copy."""
    rows = [{"first": 1e-3, "second": 1e-3}] if method.name == "nearswap" else ROWS
    problems = []
    for row in rows:
        try:
            method.check_row(row, DONORS, {})
            return method.mix(row, DONORS, {}, method.measure(small, DONORS, {}))
        except ConfigError as problem:
            problems.append(str(problem))
    raise SystemExit(f"method {method.name} takes none of the rows: {problems}")


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


def layer_shapes(size: str) -> tuple[list[torch.Size], int]:
    """The shapes of one layer's tensors in a Qwen2 language model, and how many layers it has."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    hidden, intermediate, layers, heads, groups = SIZES[size]
    config = Qwen2Config(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=1,
        num_attention_heads=heads, num_key_value_heads=groups, vocab_size=64,
    )  # fmt: skip
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    named = model.named_parameters()
    return [tensor.shape for name, tensor in named if ".layers.0." in name], layers


@dataclass(frozen=True)
class Pool:
    """Terms and outputs of some layers' tensors, made at need and used by all methods."""

    device: str
    shapes: Sequence[torch.Size]
    layers: int
    n_distinct: int
    held: dict[tuple[Hashable, ...], Tensor]

    def jobs(self, terms: Mapping[str, torch.dtype]) -> list[tuple[list[Tensor], Tensor]]:
        """For every tensor of the model: its terms, and where the result goes."""
        found = []
        for layer in range(self.layers):
            for place, shape in enumerate(self.shapes):
                at = (layer % self.n_distinct, place)
                tensors = [self._one((*at, t), shape, dtype) for t, dtype in self.kinds(terms)]
                found.append((tensors, self._one((*at, "out"), shape, torch.bfloat16)))
        return found

    @staticmethod
    def kinds(terms: Mapping[str, torch.dtype]) -> Iterator[tuple[Hashable, torch.dtype]]:
        """What may be shared between methods: terms of one dtype, counted."""
        seen: dict[torch.dtype, int] = {}
        for dtype in terms.values():
            seen[dtype] = seen.get(dtype, 0) + 1
            yield (dtype, seen[dtype]), dtype

    def _one(self, key: tuple[Hashable, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        if key not in self.held:
            if dtype.is_floating_point:
                made = torch.randn(shape, device=self.device).mul_(0.01).to(dtype)
            else:
                made = torch.randint(0, 1 << 15, shape, device=self.device, dtype=dtype)
            self.held[key] = made
        return self.held[key]


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
        terms = [method.prepare(term, small, {}) for term in mix.terms]
        different[str(dtype).removeprefix("torch.")] = differing(mix, terms, dtype, pool.device)
    small = Small.random((96, 160), torch.bfloat16)
    mix = mix_of(method, small)
    kinds = {term: method.prepare(term, small, {}).dtype for term in mix.terms}
    jobs = pool.jobs(kinds)
    largest = max(jobs, key=lambda job: job[1].numel())[0]
    different["largest"] = differing(mix, largest, torch.bfloat16, pool.device)

    def candidate(chunk: int | None = None) -> None:
        for terms, out in jobs:
            combine(mix, terms, out.dtype, out, chunk=chunk)

    moved = sum(tensor.nbytes for terms, out in jobs for tensor in (*terms, out))
    spent = seconds(candidate, pool.device, runs)
    by_chunk = {chunk: seconds(lambda c=chunk: candidate(c), pool.device, 1) for chunk in CHUNKS}
    row = {
        "method": method.name, "terms": len(mix.terms), "join": mix.join is not None,
        "differing": different, "bytes": moved, "s": spent, "ratio": spent * rate / moved,
        "by_chunk_s": by_chunk, "streamed_s": streamed(mix, jobs, pool, runs),
    }  # fmt: skip
    return row | (fused(mix, jobs, pool, rate / moved, runs) if mix.join is None else {})


def streamed(mix: Mix, jobs: Sequence[tuple[list[Tensor], Tensor]], pool: Pool, runs: int) -> float:
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


def fused(
    mix: Mix, jobs: Sequence[tuple[list[Tensor], Tensor]], pool: Pool, per_s: float, runs: int
) -> dict[str, Any]:
    """Bits and time of the fused kernel; nothing where triton is missing, or for a copy."""
    if importlib.util.find_spec("triton") is None or len(mix.terms) < 2:
        return {}
    from triton_sum import MOST_TERMS, fused_sum

    if len(mix.terms) > MOST_TERMS:
        return {}
    terms, out = max(jobs, key=lambda job: job[1].numel())
    found: dict[str, Any] = {"fused_differing": 0}
    # Triton's interpreter truncates to 16-bit floats instead of rounding, on a CPU only
    for dtype in DTYPES if pool.device == "cuda" else (torch.float32,):
        eager, ours = (torch.zeros_like(out, dtype=dtype) for _ in range(2))
        combine(mix, terms, dtype, eager)
        fused_sum(terms, mix.weights, ours)
        found["fused_differing"] += int((bits(ours) != bits(eager)).sum())
    if pool.device == "cpu":
        return found  # interpreted: no time worth measuring

    def candidate() -> None:
        for terms, out in jobs:
            fused_sum(terms, mix.weights, out)

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
