"""What `mergefront inspect` shows, as data: how models pair, what differs, how their deltas look.

Streaming: tensors are read once, chunk by chunk, whatever the models' size. Not here: printing
(`cli`), and the errors that stop a pairing altogether (`anatomy`).

Reading order: `inspect`, `Inspection`, `measure`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from mergefront.checkpoint import Checkpoint, locate
from mergefront.deltas import Measure, measure
from mergefront.errors import PairingError
from mergefront.merging.sources import DonorRef, ModelRefs, Sources, check_heads
from mergefront.records import PARTS
from mergefront.tower import text_config

TableRows = tuple[str, list[str], list[list[str]]]
"""(title, columns, rows)."""

_BOOKKEEPING: Final = frozenset(
    {"_name_or_path", "architectures", "transformers_version", "model_type", "use_cache"}
)


@dataclass(frozen=True)
class Kind:
    """Tensors of one tower and part of the receiver, and what becomes of them."""

    tower: str
    part: str
    tensors: int
    parameters: int
    fate: str


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id: `moved` have another id in the donor; None if a tokenizer is not readable."""

    receiver: int
    donor: int
    shared: int
    moved: int


@dataclass(frozen=True)
class DonorReport:
    """How one donor pairs. `differences`: config field -> (receiver's value, donor's value)."""

    alias: str
    folder: str
    paired: int
    unpaired: tuple[str, ...]
    tied_head: bool
    dtypes: tuple[str, ...]
    differences: dict[str, tuple[Any, Any]]
    vocabulary: Vocabulary | None


