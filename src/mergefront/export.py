"""A candidate -> a complete, verified Hugging Face checkpoint with its card and provenance.

`write_merged` merges a recipe to a folder (also `mergefront merge`); `export_candidate` adds the
model card and, before the folder appears under its name, `verify` checks it the hard way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergefront.card import model_card
from mergefront.config import EngineConfig
from mergefront.engine import open_engine
from mergefront.errors import EngineError
from mergefront.merging import build
from mergefront.merging.sources import Sources
from mergefront.recipe import Recipe
from mergefront.records import Item
from mergefront.rundir import ItemRecord
from mergefront.search import source_hashes
from mergefront.select import digest
from mergefront.tasks import ItemSet
from mergefront.writing import whole_folder

Progress = Callable[[int, int], None]

MAX_CHECKED = 400
"""Answers that verification compares, at most."""


@dataclass(frozen=True)
class Scored:
    """What is known of a scored candidate: its parameters' digest and its stored answers."""

    parameters_sha256: str | None
    records: Sequence[ItemRecord]


def write_merged(
    sources: Sources, recipe: Recipe, folder: Path, progress: Progress | None = None
) -> dict[str, Any]:
    """Write the merged checkpoint, its recipe and its provenance into an existing folder."""
    account = build.write(sources, recipe, folder, progress=progress)
    (folder / "recipe.json").write_text(recipe.to_json())
    provenance = {
        "format": "mergefront/provenance@1",
        "recipe": recipe.hash(),
        "sources": source_hashes(sources),
        "tensors": account,
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=1))
    return provenance


def merge(recipe: Recipe, sources: Sources, out: Path, progress: Progress | None = None) -> Path:
    """Merge a recipe into the new folder `out`, whole or not at all, without any search.

    Raises:
        UserError: `out` exists or the disk is too full.
        CheckpointError: a source holds NaN, or rounding overflowed; names the tensor.
    """
    with whole_folder(out, needs_bytes=sources.receiver.n_bytes) as folder:
        write_merged(sources, recipe, folder, progress)
        (folder / "README.md").write_text(model_card(recipe, None, None))
    return out


def export_candidate(
    recipe: Recipe,
    sources: Sources,
    out: Path,
    *,
    settings: EngineConfig,
    items: ItemSet,
    scored: Scored,
    front: Mapping[str, Any],
    member: Mapping[str, Any] | None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Export one candidate of a run and verify it before the folder appears.

    Returns:
        What was verified, as plain values; also in the folder's provenance.json.

    Raises:
        UserError: `out` exists or the disk is too full.
        EngineError: the written checkpoint is not what was scored; nothing is left behind.
    """
    with whole_folder(out, needs_bytes=sources.receiver.n_bytes) as folder:
        provenance = write_merged(sources, recipe, folder, progress)
        (folder / "README.md").write_text(model_card(recipe, front, member))
        say("verifying: transformers, then a fresh engine")
        checks = verify(folder, recipe, sources, settings, items, scored)
        (folder / "provenance.json").write_text(
            json.dumps({**provenance, "verified": checks}, indent=1)
        )
    return checks


def verify(
    folder: Path,
    recipe: Recipe,
    sources: Sources,
    settings: EngineConfig,
    items: ItemSet,
    scored: Scored,
) -> dict[str, Any]:
    """Check a written checkpoint against what was scored.

    It must load in transformers with no missing or unexpected tensor, and in a fresh engine give
    the parameter hashes of the scored engine and the answers that were scored.

    Raises:
        EngineError: any of that fails; says what was found and expected.
    """
    checks: dict[str, Any] = {"transformers": load_in_transformers(folder)}
    engine = open_engine(settings, sources.refs, recipe.method, recipe.parameters, folder=folder)
    try:
        found = digest(engine.parameter_hashes())
        if scored.parameters_sha256 is not None and found != scored.parameters_sha256:
            raise EngineError(
                f"{folder.name}: the exported parameters hash to {found[:12]}, the scored ones to "
                f"{scored.parameters_sha256[:12]}",
                hint="this should never happen; please report it with recipe.json",
            )
        checks["engine"] = {
            "kind": settings.kind,
            "parameters_sha256": found,
            "same_as_scored": scored.parameters_sha256 is not None,
        }
        pairs = _stored_answers(items, scored.records)[:MAX_CHECKED]
        answers = engine.generate([item for item, _ in pairs])
        same = sum(a.text == text for a, (_, text) in zip(answers, pairs, strict=True))
        checks["answers"] = {"asked": len(pairs), "same": same}
        if same != len(pairs):
            raise EngineError(
                f"{folder.name}: {len(pairs) - same} of {len(pairs)} answers differ from those "
                "that were scored",
                hint="the parameters are the same, so the engine's kernels do not repeat "
                "themselves; export with --no-verify if that is accepted",
            )
    finally:
        engine.close()
    return checks


def load_in_transformers(folder: Path) -> dict[str, int]:
    """Load the checkpoint in transformers. Raises EngineError on a missing or unexpected tensor."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()

    AutoProcessor.from_pretrained(folder)
    model, report = AutoModelForImageTextToText.from_pretrained(
        folder, output_loading_info=True, dtype="auto"
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            raise EngineError(f"{folder.name}: transformers reports {kind}: {sorted(report[kind])}")
    return {"parameters": sum(p.numel() for p in model.parameters())}


def _stored_answers(items: ItemSet, records: Sequence[ItemRecord]) -> list[tuple[Item, str]]:
    """Items with the answer stored for them: of the split read last, in the order asked."""
    for split in ("test", "validation", "search"):
        texts = {r.item: r.text for r in records if r.split == split}
        if texts:
            return [(item, texts[item.id]) for item in items.flat(split)]
    return []
