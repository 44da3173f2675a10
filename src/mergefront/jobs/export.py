"""From a recipe to a complete Hugging Face checkpoint with its model card and provenance.

`merge` writes one without any search (`mergefront merge`). `export_candidate` writes a candidate of
a run, and has it verified before the folder appears under its name. `read_verified_export` reads
such a folder later. Not here: the arithmetic and the files of weights (`merging.build`), what is
verified (`verify`), the card's text (`card`).

Reading order: `merge`, `export_candidate`, `read_verified_export`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergefront.errors import ConfigError, UserError
from mergefront.files import file_hash, whole_folder
from mergefront.jobs.card import licences, model_card
from mergefront.jobs.verify import ScoredCandidate, Verification, verify
from mergefront.json_file import LARGEST_INDEX, parse_json
from mergefront.merging import build
from mergefront.merging.recipe import Recipe
from mergefront.models import lineage
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.locate import locate_models
from mergefront.models.sources import Sources
from mergefront.models.writer import SHARD_BYTES
from mergefront.records import Dtype

if TYPE_CHECKING:
    from mergefront.runs.front import Front, Member, UnvalidatedCandidate

if TYPE_CHECKING:  # a plain merge needs none of these
    from mergefront.config import EngineConfig
    from mergefront.tasks import ItemSet

Progress = Callable[[int, int], None]
"""Shows progress: (bytes written, bytes in all)."""

_ABOUT_IT = frozenset({"README.md", "provenance.json"})
"""Files that are no part of a checkpoint: one for people to edit, and the one with the hashes."""


def _write_merged(
    sources: Sources,
    recipe: Recipe,
    folder: Path,
    progress: Progress | None,
    shard_bytes: int,
    dtype: Dtype,
) -> dict[str, Any]:
    """Write the merged checkpoint and its recipe into an existing folder; return its provenance."""
    tensors = build.write(sources, recipe, folder, shard_bytes, progress, dtype)
    (folder / "recipe.json").write_text(recipe.to_json())
    provenance: dict[str, Any] = {
        "format": "mergefront/provenance@1",
        "recipe": recipe.hash(),
        "sources": sources.file_hashes(),
        "tensors": tensors,
    }
    if sources.receiver.changes_type(dtype):
        types = list(sources.receiver.float_types())
        provenance["dtype"] = {"written": dtype, "receiver": types}
    if sources.vocabulary is not None:
        provenance["vocabulary"] = sources.vocabulary.report()
    return provenance


def _write_description(folder: Path, provenance: dict[str, Any], card: str) -> None:
    (folder / "README.md").write_text(card)
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=1))


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
        provenance = _write_merged(sources, recipe, folder, progress, shard_bytes, dtype)
        dtypes = _card_dtypes(sources.receiver, dtype)
        card = model_card(recipe, licences(sources), None, None, dtypes)
        _write_description(folder, provenance, card)
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
        raise UserError(f"{file}: no such recipe file", hint="every export holds a recipe.json")
    recipe = Recipe.read(file)
    sources = Sources.open(locate_models(recipe.models))
    for finding in lineage.check_lineage(sources):
        say(f"warning: {finding.message}; {finding.hint}")
    if sources.vocabulary is not None:
        for line in sources.vocabulary.lines():
            say(line)
    try:
        with progress_bar() as progress:
            merge(recipe, sources, out, progress, shard_bytes, dtype)
    except ConfigError as error:  # raised while planning: the recipe does not fit its models
        raise ConfigError(f"{file}: {error.message}", hint=error.hint) from error
    suffix = f", written in {dtype}" if sources.receiver.changes_type(dtype) else ""
    say(f"merged {len(sources.receiver.headers)} tensors by {recipe.method}{suffix}")


def export_candidate(
    recipe: Recipe,
    sources: Sources,
    out: Path,
    *,
    settings: EngineConfig,
    items: ItemSet,
    scored: ScoredCandidate,
    front: Front,
    member: Member | UnvalidatedCandidate | None,
    config: str = "",
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
    dtype: Dtype = "auto",
) -> Verification:
    """Export one candidate of a run and verify it before the folder appears.

    In another `dtype` than the receiver's own these are not the weights that were scored, but the
    same merge rounded otherwise; `verify` says what can still be verified then.

    Returns:
        What was verified; the folder's provenance.json has it, too.

    Raises:
        UserError: `out` exists or the disk is too full.
        CheckpointError: a value overflows `dtype`; names the tensor.
        EngineError: the written checkpoint is not what was scored; nothing is left behind.
    """
    with whole_folder(out, needs_bytes=sources.receiver.written_bytes(dtype)) as folder:
        provenance = _write_merged(sources, recipe, folder, progress, SHARD_BYTES, dtype)
        (folder / "run.yaml").write_text(config)
        say("verifying: transformers, then a fresh engine")
        verified = verify(folder, sources, settings, items, scored, dtype)
        rounding = None if verified.same_as_scored else verified.rounding
        scored_in = None if rounding is None else rounding.scored
        dtypes = _card_dtypes(sources.receiver, dtype)
        card = model_card(recipe, licences(sources), front, member, dtypes, scored_in)
        provenance |= {"verified": verified.to_dict(), "files": _file_hashes(folder)}
        _write_description(folder, provenance, card)
    return verified


def _file_hashes(folder: Path) -> dict[str, str]:
    """Return relative path -> hash of a checkpoint's files, but for those that are about it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {str(path.relative_to(folder)): path for path in files}
    return {name: file_hash(path) for name, path in names.items() if name not in _ABOUT_IT}


@dataclass(frozen=True)
class VerifiedExport:
    """What an export says of itself: its recipe's hash, and its parameters' digest in an engine."""

    recipe: str
    parameters_sha256: str


def read_verified_export(folder: Path) -> VerifiedExport:
    """Return what a folder exports, if its files are those that were verified.

    Raises:
        UserError: they are not, or nothing says so; the message begins with `it` or a file's name.
    """
    try:
        provenance = parse_json((folder / "provenance.json").read_bytes(), LARGEST_INDEX)
        digest = str(provenance["verified"]["engine"]["parameters_sha256"])
        hashes = {str(name): str(value) for name, value in provenance["files"].items()}
        export = VerifiedExport(str(provenance["recipe"]), digest)
    except FileNotFoundError:
        raise UserError("it has no provenance.json") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError("its provenance.json is not that of a verified export") from None
    weights = [file.name for end in ("safetensors", "bin") for file in folder.glob(f"*.{end}")]
    for name in weights:
        if name not in hashes:
            raise UserError(f"{name} was not there when it was verified")
    for name, value in hashes.items():
        if not (folder / name).is_file() or file_hash(folder / name) != value:
            raise UserError(f"{name} is not the file that was verified")
    if not weights or Recipe.read(folder / "recipe.json").hash() != export.recipe:
        raise UserError("it has no weights, or another recipe than its provenance.json")
    return export


def set_aside(folder: Path) -> Path:
    """Rename a folder that is in the way; return its new path beside the old one."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    aside = folder.with_name(f"{folder.name}.aside-{stamp}-{os.getpid()}")
    folder.rename(aside)
    return aside


def _card_dtypes(receiver: Checkpoint, dtype: Dtype) -> tuple[str, str] | None:
    """Return (type written, the receiver's own types) for the card; None if they are the same."""
    return (dtype, " and ".join(receiver.float_types())) if receiver.changes_type(dtype) else None
