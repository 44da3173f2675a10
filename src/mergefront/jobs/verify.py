"""A written checkpoint, checked against what was scored, before anyone may have it.

`verify` loads it in transformers and in a fresh engine, compares parameter hashes, and asks the
stored questions once more. Not here: writing it (`export`).

An export in another floating type than the receiver's own is the same merge rounded otherwise. Its
parameters in an engine can be those that were scored only if the engine computed in that very
type: then it rounded there what is rounded here, from the same fp32 values. In every other case
the hash is not compared, and the answers, asked in an engine of the written type, are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergefront.errors import EngineError
from mergefront.merging.recipe import Recipe
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.safetensors import DTYPES
from mergefront.models.sources import Sources
from mergefront.models.writer import written_dtype
from mergefront.records import Dtype

if TYPE_CHECKING:  # a plain merge needs none of these
    from mergefront.config import EngineConfig
    from mergefront.engine import Engine
    from mergefront.records import Item
    from mergefront.runs.directory import ItemRecord
    from mergefront.tasks import ItemSet


@dataclass(frozen=True)
class Scored:
    """What is known of a scored candidate: its parameters' digest and its stored answers."""

    parameters_sha256: str | None
    records: Sequence[ItemRecord]


def verify(
    folder: Path,
    recipe: Recipe,
    sources: Sources,
    settings: EngineConfig,
    items: ItemSet,
    scored: Scored,
    dtype: Dtype = "auto",
) -> dict[str, Any]:
    """Check a written checkpoint against what was scored.

    It must load in transformers with no missing or unexpected tensor, and in a fresh engine give
    the parameter hashes of the scored engine; the items read last are asked once more, all of
    them in the same order, since greedy answers can depend on the batch. Answers that differ
    although the parameters are the same are counted, not refused.

    Written in another `dtype` than the receiver's own, it must load in transformers in that type;
    the fresh engine computes in it, too. The hashes must agree if the scored engine did so (see
    `comparable`), and need not otherwise; answers are counted. So it is where an engine chooses its
    type by config.json and `dtype` changes what that says.

    Raises:
        EngineError: the checkpoint does not load, or is not what was scored.
    """
    recast = sources.receiver.recast(dtype)
    checks: dict[str, Any] = {
        "transformers": load_in_transformers(folder, settings.trust_remote_code),
        "tensors": same_tensors(folder, sources, dtype),
    }
    loaded = checks["transformers"]
    if recast and loaded is not None and loaded["dtype"] != dtype:
        raise EngineError(f"{folder.name}: transformers loads it in {loaded['dtype']}, not {dtype}")
    renamed = settings.dtype == "auto" and _config(folder) != _config(sources.receiver.folder)
    must = comparable(sources.receiver, settings, dtype) if recast else not renamed
    engine = _engine_on(folder, settings, dtype if recast else "auto")
    try:
        found = _hash(engine, folder, scored, must, dtype if recast else "auto")
        checks["engine"] = {
            "kind": settings.kind,
            "parameters_sha256": found,
            "same_as_scored": found == scored.parameters_sha256,
        }
        if recast or renamed:
            checks["dtype"] = {"written": dtype, "scored": _scored_in(sources, settings)}
        refused = must and scored.parameters_sha256 is None
        checks["answers"] = _ask_again(engine, folder, items, scored, refused)
    finally:
        engine.close()
    checks["words"] = _words(checks, scored.parameters_sha256 is not None)
    return checks


def _hash(engine: Engine, folder: Path, scored: Scored, must: bool, dtype: Dtype) -> str:
    """The digest of an engine's parameters; refused if it `must` be the scored one and is not."""
    from mergefront.engine.inplace import model_hash

    found, wanted = model_hash(engine.parameter_hashes()), scored.parameters_sha256
    if must and wanted is not None and found != wanted:
        raise EngineError(
            f"{folder.name}: the exported parameters hash to {found[:12]}, the scored ones to "
            f"{wanted[:12]}",
            hint="this should never happen; please report it with recipe.json"
            if dtype == "auto"
            else f"an engine in {dtype} does not compute with these weights as they are written; "
            f"{_unchecked(dtype)}",
        )
    return found


def comparable(receiver: Checkpoint, settings: EngineConfig, dtype: Dtype) -> bool:
    """Whether a checkpoint in `dtype` must be, in an engine of that type, what was scored.

    The scored engine rounded every value to the receiver's type, then to its own. That is one
    rounding to `dtype`, as in the file, if the engine's type is `dtype` and no tensor of the
    receiver is in a type that rounds first.
    """
    return settings.dtype == dtype and set(receiver.float_types()) <= {"float32", dtype}


def _engine_on(folder: Path, settings: EngineConfig, dtype: Dtype) -> Engine:
    """Open a fresh engine on the checkpoint alone, as the scored one was but for its type."""
    from mergefront.engine import open_engine

    if dtype != "auto":
        settings = settings.model_copy(update={"dtype": dtype})
    try:
        return open_engine(settings, folder)
    except EngineError as error:
        if dtype == "auto":
            raise
        hints = [error.hint] if error.hint else []
        raise EngineError(error.message, hint="; ".join([*hints, _unchecked(dtype)])) from error


