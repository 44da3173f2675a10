"""What `mergefront inspect` shows, as data: how models pair, what differs, how their deltas look.

Streaming: tensors are read once, chunk by chunk, whatever the models' size. Not here: the tables
(`inspection.tables`), printing (`cli`), and the errors that stop a pairing altogether (`pairing`).

Reading order: `inspect`, `Inspection`.

An inspection as tables for a person: (title, columns, rows) each. Not here: printing (`cli`).
Norms of the donors' deltas and the cosines between them, group by group.

With a base, deltas are model minus base, the receiver's own among them; without one, donor minus
receiver. Sums are taken in fp64 over chunks, so memory does not grow with the models.

Reference: arXiv:2212.04089, figure 5 (cosines between task vectors).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import torch

from mergefront.config import VocabularyMode
from mergefront.errors import PairingError
from mergefront.models import lineage
from mergefront.models.lineage import FAR, Finding, Kinship
from mergefront.models.locate import DonorFolders, ModelFolders, locate_model
from mergefront.models.sources import Sources, align_vocabularies, check_heads
from mergefront.models.tower import text_config
from mergefront.models.vocabulary import Match
from mergefront.records import PARTS, Group, Part

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
class DonorReport:
    """How one donor pairs. `differences`: config field -> (receiver's value, donor's value).

    `adapted` is how many tensors its adapter changes, `vocabulary` its tokens beside the
    receiver's; None without an adapter, or without a tokenizer on both sides.
    """

    alias: str
    folder: str
    adapter: str | None
    adapted: int | None
    paired: int
    unpaired: tuple[str, ...]
    tied_head: bool
    dtypes: tuple[str, ...]
    differences: dict[str, tuple[Any, Any]]
    vocabulary: Match | None


@dataclass(frozen=True)
class Inspection:
    """Everything `mergefront inspect` prints.

    `anchor` says what the measured deltas are taken from; `vocabulary` is how embedding and head
    would merge and `rows` (rows of the receiver, those whose token all models have), None if a
    model has no tokenizer; `kinships` and `findings` are of the donors with a base.
    """

    receiver: str
    anchor: str
    n_layers: int
    tied_head: bool
    kinds: tuple[Kind, ...]
    donors: tuple[DonorReport, ...]
    measures: tuple[Measure, ...]
    vocabulary: VocabularyMode
    rows: tuple[int, int] | None
    kinships: tuple[Kinship, ...]
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for --json."""
        return asdict(self)


def inspect(
    receiver: str,
    donors: Sequence[str],
    base: str | None = None,
    vocabulary: VocabularyMode = "receiver",
) -> Inspection:
    """Inspect models by name: folders, hub ids or `zoo:<name>`; a donor also as MODEL+ADAPTER.

    Donors are called by the last part of their names. Without a base deltas are taken from the
    receiver.

    Raises:
        UserError: a model cannot be found or read, or a donor does not pair with the receiver.
    """
    folders = ModelFolders(
        receiver=str(locate_model(receiver)),
        base=None if base is None else str(locate_model(base)),
        donors=dict(zip(aliases(donors), map(_located, donors), strict=True)),
        vocabulary=vocabulary,
    )
    return inspect_sources(Sources.open(folders))


def inspect_sources(sources: Sources) -> Inspection:
    """Inspect opened models.

    Raises:
        CheckpointError: if a tensor holds NaN or infinity.
    """
    matches, rows = _tokens(sources)
    kinships = tuple(lineage.kinships(sources))
    return Inspection(
        receiver=str(sources.receiver.folder),
        anchor="receiver" if sources.folders.base is None else "base",
        n_layers=sources.anatomy.n_layers,
        tied_head=sources.anatomy.tied_head,
        kinds=_kinds(sources),
        donors=tuple(
            _donor(sources, alias, matches.get(sources.models[alias].label))
            for alias in sources.donors
        ),
        measures=measure(sources),
        vocabulary=sources.folders.vocabulary,
        rows=rows,
        kinships=kinships,
        findings=tuple(found for one in kinships for found in lineage.judge(one)),
    )


def _located(name: str) -> DonorFolders:
    """Find `MODEL+ADAPTER`, or a model, also one whose folder's name has a plus in it."""
    model, plus, adapter = name.partition("+")
    if not plus or Path(name).expanduser().is_dir():
        return DonorFolders(str(locate_model(name)))
    return DonorFolders(str(locate_model(model)), adapter=str(locate_model(adapter)))


