"""`mergefront inspect`: how models pair, what differs, and how their deltas look.

With a base, a delta is a model minus the base, and the receiver has one, too; without a base, it is
a donor minus the receiver. Norms and cosines are summed in fp64 over chunks of each tensor, so that
memory does not grow with the models. Not here: the errors that stop a pairing (`models.pairing`)
and what samples say about a donor's base (`models.lineage`).

Reading order: `inspect`, `Inspection`, `measure_deltas`, `tables`.

Reference: arXiv:2212.04089, figure 5 (cosines between task vectors).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import torch

from mergefront.config import VocabularyMode
from mergefront.errors import PairingError
from mergefront.models import lineage
from mergefront.models.lineage import FAR, Kinship, LineageFinding
from mergefront.models.locate import DonorFolders, ModelFolders, locate_model
from mergefront.models.sources import Sources, align_vocabularies, check_heads
from mergefront.models.tower import text_config
from mergefront.models.vocabulary import TokenMatch
from mergefront.records import PARTS, Group, Part, TextTable

CHUNK: Final = 1 << 22
"""Values of each tensor that are in memory in fp64 at a time."""
_BOOKKEEPING: Final = frozenset(
    {"_name_or_path", "architectures", "transformers_version", "model_type", "use_cache"}
)
"""Config fields that say nothing about the weights."""


@dataclass(frozen=True)
class TensorKind:
    """Tensors of one tower and part of the receiver; `fate` says what a merge does with them."""

    tower: str
    part: str
    tensors: int
    parameters: int
    fate: str


@dataclass(frozen=True)
class DonorReport:
    """How one donor pairs with the receiver.

    `paired` tensors have a counterpart in the donor, `unpaired` are the receiver's names of those
    that have none. `adapted` is how many tensors the donor's adapter changes, None without an
    adapter. `differences` maps a config field to (receiver's value, donor's value). `vocabulary`
    compares the tokens, None if the receiver or the donor has no tokenizer.
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
    vocabulary: TokenMatch | None


@dataclass(frozen=True)
class Inspection:
    """Everything `mergefront inspect` prints.

    `anchor` names what deltas are taken from: "base" or "receiver". `vocabulary` says how embedding
    and head would merge. `rows` is (the receiver's rows, rows whose token all models have), None if
    a model has no tokenizer. `kinships` and `findings` are about the donors that have a base.
    """

    receiver: str
    anchor: str
    n_layers: int
    tied_head: bool
    kinds: tuple[TensorKind, ...]
    donors: tuple[DonorReport, ...]
    measures: tuple[DeltaMeasure, ...]
    vocabulary: VocabularyMode
    rows: tuple[int, int] | None
    kinships: tuple[Kinship, ...]
    findings: tuple[LineageFinding, ...]


@dataclass(frozen=True)
class DeltaMeasure:
    """The deltas of one tensor group.

    `norms` maps a source to the norm of its delta, `relative` to that norm over the anchor's (None
    if the anchor is zero), and `cosines` a pair "a, b" to the cosine of both deltas (None if one of
    them is zero).
    """

    group: str
    layer: int | None
    part: Part
    norms: dict[str, float]
    relative: dict[str, float | None]
    cosines: dict[str, float | None]


def inspect(
    receiver: str,
    donors: Sequence[str],
    base: str | None = None,
    vocabulary: VocabularyMode = "receiver",
) -> Inspection:
    """Inspect models by name: folders, hub ids or `zoo:NAME`; a donor also as MODEL+ADAPTER.

    The last part of a donor's name becomes its alias. Without a base, deltas are taken from the
    receiver.

    Raises:
        UserError: a model cannot be found or read, or a donor does not pair with the receiver.
        CheckpointError: a tensor holds NaN or infinity.
    """
    folders = ModelFolders(
        receiver=str(locate_model(receiver)),
        base=None if base is None else str(locate_model(base)),
        donors=dict(zip(aliases(donors), map(_donor_folders, donors), strict=True)),
        vocabulary=vocabulary,
    )
    sources = Sources.open(folders)
    matches, rows = _token_matches(sources)
    kinships = tuple(lineage.measure_kinships(sources))
    return Inspection(
        receiver=str(sources.receiver.folder),
        anchor=_anchor(sources),
        n_layers=sources.anatomy.n_layers,
        tied_head=sources.anatomy.tied_head,
        kinds=_kinds(sources),
        donors=tuple(
            _donor(sources, alias, matches.get(sources.models[alias].label))
            for alias in sources.donors
        ),
        measures=measure_deltas(sources),
        vocabulary=sources.folders.vocabulary,
        rows=rows,
        kinships=kinships,
        findings=tuple(
            finding for kinship in kinships for finding in lineage.judge_kinship(kinship)
        ),
    )


def _anchor(sources: Sources) -> str:
    """Name the source that deltas are taken from."""
    return "receiver" if sources.folders.base is None else "base"


