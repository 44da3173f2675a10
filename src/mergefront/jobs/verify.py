"""Whether a written checkpoint is what was scored.

`verify` loads it in transformers and in a fresh engine, compares parameter hashes, and asks the
stored questions once more. Not here: writing the checkpoint (`export`).

An export in another floating type than the receiver's own is the same merge rounded otherwise. Its
parameters in an engine can equal those that were scored only if the scored engine computed in that
very type: then it rounded there what is rounded here, from the same fp32 values. In every other
case the hashes are not compared, and the answers of an engine of the written type are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergefront.errors import EngineError
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.safetensors import DTYPES
from mergefront.models.sources import Sources
from mergefront.records import SPLITS, Dtype

if TYPE_CHECKING:  # a plain merge needs none of these
    from mergefront.config import EngineConfig
    from mergefront.engine import Engine
    from mergefront.records import Item
    from mergefront.runs.directory import ItemRecord
    from mergefront.tasks import ItemSet


@dataclass(frozen=True)
class ScoredCandidate:
    """What a run keeps of a candidate: its answers and, if validated, its parameters' digest."""

    parameters_sha256: str | None
    records: Sequence[ItemRecord]


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint as transformers loads it: parameters, and the type of most of them."""

    parameters: int
    dtype: str


@dataclass(frozen=True)
class Rounding:
    """The floating type written, and in which type candidates were scored, for a person to read."""

    written: Dtype
    scored: str


@dataclass(frozen=True)
class Verification:
    """What was verified of a written checkpoint, and what was not.

    `transformers` is None if transformers has no class for the family. `parameters_sha256` is the
    digest in a fresh engine, `scored_sha256` that of the scored candidate, None if it was not
    validated. `rounding` is None if both engines computed in the same type. Of `asked` questions,
    `same` got the answer that was scored.
    """

    transformers: LoadedModel | None
    tensors: int
    engine: str
    parameters_sha256: str
    scored_sha256: str | None
    rounding: Rounding | None
    asked: int
    same: int

    @property
    def same_as_scored(self) -> bool:
        """Whether the parameters in a fresh engine are those that were scored."""
        return self.parameters_sha256 == self.scored_sha256

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for provenance.json and --json."""
        return {
            "transformers": self.transformers and asdict(self.transformers),
            "tensors": self.tensors,
            "engine": {
                "kind": self.engine,
                "parameters_sha256": self.parameters_sha256,
                "same_as_scored": self.same_as_scored,
            },
            **({} if self.rounding is None else {"dtype": asdict(self.rounding)}),
            "answers": {"asked": self.asked, "same": self.same},
            "words": self.sentences(),
        }

    def sentences(self) -> list[str]:
        """Say for a person what was verified and what was not."""
        in_type = "" if self.rounding is None else f" in {self.rounding.written}"
        if self.transformers is not None:
            loading = (
                f"verified: loads in transformers{in_type}, no missing and no unexpected tensor"
            )
        else:
            dtypes = "their dtypes too"
            if self.rounding is not None:
                dtypes = f"their floating type is {self.rounding.written}"
            loading = (
                "not loaded in transformers, which has no class for this family; "
                f"names and shapes of all {self.tensors} tensors are the receiver's, {dtypes}"
            )
        parameters = "not compared: the candidate was not validated, so no hash was recorded"
        if self.same_as_scored:
            digest = self.parameters_sha256[:12]
            fresh = f"parameters in a fresh engine{in_type}"
            parameters = f"verified: {fresh} hash to those scored ({digest})"
        elif self.rounding is not None and self.scored_sha256 is not None:
            parameters = (
                f"not compared: parameter hashes, for it is written in {self.rounding.written} and "
                f"was scored in {self.rounding.scored}: the same merge, rounded otherwise"
            )
        different = f"{self.asked - self.same} of {self.asked} answers"
        if self.same == self.asked:
            answers = f"verified: all {self.asked} answers{in_type} are those that were scored"
        elif self.same_as_scored:
            answers = (
                f"note: {different} differ although the parameters are the same: this engine's "
                "kernels do not repeat themselves"
            )
        else:
            answers = (
                f"note: {different}{in_type} differ from those that were scored; the scores are "
                "not of these weights"
            )
        return [loading, parameters, answers]


def verify(
    folder: Path,
    sources: Sources,
    settings: EngineConfig,
    items: ItemSet,
    scored: ScoredCandidate,
    dtype: Dtype = "auto",
) -> Verification:
    """Check a written checkpoint against what was scored.

    It must load in transformers with no missing or unexpected tensor, and in a fresh engine give
    the parameter hashes of the scored engine; the items read last are asked once more, all of
    them in the same order, since greedy answers can depend on the batch. Answers that differ
    although the parameters are the same are counted, not refused.

    Written in another `dtype` than the receiver's own, it must load in transformers in that type,
    and the fresh engine computes in it, too. Then the hashes must agree only if the scored engine
    computed in that type (see `comparable`); answers are counted. The hashes need not agree either
    where an engine takes its type from config.json and `dtype` changes what that file says.

    Raises:
        EngineError: the checkpoint does not load, or is not what was scored.
    """
    from mergefront.engine.inplace import model_hash

    recast = sources.receiver.changes_type(dtype)
    loaded = load_in_transformers(folder, settings.trust_remote_code)
    tensors = same_tensors(folder, sources, dtype)
    if recast and loaded is not None and loaded.dtype != dtype:
        raise EngineError(f"{folder.name}: transformers loads it in {loaded.dtype}, not {dtype}")
    engine_dtype = dtype if recast else "auto"
    # An engine that chooses its type by config.json may choose another one after `dtype` was set.
    configs = [(f / "config.json").read_bytes() for f in (folder, sources.receiver.folder)]
    retyped = settings.dtype == "auto" and configs[0] != configs[1]
    must_agree = comparable(sources.receiver, settings, dtype) if recast else not retyped
    with closing(_open_engine(folder, settings, engine_dtype)) as engine:
        digest = model_hash(engine.parameter_hashes())
        if must_agree:
            _check_digest(folder, digest, scored.parameters_sha256, engine_dtype)
        unproven = must_agree and scored.parameters_sha256 is None
        asked, same = _ask_again(engine, folder, items, scored, refuse=unproven)
    rounding = Rounding(dtype, _scored_type(sources, settings)) if recast or retyped else None
    return Verification(
        loaded, tensors, settings.kind, digest, scored.parameters_sha256, rounding, asked, same
    )