def _tokens(sources: Sources) -> tuple[dict[str, Match], tuple[int, int] | None]:
    """Return the models' tokens beside the receiver's, and (rows, rows in all models)."""
    models = {one.label: one for one in sources.models.values()}
    receiver = models.pop("receiver")
    readable = [one for one in models.values() if one.vocabulary() is not None]
    if receiver.vocabulary() is None or not readable:
        return {}, None
    found = sources.vocabulary or align_vocabularies(receiver, readable)
    if len(readable) < len(models):
        return dict(found.matches), None
    return dict(found.matches), (len(found.common), int(found.common.sum()))


def aliases(donors: Sequence[str]) -> list[str]:
    """Make short, distinct names of models' names."""
    made: list[str] = []
    for donor in donors:
        own = donor.rpartition("+")[2].rstrip("/").partition("@")[0]
        last = re.split(r"[/:]", own)[-1]
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


def _donor(sources: Sources, alias: str, tokens: Match | None) -> DonorReport:
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
        adapter=None if model.adapter is None else str(model.adapter.folder),
        adapted=None if model.adapter is None else len(model.adapter.changed),
        paired=len(model.pairs),
        unpaired=tuple(n for n in sources.anatomy.language() if n not in model.pairs),
        tied_head=model.anatomy.tied_head,
        dtypes=tuple(sorted(used)),
        differences=differences,
        vocabulary=tokens,
    )


TableRows = tuple[str, list[str], list[list[str]]]
"""(title, columns, rows)."""


def tables(found: Inspection) -> list[TableRows]:
    """Return all tables of an inspection, in reading order."""
    made = [_kinds_table(found)]
    made += [_donor_table(donor) for donor in found.donors]
    if any(donor.vocabulary for donor in found.donors):
        made.append(_vocabulary_table(found))
    if found.kinships:
        made.append(_lineage_table(found))
    sources = list(dict.fromkeys(name for one in found.measures for name in one.norms))
    pairs = list(dict.fromkeys(pair for one in found.measures for pair in one.cosines))
    for name in sources:
        title = f"{name}: norm of its delta from the {found.anchor}, relative to the {found.anchor}"
        values = {m.group: m.relative.get(name) for m in found.measures}
        made.append(_depth_table(found, title, values))
    for pair in pairs:
        values = {m.group: m.cosines.get(pair) for m in found.measures}
        made.append(_depth_table(found, f"{pair}: cosine of their deltas", values))
    return made


def _kinds_table(found: Inspection) -> TableRows:
    head = "tied to the embedding" if found.tied_head else "of its own"
    rows = [
        [kind.tower, kind.part, str(kind.tensors), f"{kind.parameters:,}", kind.fate]
        for kind in found.kinds
    ]
    return (
        f"receiver {found.receiver}: {found.n_layers} language layers, head {head}",
        ["tower", "part", "tensors", "parameters", "what becomes of them"],
        rows,
    )


def _donor_table(donor: DonorReport) -> TableRows:
    rows = [
        ["tensors paired", str(donor.paired)],
        ["tensors without counterpart", ", ".join(donor.unpaired) or "none"],
        ["head", "tied to the embedding" if donor.tied_head else "of its own"],
        ["dtype", ", ".join(donor.dtypes)],
    ]
    if donor.adapter is not None:
        rows.insert(0, ["adapter", f"{donor.adapter}: changes {donor.adapted} tensors"])
    if donor.vocabulary is None:
        rows.append(["tokenizer", "not compared: none on both sides"])
    rows += [
        [f"config {key}", f"{theirs!r:.60} (receiver: {mine!r:.60})"]
        for key, (mine, theirs) in donor.differences.items()
    ]
    return f"donor {donor.alias}: {donor.folder}", ["what", "found"], rows


def _vocabulary_table(found: Inspection) -> TableRows:
    """Rows of embedding and head by token; examples of the receiver's tokens that are missing."""
    rows = [
        [
            donor.alias,
            str(donor.vocabulary.tokens),
            str(donor.vocabulary.rows),
            str(donor.vocabulary.matched),
            str(donor.vocabulary.moved),
            " ".join(donor.vocabulary.unmatched) or "none",
        ]
        for donor in found.donors
        if donor.vocabulary is not None
    ]
    title = "vocabulary"
    if found.rows is not None:
        title += (
            f": {found.rows[1]} of the receiver's {found.rows[0]} rows are a token of all models"
        )
    if found.vocabulary == "receiver":
        title += "; rows merge as they stand unless `vocabulary: by_token`"
    columns = ["donor", "tokens", "rows", "the receiver's", "under another id", "missing, e.g."]
    return title, columns, rows


