"""The reference engine: plain transformers, parameters rewritten in place, batched greedy answers.

It is slower than vLLM and has no caches that could be stale. So it defines the right answers, and
serves where vLLM cannot be installed.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mergefront.config import EngineConfig
from mergefront.engine.contract import OnAnswer
from mergefront.engine.inplace import InPlace, PrepareTerm, Target, check_donors, tensor_hash
from mergefront.engine.labels import LabelTokens, label_answer
from mergefront.engine.prompts import (
    BoundedMemory,
    chat_prompt,
    context_error,
    context_length,
    decode_image,
    image_size,
    load_processor,
)
from mergefront.errors import EngineError, PairingError
from mergefront.models.locate import ModelFolders
from mergefront.models.sources import Sources
from mergefront.records import Answer, Group, Item, Seconds

if TYPE_CHECKING:
    from mergefront.merging.plan import Plan

logger = logging.getLogger(__name__)


class TransformersEngine:
    """An `Engine` (see the laws there) on transformers."""

    def __init__(
        self,
        settings: EngineConfig,
        models: ModelFolders | Path,
    ) -> None:
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self._folder = models if isinstance(models, Path) else Path(models.receiver)
        self._batch = settings.batch_size
        self._processor: Any = load_processor(self._folder, settings.trust_remote_code)
        self._model: Any = _load_model(self._folder, settings)
        self._limit = settings.max_model_len or context_length(self._folder)
        self.batch = 1 if self._model.device.type == "cpu" else settings.batch_size
        self._images: BoundedMemory[Any] = BoundedMemory(image_size)
        self._labels = LabelTokens(self._processor.tokenizer)
        self._broken = ""
        self._passes = 0
        self._inplace: InPlace | None = None
        if not isinstance(models, Path):
            sources = Sources.open(models)
            self._inplace = InPlace(_targets(self._model, sources.groups), sources, _stage)

    def load(self, plan: Plan) -> Seconds:
        if self._inplace is None:
            raise EngineError(f"this engine serves {self._folder} and loads no recipes")
        check_donors(plan, self._inplace.donors)
        self._broken = "the last recipe was not loaded"
        start = time.perf_counter()
        with torch.no_grad(), _engine_errors("building a candidate"):
            self._inplace.build(plan.contents, plan.method)
        self._broken = ""
        return Seconds(build=time.perf_counter() - start)

    def check(self, items: Sequence[Item]) -> None:
        for item in items:
            pictures = [decode_image(item, index) for index in range(len(item.images))]
            text = chat_prompt(self._processor, item)
            try:
                inputs = self._process([text], [pictures])
            except Exception as error:
                raise EngineError(
                    f"item {item.id}: the processor does not take its prompt: {error}"
                ) from error
            self._check_lengths([item], inputs)
            if item.labels:
                self._labels.of(item, text)

    @torch.inference_mode()
    def generate(self, items: Sequence[Item], on_answer: OnAnswer | None = None) -> list[Answer]:
        if self._broken:
            raise EngineError(f"{self._broken}: the engine's weights are undefined")
        texts = [chat_prompt(self._processor, item) for item in items]
        order = sorted(
            range(len(items)),
            key=lambda i: (*_batch_key(items[i]), len(texts[i]), i),
        )
        answers: dict[int, Answer] = {}
        for (images, by_label, _), same in groupby(order, key=lambda i: _batch_key(items[i])):
            answer = self._score_labels if by_label else self._answer_batch
            for batch in _chunks(list(same), self._batch):
                with _engine_errors("answering"):
                    replies = answer([items[i] for i in batch], [texts[i] for i in batch])
                answers.update(zip(batch, replies, strict=True))
                self._passes += images * len(batch)
                if on_answer is not None:
                    for place, reply in zip(batch, replies, strict=True):
                        on_answer(place, reply)
        return [answers[i] for i in range(len(items))]

    def parameter_hashes(self) -> dict[str, str]:
        return {name: tensor_hash(p.data) for name, p in self._model.named_parameters()}

    def tower_passes(self) -> int:
        return self._passes

    def close(self) -> None:
        for name in ("_model", "_inplace", "_images"):
            self.__dict__.pop(name, None)
        gc.collect()
        if torch.cuda.is_available():  # another process may be about to ask for the whole device
            torch.cuda.empty_cache()

    @property
    def network(self) -> nn.Module:
        """The live model, for `activations.drift`."""
        model: nn.Module = self._model
        return model

    def targets(self, groups: Sequence[Group]) -> list[Target]:
        """The live tensors of some groups; of a tied head and embedding neither."""
        return _targets(self._model, groups)

    def prompt(self, item: Item) -> Any:
        """One question as the model takes it: token ids with images expanded, and the images.

        Raises:
            EngineError: an image cannot be read, or the prompt does not fit.
        """
        return self._inputs([item], [chat_prompt(self._processor, item)])

    @torch.inference_mode()
    def begin(self, inputs: Any) -> None:
        """Run the model on a `prompt` up to the first token of its answer."""
        from transformers import GenerationConfig

        config = GenerationConfig(do_sample=False, max_new_tokens=1)
        self._model.generate(**inputs, generation_config=config)

    def _answer_batch(self, items: Sequence[Item], texts: Sequence[str]) -> list[Answer]:
        """Answer items of one `max_tokens` and one number of images."""
        from transformers import GenerationConfig

        inputs = self._inputs(items, texts)
        ends = _as_list(self._model.generation_config.eos_token_id)
        pad = self._processor.tokenizer.pad_token_id
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=items[0].max_tokens,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if pad is None and ends else pad,
        )
        length = inputs["input_ids"].shape[1]
        tokens_BT = self._model.generate(**inputs, generation_config=config)[:, length:]
        return [self._answer(row, set(ends)) for row in tokens_BT.tolist()]

    def _score_labels(self, items: Sequence[Item], texts: Sequence[str]) -> list[Answer]:
        """Compare the labels of items with one number of images at an answer's first token."""
        from transformers import GenerationConfig

        config = GenerationConfig(
            do_sample=False, max_new_tokens=1, output_logits=True, return_dict_in_generate=True
        )
        inputs = self._inputs(items, texts)
        logits_BV = self._model.generate(**inputs, generation_config=config).logits[0]
        answers = []
        for item, text, row_V in zip(items, texts, logits_BV.float().log_softmax(-1), strict=True):
            tokens = self._labels.of(item, text)
            flat = [token for ids in tokens for token in ids]
            logprobs = dict(zip(flat, row_V[flat].tolist(), strict=True))
            answers.append(label_answer(item, tokens, logprobs))
        return answers

    def _inputs(self, items: Sequence[Item], texts: Sequence[str]) -> Any:
        pictures = [[self._image(item, i) for i in range(len(item.images))] for item in items]
        inputs = self._process(texts, pictures)
        self._check_lengths(items, inputs)
        return inputs.to(self._model.device, self._model.dtype)

    def _process(self, texts: Sequence[str], pictures: Sequence[Sequence[Any]]) -> Any:
        """Token ids, images expanded, and processed images; all have as many images."""
        return self._processor(
            text=list(texts),
            **({"images": [list(row) for row in pictures]} if pictures[0] else {}),
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
        )

    def _check_lengths(self, items: Sequence[Item], inputs: Any) -> None:
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        for item, length in zip(items, lengths, strict=True):
            if self._limit and length + item.max_tokens > self._limit:
                raise context_error(item, length, self._limit)

    def _image(self, item: Item, index: int) -> Any:
        return self._images.get(item.images[index], lambda: decode_image(item, index))

    def _answer(self, row: list[int], ends: set[int]) -> Answer:
        """Cut a generated row behind its first end token; that one counts, as in vLLM."""
        end = next((i for i, token in enumerate(row) if token in ends), None)
        tokens = row if end is None else row[: end + 1]
        text = self._processor.tokenizer.decode(tokens, skip_special_tokens=True)
        return Answer(text.strip(), len(tokens), end is not None)


