"""A candidate -> a complete, verified Hugging Face checkpoint with its card and provenance.

`write_merged` merges a recipe to a folder (also `mergefront merge`); `export_candidate` adds the
model card and, before the folder appears under its name, `verify` checks it the hard way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergefront.card import licences, model_card
from mergefront.checkpoint import SHARD_BYTES, Checkpoint
from mergefront.errors import EngineError
from mergefront.merging import build
from mergefront.merging.sources import Sources
from mergefront.recipe import Recipe
from mergefront.writing import whole_folder

if TYPE_CHECKING:  # a plain merge needs none of these
    from mergefront.config import EngineConfig
    from mergefront.engine import Engine
    from mergefront.records import Item
    from mergefront.rundir import ItemRecord
    from mergefront.tasks import ItemSet

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Scored:
    """What is known of a scored candidate: its parameters' digest and its stored answers."""

    parameters_sha256: str | None
    records: Sequence[ItemRecord]


def write_merged(
    sources: Sources,
    recipe: Recipe,
    folder: Path,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Write the merged checkpoint, its recipe and its provenance into an existing folder."""
    account = build.write(sources, recipe, folder, shard_bytes, progress)
    (folder / "recipe.json").write_text(recipe.to_json())
    provenance = {
        "format": "mergefront/provenance@1",
        "recipe": recipe.hash(),
        "sources": sources.file_hashes(),
        "tensors": account,
    }
    if sources.vocabulary is not None:
        provenance["vocabulary"] = sources.vocabulary.report()
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=1))
    return provenance


def merge(
    recipe: Recipe,
    sources: Sources,
    out: Path,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Merge a recipe into the new folder `out`, whole or not at all, without any search.

    Raises:
        UserError: `out` exists or the disk is too full.
        CheckpointError: a source holds NaN, or rounding overflowed; names the tensor.
    """
    with whole_folder(out, needs_bytes=sources.receiver.n_bytes) as folder:
        write_merged(sources, recipe, folder, progress, shard_bytes)
        (folder / "README.md").write_text(model_card(recipe, licences(sources), None, None))
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
    config: str = "",
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
        (folder / "README.md").write_text(model_card(recipe, licences(sources), front, member))
        (folder / "run.yaml").write_text(config)
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
    the parameter hashes of the scored engine; the items read last are asked once more, all of
    them in the same order, since greedy answers can depend on the batch. Answers that differ
    although the parameters are the same are counted, not refused.

    Raises:
        EngineError: the checkpoint does not load, or is not what was scored.
    """
    from mergefront.engine import open_engine
    from mergefront.select import digest

    checks: dict[str, Any] = {
        "transformers": load_in_transformers(folder, settings.trust_remote_code),
        "tensors": same_tensors(folder, sources),
    }
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
        checks["answers"] = _ask_again(engine, folder, items, scored)
    finally:
        engine.close()
    checks["words"] = _words(checks)
    return checks


def _ask_again(engine: Engine, folder: Path, items: ItemSet, scored: Scored) -> dict[str, int]:
    """Ask the stored questions once more; how many there are, and how many answers are the same."""
    asked = _stored_answers(items, scored.records)
    answers = engine.generate([item for item, _ in asked])
    same = sum(a.text == text for a, (_, text) in zip(answers, asked, strict=True))
    if same != len(asked) and scored.parameters_sha256 is None:
        raise EngineError(
            f"{folder.name}: {len(asked) - same} of {len(asked)} answers differ from those "
            "that were scored, and no parameter hash was recorded to compare",
            hint="export a validated member of the front",
        )
    return {"asked": len(asked), "same": same}


def _words(checks: Mapping[str, Any]) -> list[str]:
    """What was verified and what was not, in plain words."""
    engine, answers = checks["engine"], checks["answers"]
    short = engine["parameters_sha256"][:12]
    if checks["transformers"] is not None:
        words = ["verified: loads in transformers, no missing and no unexpected tensor"]
    else:
        words = [
            "not loaded in transformers, which has no class for this family; "
            f"names, shapes and dtypes of all {checks['tensors']} tensors are the receiver's"
        ]
    if engine["same_as_scored"]:
        words.append(f"verified: parameters in a fresh engine hash to those scored ({short})")
    else:
        words.append("not compared: the candidate was not validated, so no hash was recorded")
    if answers["same"] == answers["asked"]:
        words.append(f"verified: all {answers['asked']} answers are those that were scored")
    else:
        words.append(
            f"note: {answers['asked'] - answers['same']} of {answers['asked']} answers differ "
            "although the parameters are the same: this engine's kernels do not repeat themselves"
        )
    return words


def same_tensors(folder: Path, sources: Sources) -> int:
    """Compare names, shapes and dtypes with the receiver's; returns how many there are.

    Raises:
        EngineError: one is missing, new, or of another shape or dtype.
    """
    found, wanted = Checkpoint.open(folder).headers, sources.receiver.headers
    for name in sorted({*found, *wanted}):
        pair = (one.get(name) for one in (found, wanted))
        mine, theirs = (None if one is None else (one.shape, one.dtype) for one in pair)
        if mine != theirs:
            raise EngineError(f"{folder.name}: tensor {name!r} is not as in the receiver")
    return len(found)


def load_in_transformers(folder: Path, trust_remote_code: bool = False) -> dict[str, int] | None:
    """Load the checkpoint in transformers; None if transformers has no class for its family.

    Raises:
        EngineError: a tensor is missing, unexpected, or of another shape.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except ValueError:
        return None
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return None
    AutoProcessor.from_pretrained(folder)
    model, report = AutoModelForImageTextToText.from_pretrained(
        folder, output_loading_info=True, dtype="auto"
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            raise EngineError(f"{folder.name}: transformers reports {kind}: {sorted(report[kind])}")
    return {"parameters": sum(p.numel() for p in model.parameters())}


def _stored_answers(items: ItemSet, records: Sequence[ItemRecord]) -> list[tuple[Item, str]]:
    """Items with the answer stored for them: of the split read last, in the split's order."""
    for split in ("test", "validation", "search"):
        texts = {r.item: r.text for r in records if r.split == split}
        if texts:
            return [(item, texts[item.id]) for item in items.flat(split) if item.id in texts]
    return []
