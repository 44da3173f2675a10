"""What a candidate costs: ours, today's pipeline, and what the encoder cache saves.

(a) Ours: an ordinary search on the zoo, its turnaround per candidate split into phases, and the
    share during which the engine waits (all but answering).
(b) Today's pipeline, for some of the same candidates, each right after ours: write the merged
    checkpoint, start vLLM on it in a new process, answer the same items. It is given what makes
    it fast: vLLM's own packed kernels, no compilation, the core in its process.
(c) The images of a whole validation set, asked by several candidates, with the encoder cache and
    without: passes of the vision tower per image, and seconds.

    python benchmarks/turnaround.py --json benchmarks/turnaround.json

Wall seconds depend on what else the machine does; ratios are paired, and CPU seconds are given.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergefront.search.loop import RunningSearch
    from mergefront.search.setup import PreparedSearch

PHASES = ("propose", "build", "reset", "generate", "score", "record", "rest")
GOAL_BLOCKED, GOAL_RATIO = 0.10, 8.0


@dataclass
class Spent:
    """Wall and CPU seconds, those of child processes included."""

    wall: float = 0.0
    cpu: float = 0.0


@contextmanager
def clocked() -> Iterator[Spent]:
    spent = Spent()
    wall, cpu = time.perf_counter(), _cpu()
    yield spent
    spent.wall, spent.cpu = time.perf_counter() - wall, _cpu() - cpu


def _cpu() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@dataclass
class Measured:
    """Everything that is printed."""

    phases: dict[str, list[float]] = field(default_factory=lambda: {p: [] for p in PHASES})
    ours: list[Spent] = field(default_factory=list)
    theirs: list[dict[str, float]] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)
    start: float = 0.0


def prepare(args: argparse.Namespace, folder: Path) -> PreparedSearch:
    """An ordinary search; nothing of it is kept."""
    from mergefront import files
    from mergefront.config import RunConfig
    from mergefront.search.setup import prepare_search
    from mergefront.yaml_file import read_mapping, validate

    data = read_mapping(files.find_yaml("configs", args.config))
    data.update(name="turnaround", export=None, tracking={"enabled": False})
    data["items"] = {"search": args.items, "validation": args.images, "test": 1}
    data["budget"] = {"candidates": args.warmup + args.candidates}
    data["search"] = {**data.get("search", {}), "warm_start": ["uniform"]}
    return prepare_search(validate(data, RunConfig, args.config), folder)


def measure_turnaround(
    prepared: PreparedSearch, args: argparse.Namespace, measured: Measured
) -> None:
    """(a) and (b): every candidate after the warm-up is ours; the first few also theirs."""
    from mergefront.search.loop import start_search

    with clocked() as spent:
        search = start_search(prepared)
    measured.start = spent.wall
    with search:
        _measure_candidates(search, args, measured)


def _measure_candidates(
    search: RunningSearch, args: argparse.Namespace, measured: Measured
) -> None:
    candidates, prepared = search.candidates(), search.setup
    for number in range(args.warmup + args.candidates):
        with clocked() as spent:
            evaluation = next(candidates)
        if number < args.warmup:
            continue
        measured.ours.append(spent)
        seconds = evaluation.seconds
        for phase in PHASES[:-1]:
            measured.phases[phase].append(getattr(seconds, phase))
        measured.phases["rest"].append(spent.wall - seconds.total)
        if len(measured.theirs) < args.theirs:
            times, texts = todays_pipeline(prepared, evaluation.point)
            mine = [r.text for r in prepared.run.read_with_costs(str(evaluation.number), "search")]
            same = sum(a == b for a, b in zip(mine, texts, strict=True))
            measured.theirs.append(times)
            measured.agreement.append(same / len(texts))
            print(f"candidate {evaluation.number}: {spent.wall:.2f} s ours, "
                  f"{times['wall']:.1f} s theirs", flush=True)  # fmt: skip


def todays_pipeline(
    search: PreparedSearch, point: tuple[float, ...]
) -> tuple[dict[str, float], list[str]]:
    """Write, start, answer, in a new process; returns its seconds and its answers."""
    from mergefront.merging import build
    from mergefront.tasks.scoring import score

    items = search.items.flat("search")
    asked = [(item.question, item.images, item.max_tokens) for item in items]
    with tempfile.TemporaryDirectory() as name:
        merged, questions = Path(name) / "merged", Path(name) / "items"
        said = Path(name) / "answers.json"
        questions.write_bytes(pickle.dumps(asked))
        merged.mkdir()
        with clocked() as spent:
            began = time.perf_counter()
            build.write(search.sources, search.recipe(point), merged)
            written = time.perf_counter() - began
            command = [sys.executable, __file__, "--answer", merged, questions, said]
            environment = os.environ | {
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "HF_HUB_OFFLINE": "1",
            }
            subprocess.run(command, env=environment, check=True, capture_output=True)
            reply = json.loads(said.read_text())
            began = time.perf_counter()
            for item, text in zip(items, reply["texts"], strict=True):
                score(item, _answer(text))
            scored = time.perf_counter() - began
    times = {"wall": spent.wall, "cpu": spent.cpu, "write": written, "score": scored}
    return times | reply["seconds"], reply["texts"]


def _answer(text: str) -> Any:
    from mergefront.records import Answer

    return Answer(text, 1, True)


def answer_as_today(folder: str, questions: str, out: str) -> None:
    """The child process of today's pipeline: nothing of mergefront is imported."""
    began = time.perf_counter()
    import io

    from PIL import Image
    from transformers import AutoProcessor
    from vllm import LLM, SamplingParams

    imported = time.perf_counter()
    llm = LLM(
        folder,
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=256,
        kv_cache_memory_bytes=1 << 30,
        limit_mm_per_prompt={"image": 1},
    )
    started = time.perf_counter()
    processor = AutoProcessor.from_pretrained(folder)
    asked = pickle.loads(Path(questions).read_bytes())
    prompts, sampling = [], []
    for question, images, max_tokens in asked:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        chat = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in images]
        prompts.append({"prompt": text, "multi_modal_data": {"image": pictures}})
        sampling.append(SamplingParams(temperature=0.0, max_tokens=max_tokens))
    outputs = llm.generate(
        prompts, sampling, use_tqdm=False, tokenization_kwargs={"add_special_tokens": False}
    )
    seconds = {
        "import": imported - began,
        "start": started - imported,
        "generate": time.perf_counter() - started,
    }
    texts = [output.outputs[0].text.strip() for output in outputs]
    Path(out).write_text(json.dumps({"seconds": seconds, "texts": texts}))