def _donor_folders(name: str) -> DonorFolders:
    """Find a donor by MODEL or MODEL+ADAPTER; the name of a model's folder may hold a plus, too."""
    model, plus, adapter = name.partition("+")
    if not plus or Path(name).expanduser().is_dir():
        return DonorFolders(str(locate_model(name)))
    return DonorFolders(str(locate_model(model)), adapter=str(locate_model(adapter)))


def _token_matches(sources: Sources) -> tuple[dict[str, TokenMatch], tuple[int, int] | None]:
    """Compare the models' tokens with the receiver's: (match by model label, `Inspection.rows`)."""
    models = {model.label: model for model in sources.models.values()}
    receiver = models.pop("receiver")
    readable = [model for model in models.values() if model.vocabulary() is not None]
    if receiver.vocabulary() is None or not readable:
        return {}, None
    alignment = sources.vocabulary or align_vocabularies(receiver, readable)
    if len(readable) < len(models):
        return dict(alignment.matches), None
    return dict(alignment.matches), (len(alignment.common), int(alignment.common.sum()))


def aliases(donors: Sequence[str]) -> list[str]:
    """Shorten models' names to distinct identifiers, none of them "receiver" or "base"."""
    names: list[str] = []
    for donor in donors:
        model = donor.rpartition("+")[2].rstrip("/").partition("@")[0]
        short = re.sub(r"\W", "_", re.split(r"[/:]", model)[-1]) or "donor"
        alias, number = short, 2
        while alias in names or alias in ("receiver", "base"):
            alias, number = f"{short}_{number}", number + 1
        names.append(alias)
    return names


