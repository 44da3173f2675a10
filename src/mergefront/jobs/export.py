"""A candidate -> a complete, verified Hugging Face checkpoint with its card and provenance.

`write_merged` merges a recipe to a folder (also `mergefront merge`); `export_candidate` adds the
model card and, before the folder appears under its name, has it checked (`verification`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergefront.errors import ConfigError, UserError
from mergefront.files import whole_folder
from mergefront.jobs.card import licences, model_card
from mergefront.jobs.verify import Scored, verify
from mergefront.merging import build
from mergefront.merging.recipe import Recipe
from mergefront.models import lineage
from mergefront.models.locate import locate_models
from mergefront.models.sources import Sources
from mergefront.models.writer import SHARD_BYTES
from mergefront.records import Dtype

if TYPE_CHECKING:  # a plain merge needs none of these
    from mergefront.config import EngineConfig
    from mergefront.tasks import ItemSet

Progress = Callable[[int, int], None]


def write_merged(
    sources: Sources,
    recipe: Recipe,
    folder: Path,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
    dtype: Dtype = "auto",
) -> dict[str, Any]:
    """Write the merged checkpoint, its recipe and its provenance into an existing folder.

    The provenance names the floating type where it is not the receiver's own throughout.
    """
    account = build.write(sources, recipe, folder, shard_bytes, progress, dtype)
    (folder / "recipe.json").write_text(recipe.to_json())
    provenance = {
        "format": "mergefront/provenance@1",
        "recipe": recipe.hash(),
        "sources": sources.file_hashes(),
        "tensors": account,
    }
    if sources.receiver.recast(dtype):
        own = list(sources.receiver.float_types())
        provenance["dtype"] = {"written": dtype, "receiver": own}
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
    dtype: Dtype = "auto",
) -> Path:
    """Merge a recipe into the new folder `out`, whole or not at all, without any search.

    `dtype` is the floating type written; see `build.write`.

    Raises:
        UserError: `out` exists or the disk is too full.
        CheckpointError: a source holds NaN, or rounding overflowed; names the tensor.
    """
    with whole_folder(out, needs_bytes=sources.receiver.written_bytes(dtype)) as folder:
        write_merged(sources, recipe, folder, progress, shard_bytes, dtype)
        card = model_card(recipe, licences(sources), None, None, recast_words(sources, dtype))
        (folder / "README.md").write_text(card)
    return out


def merge_file(
    file: Path,
    out: Path,
    progress_bar: Callable[[], AbstractContextManager[Progress]],
    shard_bytes: int,
    dtype: Dtype,
    say: Callable[[str], None],
) -> None:
    """Merge a recipe.json to the new folder `out`; `say` prints warnings, then what was written.

    Raises:
        UserError: there is no such file, `out` exists, or the disk is too full.
        ConfigError: the recipe is faulty; names the file.
        CheckpointError: a source holds NaN, or rounding overflowed; names the tensor.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such recipe file", hint="name a recipe.json")
    recipe = Recipe.read(file)
    sources = Sources.open(locate_models(recipe.models))
    for finding in lineage.check(sources):
        say(f"warning: {finding.message}; {finding.hint}")
    if sources.vocabulary is not None:
        for line in sources.vocabulary.lines():
            say(line)
    try:
        with progress_bar() as progress:
            merge(recipe, sources, out, progress, shard_bytes, dtype)
    except ConfigError as error:  # raised while planning: the recipe does not fit its models
        raise ConfigError(f"{file}: {error.message}", hint=error.hint) from error
    suffix = f", written in {dtype}" if sources.receiver.recast(dtype) else ""
    say(f"merged {len(sources.receiver.headers)} tensors by {recipe.method}{suffix}")


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
    dtype: Dtype = "auto",
) -> dict[str, Any]:
    """Export one candidate of a run and verify it before the folder appears.

    In another `dtype` than the receiver's own these are not the weights that were scored, but the
    same merge rounded otherwise: what can still be verified is in `verification.verify`.

    Returns:
        What was verified, as plain values; also in the folder's provenance.json.

    Raises:
        UserError: `out` exists or the disk is too full.
        CheckpointError: a value overflows `dtype`; names the tensor.
        EngineError: the written checkpoint is not what was scored; nothing is left behind.
    """
    with whole_folder(out, needs_bytes=sources.receiver.written_bytes(dtype)) as folder:
        provenance = write_merged(sources, recipe, folder, progress, dtype=dtype)
        (folder / "run.yaml").write_text(config)
        say("verifying: transformers, then a fresh engine")
        checks = verify(folder, recipe, sources, settings, items, scored, dtype)
        scored_in = (
            None if checks["engine"]["same_as_scored"] else checks.get("dtype", {}).get("scored")
        )
        recast = recast_words(sources, dtype)
        card = model_card(recipe, licences(sources), front, member, recast, scored_in)
        (folder / "README.md").write_text(card)
        (folder / "provenance.json").write_text(
            json.dumps({**provenance, "verified": checks}, indent=1)
        )
    return checks


def recast_words(sources: Sources, dtype: Dtype) -> tuple[str, str] | None:
    """Return (type written, the receiver's own types) for people; None if they are the same."""
    if not sources.receiver.recast(dtype):
        return None
    return dtype, " and ".join(sources.receiver.float_types())
