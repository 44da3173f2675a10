"""What `mergefront inspect` shows, as data: how models pair, what differs, how their deltas look.

Streaming: tensors are read once, chunk by chunk, whatever the models' size. Not here: the tables
(`inspection.tables`), printing (`cli`), and the errors that stop a pairing altogether (`pairing`).

Reading order: `inspect`, `Inspection`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from mergefront import lineage
from mergefront.checkpoint import locate
from mergefront.config import VocabularyMode
from mergefront.deltas import Measure, measure
from mergefront.errors import PairingError
from mergefront.lineage import Finding, Kinship
from mergefront.merging.sources import DonorRef, ModelRefs, Sources, check_heads, match_tokens
from mergefront.tower import text_config
from mergefront.vocabulary import Match

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
    refs = ModelRefs(
        receiver=str(locate(receiver)),
        base=None if base is None else str(locate(base)),
        donors=dict(zip(aliases(donors), map(_located, donors), strict=True)),
        vocabulary=vocabulary,
    )
    return inspect_sources(Sources.open(refs))


def inspect_sources(sources: Sources) -> Inspection:
    """Inspect opened models.

    Raises:
        CheckpointError: if a tensor holds NaN or infinity.
    """
    matches, rows = _tokens(sources)
    kinships = tuple(lineage.kinships(sources))
    return Inspection(
        receiver=str(sources.receiver.folder),
        anchor="receiver" if sources.refs.base is None else "base",
        n_layers=sources.anatomy.n_layers,
        tied_head=sources.anatomy.tied_head,
        kinds=_kinds(sources),
        donors=tuple(
            _donor(sources, alias, matches.get(sources.models[alias].label))
            for alias in sources.donors
        ),
        measures=measure(sources),
        vocabulary=sources.refs.vocabulary,
        rows=rows,
        kinships=kinships,
        findings=tuple(found for one in kinships for found in lineage.judge(one)),
    )


def _located(name: str) -> DonorRef:
    """Find `MODEL+ADAPTER`, or a model, also one whose folder's name has a plus in it."""
    model, plus, adapter = name.partition("+")
    if not plus or Path(name).expanduser().is_dir():
        return DonorRef(str(locate(name)))
    return DonorRef(str(locate(model)), adapter=str(locate(adapter)))


def _tokens(sources: Sources) -> tuple[dict[str, Match], tuple[int, int] | None]:
    """Return the models' tokens beside the receiver's, and (rows, rows in all models)."""
    models = {one.label: one for one in sources.models.values()}
    receiver = models.pop("receiver")
    readable = [one for one in models.values() if one.vocabulary() is not None]
    if receiver.vocabulary() is None or not readable:
        return {}, None
    found = sources.vocabulary or match_tokens(receiver, readable)
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