def _lineage_table(found: Inspection) -> TableRows:
    """How far each donor lies from its base, and what of that fine-tuning does not explain."""
    rows = []
    for one in found.kinships:
        remarks = [f.message for f in found.findings if f.donor == one.donor]
        rows.append([
            one.donor,
            one.base,
            *(_number(one.relative[part]) for part in one.relative),
            _number(min(one.cosine.values())),
            _number(one.shared),
            "; ".join(remarks) or "as fine-tuning does",
        ])  # fmt: skip
    title = f"lineage, from samples: norms relative to the base (fine-tuning stays below {FAR:g})"
    parts = list(found.kinships[0].relative)
    columns = ["donor", "base", *parts, "cosine of weights", "with receiver's delta", "verdict"]
    return title, columns, rows


def _depth_table(found: Inspection, title: str, values: Mapping[str, float | None]) -> TableRows:
    """One row a layer and one column a part; the groups without a layer at the end."""
    parts = [part for part in PARTS if f"0.{part}" in values]
    rows = [
        [str(layer), *(_number(values.get(f"{layer}.{part}")) for part in parts)]
        for layer in range(found.n_layers)
    ]
    if values.get("final.norm") is not None:
        final = (_number(values["final.norm"]) if part == "norm" else "" for part in parts)
        rows.append(["final norm", *final])
    for group in ("embedding", "head"):
        if values.get(group) is not None:
            rows.append([group, *[""] * len(parts), _number(values[group])])
    columns = ["layer", *parts, "itself"][: max(len(row) for row in rows)]
    return title, columns, [row + [""] * (len(columns) - len(row)) for row in rows]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


CHUNK: Final = 1 << 22


@dataclass(frozen=True)
class Measure:
    """One group: source -> norm of its delta, norm relative to the anchor's; pair -> cosine.

    Pairs are named "a, b". A cosine with a zero delta is None, as is a norm relative to zero.
    """

    group: str
    layer: int | None
    part: Part
    norms: dict[str, float]
    relative: dict[str, float | None]
    cosines: dict[str, float | None]


def measure(sources: Sources) -> tuple[Measure, ...]:
    """Measure every group of the receiver in which at least one delta exists."""
    anchor = "receiver" if sources.folders.base is None else "base"
    names = sources.donors if anchor == "receiver" else ("receiver", *sources.donors)
    found = []
    for group in sources.groups:
        there = [
            name
            for name in names
            if all(_has(sources, one, tensor) for one in (name, anchor) for tensor in group.tensors)
        ]
        if there:
            found.append(_measure_group(sources, group, anchor, there))
    return tuple(found)


def _has(sources: Sources, source: str, tensor: str) -> bool:
    return tensor in sources.models[source].pairs


def _measure_group(sources: Sources, group: Group, anchor: str, names: Sequence[str]) -> Measure:
    """Accumulate the Gram matrix of the deltas, and the anchor's square, over all chunks."""
    n = len(names)
    gram = torch.zeros(n, n, dtype=torch.float64)
    square = 0.0
    for tensor in group.tensors:
        start = sources.tensor(anchor, tensor).reshape(-1)
        others = [sources.tensor(name, tensor).reshape(-1) for name in names]
        for first in range(0, start.numel(), CHUNK):
            origin = start[first : first + CHUNK].double()
            deltas = torch.stack([one[first : first + CHUNK].double() - origin for one in others])
            gram += deltas @ deltas.T
            square += float(origin @ origin)
    norms = [math.sqrt(float(gram[i, i])) for i in range(n)]
    anchor_norm = math.sqrt(square)
    cosines: dict[str, float | None] = {}
    for i, j in combinations(range(n), 2):
        both = norms[i] * norms[j]
        cosines[f"{names[i]}, {names[j]}"] = float(gram[i, j]) / both if both > 0 else None
    return Measure(
        group=group.name,
        layer=group.layer,
        part=group.part,
        norms=dict(zip(names, norms, strict=True)),
        relative={
            name: norm / anchor_norm if anchor_norm > 0 else None
            for name, norm in zip(names, norms, strict=True)
        },
        cosines=cosines,
    )