def _load_model(folder: Path, settings: EngineConfig) -> Any:
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=settings.dtype, trust_remote_code=settings.trust_remote_code
        )
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise EngineError(f"transformers does not load {folder}: {error}") from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    return model.eval().requires_grad_(False)


def _stage(prepare: PrepareTerm, groups: Sequence[Group]) -> dict[str, Tensor]:
    """A term of some groups; the layout is the checkpoint's own."""
    return {name: prepare(name) for group in groups for name in group.tensors}


def _targets(model: Any, groups: Sequence[Group]) -> list[Target]:
    """Match the receiver's checkpoint names with live tensors.

    transformers renames tensors when it loads older checkpoints; its own inverse of that, applied
    to the live tensors, tells their names in the checkpoint.

    Raises:
        PairingError: a language tensor has no live parameter.
    """
    from transformers.core_model_loading import revert_weight_conversion

    state = model.state_dict()
    live = {**state, **revert_weight_conversion(model, dict(state))}
    owners: dict[int, set[str]] = {}
    targets = []
    for group in groups:
        for name in group.tensors:
            if name not in live:
                raise PairingError(f"{name}: transformers' model has no such parameter")
            targets.append(Target(name, name, group, None, live[name]))
            owners.setdefault(live[name].data_ptr(), set()).add(group.name)
    shared = {group for owner in owners.values() if len(owner) > 1 for group in owner}
    if shared:
        logger.warning("head and embedding are tied in the engine: neither can be rewritten")
    return [target for target in targets if target.group.name not in shared]


def _batch_key(item: Item) -> tuple[int, bool, int]:
    """Items with equal keys may share a batch: images, labels or words, longest answer."""
    return len(item.images), bool(item.labels), item.max_tokens


def _chunks(values: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _as_list(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


@contextmanager
def _engine_errors(activity: str) -> Iterator[None]:
    """Turn what torch raises into an EngineError, so that a search goes on in a fresh engine.

    Memory that has run out, device errors and shapes that a kernel refuses are all RuntimeError.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise EngineError(
                f"transformers ran out of memory while {activity}: {error}",
                hint="lower engine.batch_size",
            ) from error
        raise EngineError(f"transformers failed while {activity}: {error}") from error