def _unchecked(dtype: Dtype) -> str:
    return f"`mergefront merge RECIPE --dtype {dtype}` writes it without any check"


def _config(folder: Path) -> bytes:
    return (folder / "config.json").read_bytes()


def _scored_in(sources: Sources, settings: EngineConfig) -> str:
    """In which type candidates were scored, in words."""
    if settings.dtype == "auto":
        return f"the engine's choice for weights in {' and '.join(sources.receiver.float_types())}"
    own = [one for one in sources.receiver.float_types() if one not in ("float32", settings.dtype)]
    return settings.dtype + (f" from weights in {' and '.join(own)}" if own else "")


def _ask_again(
    engine: Engine, folder: Path, items: ItemSet, scored: Scored, refused: bool
) -> dict[str, int]:
    """Ask the stored questions once more; how many there are, and how many answers are the same.

    Raises:
        EngineError: answers differ and that is `refused`, since nothing else was compared.
    """
    asked = _stored_answers(items, scored.records)
    answers = engine.generate([item for item, _ in asked])
    same = sum(a.text == text for a, (_, text) in zip(answers, asked, strict=True))
    if same != len(asked) and refused:
        raise EngineError(
            f"{folder.name}: {len(asked) - same} of {len(asked)} answers differ from those "
            "that were scored, and no parameter hash was recorded to compare",
            hint="export a validated member of the front",
        )
    return {"asked": len(asked), "same": same}


def _words(checks: Mapping[str, Any], hashed: bool) -> list[str]:
    """What was verified and what was not, in plain words; `hashed` if a hash was recorded."""
    engine, answers, recast = checks["engine"], checks["answers"], checks.get("dtype")
    written = f" in {recast['written']}" if recast else ""
    short = engine["parameters_sha256"][:12]
    if checks["transformers"] is not None:
        words = [f"verified: loads in transformers{written}, no missing and no unexpected tensor"]
    else:
        words = [
            "not loaded in transformers, which has no class for this family; "
            f"names and shapes of all {checks['tensors']} tensors are the receiver's, their "
            + (f"floating type is {recast['written']}" if recast else "dtypes too")
        ]
    if engine["same_as_scored"]:
        words.append(
            f"verified: parameters in a fresh engine{written} hash to those scored ({short})"
        )
    elif recast and hashed:
        words.append(
            f"not compared: parameter hashes, for it is written in {recast['written']} and was "
            f"scored in {recast['scored']}: the same merge, rounded otherwise"
        )
    else:
        words.append("not compared: the candidate was not validated, so no hash was recorded")
    return [*words, _answers_in_words(answers, engine["same_as_scored"], written)]


def _answers_in_words(answers: Mapping[str, int], same_weights: bool, written: str) -> str:
    asked, same = answers["asked"], answers["same"]
    if same == asked:
        return f"verified: all {asked} answers{written} are those that were scored"
    if same_weights:
        return (
            f"note: {asked - same} of {asked} answers differ although the parameters are the "
            "same: this engine's kernels do not repeat themselves"
        )
    return (
        f"note: {asked - same} of {asked} answers{written} differ from those that were scored; the "
        "scores are not of these weights"
    )


def same_tensors(folder: Path, sources: Sources, dtype: Dtype = "auto") -> int:
    """Compare names, shapes and dtypes with the receiver's; returns how many there are.

    Raises:
        EngineError: one is missing, new, or of another shape or dtype than `dtype` makes it.
    """
    found, wanted = Checkpoint.open(folder).headers, sources.receiver.headers
    for name in sorted({*found, *wanted}):
        mine, theirs = found.get(name), wanted.get(name)
        if mine is None or theirs is None:
            raise EngineError(f"{folder.name}: tensor {name!r} is not as in the receiver")
        kind = written_dtype(DTYPES[theirs.dtype], dtype)
        if (mine.shape, DTYPES[mine.dtype]) != (theirs.shape, kind):
            raise EngineError(f"{folder.name}: tensor {name!r} is not as in the receiver")
    return len(found)


def load_in_transformers(folder: Path, trust_remote_code: bool = False) -> dict[str, Any] | None:
    """Load the checkpoint in transformers; None if transformers has no class for its family.

    Returns:
        {"parameters": how many, "dtype": the type of most of them}.

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
    sizes: Counter[str] = Counter()
    for parameter in model.parameters():
        sizes[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    return {"parameters": sizes.total(), "dtype": sizes.most_common(1)[0][0]}


def _stored_answers(items: ItemSet, records: Sequence[ItemRecord]) -> list[tuple[Item, str]]:
    """Items with the answer stored for them: of the split read last, in the split's order."""
    for split in ("test", "validation", "search"):
        texts = {r.item: r.text for r in records if r.split == split}
        if texts:
            return [(item, texts[item.id]) for item in items.flat(split) if item.id in texts]
    return []