def _check_digest(folder: Path, digest: str, scored: str | None, dtype: Dtype) -> None:
    """Refuse parameters that are not those that were scored, if the scored digest is known."""
    if scored is None or digest == scored:
        return
    hint = "this should never happen; please report it with recipe.json"
    if dtype != "auto":
        hint = (
            f"an engine in {dtype} does not compute with these weights as they are written; "
            f"{_unchecked(dtype)}"
        )
    raise EngineError(
        f"{folder.name}: the exported parameters hash to {digest[:12]}, the scored ones to "
        f"{scored[:12]}",
        hint=hint,
    )


def comparable(receiver: Checkpoint, settings: EngineConfig, dtype: Dtype) -> bool:
    """Return whether a checkpoint in `dtype` must be, in an engine of that type, what was scored.

    The scored engine rounded every value to the receiver's type, then to its own. That is one
    rounding to `dtype`, as in the file, if the engine's type is `dtype` and no tensor of the
    receiver is in a type that rounds first.
    """
    return settings.dtype == dtype and set(receiver.float_types()) <= {"float32", dtype}


def _open_engine(folder: Path, settings: EngineConfig, dtype: Dtype) -> Engine:
    """Open a fresh engine on the checkpoint alone; its settings are the scored engine's."""
    from mergefront.engine import open_engine

    if dtype != "auto":
        settings = settings.model_copy(update={"dtype": dtype})
    try:
        return open_engine(settings, folder)
    except EngineError as error:
        if dtype == "auto":
            raise
        hint = "; ".join(filter(None, (error.hint, _unchecked(dtype))))
        raise EngineError(error.message, hint=hint) from error


def _unchecked(dtype: Dtype) -> str:
    return f"`mergefront merge RECIPE --dtype {dtype}` writes it without any check"


def _scored_type(sources: Sources, settings: EngineConfig) -> str:
    """Say in which type candidates were scored."""
    types = sources.receiver.float_types()
    if settings.dtype == "auto":
        return f"the engine's choice for weights in {' and '.join(types)}"
    rounded = [dtype for dtype in types if dtype not in ("float32", settings.dtype)]
    return settings.dtype + (f" from weights in {' and '.join(rounded)}" if rounded else "")


def _ask_again(
    engine: Engine, folder: Path, items: ItemSet, scored: ScoredCandidate, *, refuse: bool
) -> tuple[int, int]:
    """Ask the questions of the split read last: (how many, how many have the scored answer).

    Raises:
        EngineError: answers differ and `refuse` is set, since nothing else was compared.
    """
    splits = {record.split for record in scored.records}
    stored: list[tuple[Item, str]] = []
    if last := next((split for split in reversed(SPLITS) if split in splits), None):
        texts = {record.item: record.text for record in scored.records if record.split == last}
        stored = [(item, texts[item.id]) for item in items.flat(last) if item.id in texts]
    answers = engine.generate([item for item, _ in stored])
    same = sum(a.text == text for a, (_, text) in zip(answers, stored, strict=True))
    if same != len(stored) and refuse:
        raise EngineError(
            f"{folder.name}: {len(stored) - same} of {len(stored)} answers differ from those "
            "that were scored, and no parameter hash was recorded to compare",
            hint="export a validated member of the front",
        )
    return len(stored), same


def same_tensors(folder: Path, sources: Sources, dtype: Dtype = "auto") -> int:
    """Compare names, shapes and dtypes with the receiver's; return how many tensors there are.

    Raises:
        EngineError: a tensor is missing, new, or of another shape or dtype than `dtype` makes it.
    """
    headers, receiver = Checkpoint.open(folder).headers, sources.receiver.headers
    for name in sorted({*headers, *receiver}):
        found, expected = "no such tensor", "no such tensor"
        if name in headers:
            found = f"{DTYPES[headers[name].dtype]} {list(headers[name].shape)}"
        if name in receiver:
            kind = receiver[name].written_type(dtype)
            expected = f"{kind} {list(receiver[name].shape)}"
        if found != expected:
            raise EngineError(
                f"{folder.name}: tensor {name!r} is not as in the receiver: found {found}, "
                f"expected {expected}",
                hint="please report it with recipe.json",
            )
    return len(headers)


def load_in_transformers(folder: Path, trust_remote_code: bool = False) -> LoadedModel | None:
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
            raise EngineError(
                f"{folder.name}: transformers reports {kind}: {sorted(report[kind])}",
                hint="please report it with recipe.json",
            )
    sizes: Counter[str] = Counter()
    for parameter in model.parameters():
        sizes[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    return LoadedModel(sizes.total(), sizes.most_common(1)[0][0])
