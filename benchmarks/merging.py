"""What a merge costs: a candidate in memory, and the whole `merge` command, against mergekit.

Random-weight language models of one real shape are written once (bf16, a base and three that
differ from it). Measured in CPU seconds, single-threaded, runs of the contestants taking turns:

(a) combine: a candidate built from terms held in memory, all tensors, for every method; as a
    ratio to a plain torch read-modify-write over the same bytes (the memory bound).
(b) process: `mergefront merge` and `mergekit-yaml` from start to end on the same three models,
    whose deltas are taken from the receiver; CPU seconds, wall seconds, and peak memory, all of
    it and without what is mapped from files. Ours hashes every source for its provenance, the
    first time; "again" is with those hashes remembered. In the last row deltas come from a fourth
    model, as in a search. Where the two mean the same merge, the results' largest difference is
    given.
(c) `mergefront --help`, and what importing each costs.

    python benchmarks/merging.py --json benchmarks/merging.json            (0.7 B, about 15 minutes)
    python benchmarks/merging.py --size small                              (60 M, about 3 minutes)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import yaml
from process_cost import run
from random_models import DONORS, SHAPES, make_models

from mergefront.config import Donor
from mergefront.merging.arithmetic import CPU_CHUNK, combine
from mergefront.merging.method import Mix
from mergefront.merging.methods import METHODS, method_of
from mergefront.merging.recipe import Recipe
from mergefront.merging.slots import SourceSlot
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.locate import ModelNames, locate_models
from mergefront.models.sources import Sources

PEERS: Mapping[str, Mapping[str, Any]] = {
    "linear": {"merge_method": "linear"},
    "task_arithmetic": {"merge_method": "task_arithmetic"},
    "ties": {"merge_method": "ties", "density": 0.5},
    "dare_ties": {"merge_method": "dare_ties", "density": 0.5},
    "task_arithmetic, own base": {"merge_method": "task_arithmetic"},
}
SAME = ("linear", "task_arithmetic", "task_arithmetic, own base")
"""Rows in which both mean the same merge."""

PARAMETERS = {
    "ties": {"density": 0.5},
    "dare_ties": {"density": 0.5},
    "sce": {"density": 0.5},
}
Job = tuple[Mix, list[torch.Tensor], torch.Tensor]
"""A mix, its terms, and where the result goes."""

GOALS = {"combine": 2.0, "in_memory": 30.0, "linear": 2.0, "ties": 5.0}


def recipe_for(models: Mapping[str, Path], method: str, base: str | None = "base") -> Recipe:
    """Both donors at 0.3 everywhere, or what the method takes; `base` is one of the models."""
    named = ModelNames(
        receiver=str(models["receiver"]),
        base=None if base is None else str(models[base]),
        donors={name: Donor(model=str(models[name])) for name in DONORS},
    )
    everything = dict.fromkeys(("*", "embedding", "head"), 0.3)  # as mergekit merges
    table = {"first": everything, "second": everything}
    if method in ("slerp", "nuslerp"):
        table.pop("second")
    if method == "nearswap":
        table = dict.fromkeys(DONORS, dict.fromkeys(everything, 1e-3))
    if method == "layer_swap":
        table = {"first": dict.fromkeys(everything, 1.0)}
    return Recipe(method, named, table, PARAMETERS.get(method, {}))


def cpu_of(work: Callable[[], None], runs: int) -> float:
    """Least CPU seconds of several runs in this process, after one that is not counted."""
    work()
    spent = []
    for _ in range(runs):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return min(spent)


def combine_costs(models: Mapping[str, Path], runs: int, n_tensors: int) -> list[dict[str, Any]]:
    """CPU seconds of building a candidate from held terms, by method, over the first tensors."""
    torch.set_num_threads(1)
    rows = []
    for name in METHODS:
        if name in ("low_rank", "tsv", "isotropic"):
            continue  # the same weighted sums as task arithmetic, after an hour of preparation
        recipe = recipe_for(models, name)
        method = method_of(name, recipe.parameters)
        sources = Sources.open(locate_models(recipe.models))
        tensors = [n for g in sources.groups if g.layer is not None for n in g.tensors][:n_tensors]
        jobs: list[Job] = []
        for tensor in tensors:
            slot = SourceSlot(sources, tensor)
            row = {source: one["*"] for source, one in recipe.table.items()}
            mix = method.mix(row, DONORS, method.measure(slot, DONORS))
            terms = [method.prepare(term, slot).clone() for term in mix.terms]
            jobs.append((mix, terms, torch.empty_like(slot.read("receiver"))))

        spent = cpu_of(partial(_combine_all, jobs), runs)
        least = cpu_of(partial(_read_modify_write_all, jobs), runs)
        moved = sum(t.numel() * t.element_size() for _, terms, out in jobs for t in (*terms, out))
        values = sum(out.numel() for _, _, out in jobs)
        rows.append({
            "method": name, "cpu_s": spent, "bound_cpu_s": least, "ratio": spent / least,
            "bytes": moved, "values": values, "ns_per_value": 1e9 * spent / values,
        })  # fmt: skip
        print(f"  {name:18s} {spent:8.3f} CPU-s   bound {least:7.3f}   ratio {spent / least:5.2f}")
        jobs.clear()
    return rows


def _combine_all(jobs: Sequence[Job]) -> None:
    for mix, terms, out in jobs:
        combine(mix, terms, out.dtype, out)


def _read_modify_write_all(jobs: Sequence[Job]) -> None:
    for _, terms, out in jobs:
        _read_modify_write(terms, out)


def _read_modify_write(terms: list[torch.Tensor], out: torch.Tensor) -> None:
    """Touch the same bytes with the plainest torch there is: add all terms up in fp32, chunked."""
    flat_out, flat = out.view(-1), [term.view(-1) for term in terms]
    for start in range(0, flat_out.numel(), CPU_CHUNK):
        total = flat[0][start : start + CPU_CHUNK].float()
        for term in flat[1:]:
            total += term[start : start + CPU_CHUNK]
        flat_out[start : start + CPU_CHUNK] = total


def process_costs(models: Mapping[str, Path], root: Path, runs: int) -> list[dict[str, Any]]:
    """The whole command, ours and mergekit's in turns."""
    rows = []
    for case, peer in PEERS.items():
        method = str(peer["merge_method"])
        base = "base" if case.endswith("own base") else None if method == "linear" else "receiver"
        ours_file, theirs_file = root / "recipe.json", root / "peer.yaml"
        ours_file.write_text(recipe_for(models, method, base).to_json())
        theirs_file.write_text(yaml.safe_dump(_peer_config(models, dict(peer), base)))
        commands = {
            "mergefront": ["mergefront", "merge", str(ours_file), "--out"],
            "mergefront again": ["mergefront", "merge", str(ours_file), "--out"],
            "mergekit": ["mergekit-yaml", "--quiet", str(theirs_file)],
        }
        spent: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
        for _ in range(runs):
            shutil.rmtree(root / "cache", ignore_errors=True)
            for name, command in commands.items():
                out = root / f"out-{name}"
                shutil.rmtree(out, ignore_errors=True)
                program = Path(sys.executable).parent / command[0]
                spent[name].append(run([str(program), *command[1:], str(out)], root / "cache"))
        differ = _largest_difference(root / "out-mergefront", root / "out-mergekit")
        best = {
            name: {key: min(one[key] for one in found) for key in found[0]}
            for name, found in spent.items()
        }
        ratio, again = (
            best["mergekit"]["cpu_s"] / best[name]["cpu_s"]
            for name in ("mergefront", "mergefront again")
        )
        rows.append({"method": case, **best, "ratio": ratio, "ratio_again": again, "runs": runs})
        if case in SAME:
            rows[-1]["largest_difference"] = differ
        print(f"  {case:26s} ratio {ratio:.2f}, again {again:.2f}  {rows[-1]}", flush=True)
    for name in commands:
        shutil.rmtree(root / f"out-{name}")
    return rows


