"""Print hashes of what a run proposed, scored, reported and exported, to compare two runs.

    python scripts/fingerprint.py runs/digits

Two runs of one configuration, seed and machine print the same lines, whatever version of mergefront
made them: times, seconds and texts for people (the model card, the run's own YAML) are left out.
A change that should alter nothing is checked by a run before and a run after it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pyarrow.parquet as pq
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

TEXTS_FOR_PEOPLE = ("README.md", "run.yaml")
"""Files of an export that may change without the model changing."""


def plain_hash(value: Any) -> str:
    """Return 16 hex digits of the SHA-256 of a value's JSON."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_times(value: Any) -> Any:
    """Return nested plain values without what depends on the clock."""
    if isinstance(value, dict):
        clock = ("seconds", "elapsed", "time", "run", "hours")
        return {
            key: without_times(item)
            for key, item in value.items()
            if not any(word in key for word in clock)
        }
    return [without_times(item) for item in value] if isinstance(value, list) else value


def fingerprint(run: Path) -> Iterator[tuple[str, str]]:
    """Yield (what, hash or number) of a finished run's directory."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(run / "study.journal")))
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    yield "candidates", str(len(trials))
    yield "proposals", plain_hash([[trial.number, trial.params] for trial in trials])
    yield "scores", plain_hash([[trial.number, trial.values] for trial in trials])
    results = [without_times(trial.user_attrs) for trial in trials]
    yield "recorded results", plain_hash(results)
    files = sorted((run / "items").glob("*.parquet"))
    answers = [[file.name, pq.read_table(file).to_pydict()] for file in files]
    yield f"answers of {len(files)} models", plain_hash(answers)
    yield "front.json", plain_hash(without_times(json.loads((run / "front.json").read_text())))
    for file in sorted((run / "best").glob("*")):
        if file.name not in TEXTS_FOR_PEOPLE:
            yield f"best/{file.name}", hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def main() -> None:
    """Print the fingerprint of the named run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="a run directory with a finished search")
    for what, value in fingerprint(parser.parse_args().run):
        print(f"{value:16}  {what}")


if __name__ == "__main__":
    main()