def _kinds(sources: Sources) -> tuple[TensorKind, ...]:
    sizes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for name, place in sources.anatomy.places.items():
        sizes[place.tower, place.part].append(math.prod(sources.receiver.headers[name].shape))
    kinds = [
        TensorKind(*place, len(counts), sum(counts), _fate(sources, *place))
        for place, counts in sizes.items()
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


def _donor(sources: Sources, alias: str, match: TokenMatch | None) -> DonorReport:
    model = sources.models[alias]
    receiver_config = text_config(sources.receiver.config)
    donor_config = text_config(model.checkpoint.config)
    differences = {
        key: (receiver_config[key], donor_config[key])
        for key in sorted(set(receiver_config) & set(donor_config) - _BOOKKEEPING)
        if receiver_config[key] != donor_config[key]
    }
    dtypes = {model.checkpoint.headers[name].dtype for name in model.pairs.values()}
    return DonorReport(
        alias=alias,
        folder=str(model.checkpoint.folder),
        adapter=None if model.adapter is None else str(model.adapter.folder),
        adapted=None if model.adapter is None else len(model.adapter.changed),
        paired=len(model.pairs),
        unpaired=tuple(n for n in sources.anatomy.mergeable_tensors() if n not in model.pairs),
        tied_head=model.anatomy.tied_head,
        dtypes=tuple(sorted(dtypes)),
        differences=differences,
        vocabulary=match,
    )


def measure_deltas(sources: Sources) -> tuple[DeltaMeasure, ...]:
    """Measure every group of the receiver in which at least one source has a delta."""
    anchor = _anchor(sources)
    names = sources.donors if anchor == "receiver" else ("receiver", *sources.donors)
    measures = []
    for group in sources.groups:
        complete = [
            name
            for name in names
            if all(
                tensor in sources.models[source].pairs
                for source in (name, anchor)
                for tensor in group.tensors
            )
        ]
        if complete:
            measures.append(_measure_group(sources, group, anchor, complete))
    return tuple(measures)


def _measure_group(
    sources: Sources, group: Group, anchor: str, names: Sequence[str]
) -> DeltaMeasure:
    """Sum the deltas' Gram matrix and the anchor's squared norm over all chunks."""
    n = len(names)
    gram = torch.zeros(n, n, dtype=torch.float64)
    square = 0.0
    for tensor in group.tensors:
        origin_values = sources.tensor(anchor, tensor).reshape(-1)
        source_values = [sources.tensor(name, tensor).reshape(-1) for name in names]
        for first in range(0, origin_values.numel(), CHUNK):
            chunk = slice(first, first + CHUNK)
            origin = origin_values[chunk].double()
            deltas = torch.stack([values[chunk].double() - origin for values in source_values])
            gram += deltas @ deltas.T
            square += float(origin @ origin)
    norms = [math.sqrt(float(gram[i, i])) for i in range(n)]
    by_name = dict(zip(names, norms, strict=True))
    anchor_norm = math.sqrt(square)
    cosines: dict[str, float | None] = {}
    for i, j in combinations(range(n), 2):
        product = norms[i] * norms[j]
        cosines[f"{names[i]}, {names[j]}"] = float(gram[i, j]) / product if product > 0 else None
    return DeltaMeasure(
        group=group.name,
        layer=group.layer,
        part=group.part,
        norms=by_name,
        relative={
            n: norm / anchor_norm if anchor_norm > 0 else None for n, norm in by_name.items()
        },
        cosines=cosines,
    )


def tables(inspection: Inspection) -> list[TextTable]:
    """Return all tables of an inspection, in reading order."""
    shown = [_kinds_table(inspection)]
    shown += [_donor_table(donor) for donor in inspection.donors]
    if any(donor.vocabulary for donor in inspection.donors):
        shown.append(_vocabulary_table(inspection))
    if inspection.kinships:
        shown.append(_lineage_table(inspection))
    sources = list(dict.fromkeys(name for measure in inspection.measures for name in measure.norms))
    pairs = list(dict.fromkeys(pair for measure in inspection.measures for pair in measure.cosines))
    anchor = inspection.anchor
    for name in sources:
        title = f"{name}: norm of its delta from the {anchor}, relative to the {anchor}"
        values = {m.group: m.relative.get(name) for m in inspection.measures}
        shown.append(_depth_table(inspection, title, values))
    for pair in pairs:
        values = {m.group: m.cosines.get(pair) for m in inspection.measures}
        shown.append(_depth_table(inspection, f"{pair}: cosine of their deltas", values))
    return shown


def _kinds_table(inspection: Inspection) -> TextTable:
    head = "tied to the embedding" if inspection.tied_head else "of its own"
    rows = [
        [kind.tower, kind.part, str(kind.tensors), f"{kind.parameters:,}", kind.fate]
        for kind in inspection.kinds
    ]
    return TextTable(
        f"receiver {inspection.receiver}: {inspection.n_layers} language layers, head {head}",
        ["tower", "part", "tensors", "parameters", "what becomes of them"],
        rows,
    )


def _donor_table(donor: DonorReport) -> TextTable:
    rows = [
        ["tensors paired", str(donor.paired)],
        ["tensors without counterpart", ", ".join(donor.unpaired) or "none"],
        ["head", "tied to the embedding" if donor.tied_head else "of its own"],
        ["dtype", ", ".join(donor.dtypes)],
    ]
    if donor.adapter is not None:
        rows.insert(0, ["adapter", f"{donor.adapter}: changes {donor.adapted} tensors"])
    if donor.vocabulary is None:
        rows.append(["tokenizer", "not compared: the donor or the receiver has none"])
    rows += [
        [f"config {key}", f"{donor_value!r:.60} (receiver: {receiver_value!r:.60})"]
        for key, (receiver_value, donor_value) in donor.differences.items()
    ]
    return TextTable(f"donor {donor.alias}: {donor.folder}", ["what", "found"], rows)


def _vocabulary_table(inspection: Inspection) -> TextTable:
    """Show how rows of embedding and head match by token, with examples of those that do not."""
    matches = {donor.alias: donor.vocabulary for donor in inspection.donors if donor.vocabulary}
    rows = [
        [alias, *map(str, (m.tokens, m.rows, m.matched, m.moved)), " ".join(m.unmatched) or "none"]
        for alias, m in matches.items()
    ]
    title = "vocabulary"
    if inspection.rows is not None:
        total, common = inspection.rows
        title += f": {common} of the receiver's {total} rows are a token of all models"
    if inspection.vocabulary == "receiver":
        title += "; rows merge as they stand unless `vocabulary: by_token`"
    columns = ["donor", "tokens", "rows", "the receiver's", "under another id", "missing, e.g."]
    return TextTable(title, columns, rows)


def _lineage_table(inspection: Inspection) -> TextTable:
    """Show how far each donor lies from its base, and what fine-tuning does not explain."""
    rows = []
    for kinship in inspection.kinships:
        messages = [f.message for f in inspection.findings if f.donor == kinship.donor]
        rows.append([
            kinship.donor,
            kinship.base,
            *map(_number, kinship.relative.values()),
            *map(_number, (min(kinship.cosine.values()), kinship.shared)),
            "; ".join(messages) or "as fine-tuning does",
        ])  # fmt: skip
    title = f"lineage, from samples: norms relative to the base (fine-tuning stays below {FAR:g})"
    parts = list(inspection.kinships[0].relative)
    columns = ["donor", "base", *parts, "cosine of weights", "with receiver's delta", "verdict"]
    return TextTable(title, columns, rows)


def _depth_table(
    inspection: Inspection, title: str, values: Mapping[str, float | None]
) -> TextTable:
    """Lay out one row a layer and one column a part; groups without a layer come last."""
    parts = [part for part in PARTS if f"0.{part}" in values]
    rows = [
        [str(layer), *(_number(values.get(f"{layer}.{part}")) for part in parts)]
        for layer in range(inspection.n_layers)
    ]
    if values.get("final.norm") is not None:
        final = (_number(values["final.norm"]) if part == "norm" else "" for part in parts)
        rows.append(["final norm", *final])
    for group in ("embedding", "head"):
        if values.get(group) is not None:
            rows.append([group, *[""] * len(parts), _number(values[group])])
    columns = ["layer", *parts, "itself"][: max(len(row) for row in rows)]
    return TextTable(title, columns, [row + [""] * (len(columns) - len(row)) for row in rows])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
