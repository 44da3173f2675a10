"""An inspection as tables for a person: (title, columns, rows) each. Not here: printing (`cli`)."""

from __future__ import annotations

from collections.abc import Mapping

from mergefront.inspection import DonorReport, Inspection
from mergefront.lineage import FAR
from mergefront.records import PARTS

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