def _largest_difference(ours: Path, theirs: Path) -> float:
    """The largest difference of any element of two checkpoints with the same tensors."""
    one, other = Checkpoint.open(ours), Checkpoint.open(theirs)
    assert one.headers.keys() == other.headers.keys()
    return max(
        float((one.tensor(name).float() - other.tensor(name).float()).abs().max())
        for name in one.headers
    )


def _peer_config(
    models: Mapping[str, Path], peer: dict[str, Any], base: str | None
) -> dict[str, Any]:
    """mergekit's file: deltas are taken from its base model, and added to it."""
    density = peer.pop("density", None)
    extra = {} if density is None else {"density": density}
    donors = [
        {"model": str(models[name]), "parameters": {"weight": 0.3, **extra}} for name in DONORS
    ]
    receiver = {"model": str(models["receiver"])}
    if base is None:
        donors.insert(0, receiver | {"parameters": {"weight": 0.4}})
    else:
        peer["base_model"] = str(models[base])
    if base == "base":
        donors.insert(0, receiver | {"parameters": {"weight": 1.0}})
    if peer["merge_method"] == "task_arithmetic":
        peer["parameters"] = {"normalize": False}
    return {**peer, "models": donors, "dtype": "bfloat16"}


def start_costs(runs: int) -> dict[str, float]:
    """CPU seconds of `--help`, and of importing what a merge needs."""
    here = Path(sys.executable).parent
    commands = {
        "mergefront --help": [str(here / "mergefront"), "--help"],
        "mergekit-yaml --help": [str(here / "mergekit-yaml"), "--help"],
        "import torch, safetensors": [sys.executable, "-c", "import torch, safetensors"],
    }
    return {
        name: min(run(command)["cpu_s"] for _ in range(runs)) for name, command in commands.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", choices=SHAPES, default="0.7b")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--folder", type=Path, help="where the models go (default: temporary)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        models = make_models(Path(folder), given.size)
        size = sum(file.stat().st_size for file in models["base"].glob("*.safetensors"))
        print(f"{given.size}: {size / 1e9:.2f} GB a model, {platform.processor() or 'cpu'}")
        print("start")
        start = start_costs(given.runs)
        for name, seconds in start.items():
            print(f"  {name:28s} {seconds:6.2f} CPU-s")
        print("whole process")
        processes = process_costs(models, Path(folder), given.runs)
        print("combine, per candidate")
        combines = combine_costs(models, given.runs, 60)
    whole = {row["method"]: row["mergekit"]["cpu_s"] for row in processes}
    found = {
        "machine": {"system": f"{platform.system()} {platform.machine()}", "cpus": os.cpu_count()},
        "date": time.strftime("%Y-%m-%d"), "size": given.size, "bytes": size,
        "start": start, "process": processes, "combine": combines, "goals": GOALS,
        "candidate_against_process": _against(combines, whole, size),
    }  # fmt: skip
    print(json.dumps(found["candidate_against_process"], indent=1))
    print(f"median ratio to the bound: {statistics.median(r['ratio'] for r in combines):.2f}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


def _against(
    combines: list[dict[str, Any]], whole: Mapping[str, float], size: int
) -> dict[str, float]:
    """mergekit's whole process against a candidate of ours over the whole model."""
    return {
        row["method"]: whole[row["method"]] / (row["cpu_s"] * (size / 2) / row["values"])
        for row in combines
        if row["method"] in whole
    }


if __name__ == "__main__":
    main()