@dataclass(frozen=True)
class Inspection:
    """Everything `mergefront inspect` prints. `anchor` says what deltas are taken from."""

    receiver: str
    anchor: str
    n_layers: int
    tied_head: bool
    kinds: tuple[Kind, ...]
    donors: tuple[DonorReport, ...]
    measures: tuple[Measure, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for --json."""
        return asdict(self)

    def tables(self) -> list[TableRows]:
        """Return what a person reads: (title, columns, rows) each."""
        made = [self._kinds_table()]
        made += [_donor_table(donor) for donor in self.donors]
        sources = list(dict.fromkeys(name for one in self.measures for name in one.norms))
        pairs = list(dict.fromkeys(pair for one in self.measures for pair in one.cosines))
        for name in sources:
            title = (
                f"{name}: norm of its delta from the {self.anchor}, relative to the {self.anchor}"
            )
            made.append(
                self._depth_table(title, {m.group: m.relative.get(name) for m in self.measures})
            )
        for pair in pairs:
            title = f"{pair}: cosine of their deltas"
            made.append(
                self._depth_table(title, {m.group: m.cosines.get(pair) for m in self.measures})
            )
        return made

    def _kinds_table(self) -> TableRows:
        head = "tied to the embedding" if self.tied_head else "of its own"
        rows = [
            [kind.tower, kind.part, str(kind.tensors), f"{kind.parameters:,}", kind.fate]
            for kind in self.kinds
        ]
        return (
            f"receiver {self.receiver}: {self.n_layers} language layers, head {head}",
            ["tower", "part", "tensors", "parameters", "what becomes of them"],
            rows,
        )

    def _depth_table(self, title: str, values: Mapping[str, float | None]) -> TableRows:
        """One row a layer and one column a part; the groups without a layer at the end."""
        parts = [part for part in PARTS if f"0.{part}" in values]
        rows = [
            [str(layer), *(_number(values.get(f"{layer}.{part}")) for part in parts)]
            for layer in range(self.n_layers)
        ]
        if values.get("final.norm") is not None:
            final = (_number(values["final.norm"]) if part == "norm" else "" for part in parts)
            rows.append(["final norm", *final])
        for group in ("embedding", "head"):
            if values.get(group) is not None:
                rows.append([group, *[""] * len(parts), _number(values[group])])
        columns = ["layer", *parts, "itself"][: max(len(row) for row in rows)]
        return title, columns, [row + [""] * (len(columns) - len(row)) for row in rows]


def inspect(receiver: str, donors: Sequence[str], base: str | None = None) -> Inspection:
    """Inspect models by name: folders, hub ids or `zoo:<name>`.

    Donors are called by the last part of their names. Without a base deltas are taken from the
    receiver.

    Raises:
        UserError: a model cannot be found or read, or a donor does not pair with the receiver.
    """
    refs = ModelRefs(
        receiver=str(locate(receiver)),
        base=None if base is None else str(locate(base)),
        donors={
            alias: DonorRef(str(locate(donor)))
            for alias, donor in zip(aliases(donors), donors, strict=True)
        },
    )
    return inspect_sources(Sources.open(refs))


def inspect_sources(sources: Sources) -> Inspection:
    """Inspect opened models.

    Raises:
        CheckpointError: if a tensor holds NaN or infinity.
    """
    return Inspection(
        receiver=str(sources.receiver.folder),
        anchor="receiver" if sources.refs.base is None else "base",
        n_layers=sources.anatomy.n_layers,
        tied_head=sources.anatomy.tied_head,
        kinds=_kinds(sources),
        donors=tuple(_donor(sources, alias) for alias in sources.donors),
        measures=measure(sources),
    )


def aliases(donors: Sequence[str]) -> list[str]:
    """Make short, distinct names of models' names."""
    made: list[str] = []
    for donor in donors:
        last = re.split(r"[/:]", donor.rstrip("/").partition("@")[0])[-1]
        short = re.sub(r"\W", "_", last) or "donor"
        alias, number = short, 2
        while alias in made or alias in ("receiver", "base"):
            alias, number = f"{short}_{number}", number + 1
        made.append(alias)
    return made


def _kinds(sources: Sources) -> tuple[Kind, ...]:
    counts: dict[tuple[str, str], list[int]] = {}
    for name, place in sources.anatomy.places.items():
        entry = counts.setdefault((place.tower, place.part), [0, 0])
        entry[0] += 1
        entry[1] += math.prod(sources.receiver.headers[name].shape)
    kinds = [
        Kind(tower, part, tensors, parameters, _fate(sources, tower, part))
        for (tower, part), (tensors, parameters) in counts.items()
    ]
    return tuple(sorted(kinds, key=lambda kind: (kind.tower != "language", kind.tower, kind.part)))


def _fate(sources: Sources, tower: str, part: str) -> str:
    if tower != "language" or part == "other":
        return "copied"
    try:
        check_heads(sources, {part})
    except PairingError:
        return "must be frozen: another vocabulary or another head"
    return "merges"


def _donor(sources: Sources, alias: str) -> DonorReport:
    model = sources.models[alias]
    mine, theirs = text_config(sources.receiver.config), text_config(model.checkpoint.config)
    differences = {
        key: (mine[key], theirs[key])
        for key in sorted(set(mine) & set(theirs) - _BOOKKEEPING)
        if mine[key] != theirs[key]
    }
    used = {model.checkpoint.headers[name].dtype for name in model.pairs.values()}
    return DonorReport(
        alias=alias,
        folder=str(model.checkpoint.folder),
        paired=len(model.pairs),
        unpaired=tuple(n for n in sources.anatomy.language() if n not in model.pairs),
        tied_head=model.anatomy.tied_head,
        dtypes=tuple(sorted(used)),
        differences=differences,
        vocabulary=_compare_vocabularies(sources.receiver, model.checkpoint),
    )


def _compare_vocabularies(receiver: Checkpoint, donor: Checkpoint) -> Vocabulary | None:
    mine, theirs = _tokens(receiver.folder), _tokens(donor.folder)
    if mine is None or theirs is None:
        return None
    shared = set(mine) & set(theirs)
    moved = sum(mine[token] != theirs[token] for token in shared)
    return Vocabulary(len(mine), len(theirs), len(shared), moved)


def _tokens(folder: Path) -> dict[str, int] | None:
    """Return token -> id from tokenizer.json, or None if there is none that can be read."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = content.get("model", {}).get("vocab")
    if isinstance(vocabulary, list):
        vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
    if not isinstance(vocabulary, dict):
        return None
    added = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
    return vocabulary | added


def _donor_table(donor: DonorReport) -> TableRows:
    rows = [
        ["tensors paired", str(donor.paired)],
        ["tensors without counterpart", ", ".join(donor.unpaired) or "none"],
        ["head", "tied to the embedding" if donor.tied_head else "of its own"],
        ["dtype", ", ".join(donor.dtypes)],
    ]
    words = donor.vocabulary
    rows.append(
        ["tokenizer", "not compared: no tokenizer.json on both sides"]
        if words is None
        else [
            "tokenizer",
            f"{words.donor} tokens, {words.shared} of the receiver's {words.receiver}; "
            f"{words.moved} of them under another id",
        ]
    )
    rows += [
        [f"config {key}", f"{theirs!r:.60} (receiver: {mine!r:.60})"]
        for key, (mine, theirs) in donor.differences.items()
    ]
    return f"donor {donor.alias}: {donor.folder}", ["what", "found"], rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