def measure_encoder_cache(search: PreparedSearch, gigabytes: float) -> dict[str, float]:
    """(c): three candidates ask every validation image; the first fills the caches."""
    from mergefront.engine import open_engine
    from mergefront.merging.plan import plan_of

    settings = search.config.engine.model_copy(update={"encoder_cache_gb": gigabytes})
    engine = open_engine(settings, search.sources.folders)
    items = search.items.flat("validation")
    images = {image for item in items for image in item.images}
    seconds = []
    try:
        for value in (0.2, 0.4, 0.6):
            recipe = search.recipe(search.space.uniform_point(value))
            engine.load(plan_of(recipe, search.sources))
            with clocked() as spent:
                engine.generate(items)
            seconds.append(spent.wall)
        passes = engine.tower_passes()
    finally:
        engine.close()
    return {
        "images": len(images),
        "passes_per_image": passes / len(images),
        "first_seconds": seconds[0],
        "later_seconds": statistics.mean(seconds[1:]),
    }


def summary(measured: Measured, cache: Mapping[str, Any]) -> dict[str, Any]:
    """All results as plain values."""
    phases = {phase: statistics.mean(values) for phase, values in measured.phases.items()}
    total = sum(phases.values())
    first = measured.ours[: len(measured.theirs)]
    ratios = [t["wall"] / o.wall for t, o in zip(measured.theirs, first, strict=True)]
    cpu_ratios = [t["cpu"] / o.cpu for t, o in zip(measured.theirs, first, strict=True)]
    theirs = {
        key: statistics.mean(times[key] for times in measured.theirs) for key in measured.theirs[0]
    }
    return {
        "engine_start_seconds": measured.start,
        "candidates": len(measured.ours),
        "seconds": phases | {"total": total, "cpu": statistics.mean(o.cpu for o in measured.ours)},
        "blocked_share": 1 - phases["generate"] / total,
        "today_seconds": theirs,
        "ratio": statistics.mean(ratios),
        "ratios": ratios,
        "ratio_cpu": statistics.mean(cpu_ratios),
        "answers_alike": statistics.mean(measured.agreement),
        "encoder_cache": dict(cache),
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform(),
                    "threads": os.environ.get("OMP_NUM_THREADS", "default")},
    }  # fmt: skip


def show(result: Mapping[str, Any]) -> None:
    seconds = result["seconds"]
    print(f"\n(a) ours: {result['candidates']} candidates, mean seconds each "
          f"(engine started once: {result['engine_start_seconds']:.1f} s)")  # fmt: skip
    for phase in (*PHASES, "total"):
        share = 100 * seconds[phase] / seconds["total"]
        print(f"    {phase:<10}{seconds[phase]:9.4f}  {share:5.1f} %")
    print(f"    engine blocked between candidates: {100 * result['blocked_share']:.1f} % "
          f"(goal: at most {100 * GOAL_BLOCKED:.0f} %)")  # fmt: skip
    today = result["today_seconds"]
    print("(b) today's pipeline, mean seconds each")
    for phase in ("write", "import", "start", "generate", "score", "wall"):
        print(f"    {phase:<10}{today[phase]:9.3f}")
    print(f"    ours is {result['ratio']:.1f} times faster (goal: {GOAL_RATIO:.0f}), "
          f"{result['ratio_cpu']:.1f} times in CPU seconds; "
          f"{100 * result['answers_alike']:.1f} % of the answers are alike")  # fmt: skip
    print("(c) passes of the vision tower per image, three candidates")
    for name, cache in result["encoder_cache"].items():
        print(f"    {name:<10}{cache['passes_per_image']:6.2f}  {cache['images']} images, "
              f"{cache['first_seconds']:.2f} s for the first candidate, "
              f"{cache['later_seconds']:.2f} s for the others")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", default="digits", help="shipped configuration, or a file")
    parser.add_argument("--candidates", type=int, default=10, help="measured candidates")
    parser.add_argument("--warmup", type=int, default=2, help="candidates before them")
    parser.add_argument("--theirs", type=int, default=3, help="candidates for today's pipeline")
    parser.add_argument("--items", type=int, default=400, help="search items per objective")
    parser.add_argument("--images", type=int, default=2000, help="validation items, for (c)")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--answer", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.answer:
        answer_as_today(*args.answer)
        return
    measured = Measured()
    with tempfile.TemporaryDirectory() as folder:
        with prepare(args, Path(folder)) as search:
            measure_turnaround(search, args, measured)
        default = search.config.engine.encoder_cache_gb
        cache = {"default": measure_encoder_cache(search, default),
                 "without": measure_encoder_cache(search, 0.0)}  # fmt: skip
    result = summary(measured, cache)
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
