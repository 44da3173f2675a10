"""The driver of one live vLLM engine; the worker's side is `worker`.

The engine starts once, on the receiver. A candidate is a few hundred floats sent to the worker,
which rewrites the weights in place; then the prefix cache is dropped, and every question carries
the candidate's own cache salt besides. Encoded images stay, for no recipe touches the tower.

The core runs in this process on a CPU (a child would cost 30-60 s more to start and one core) and
in its own process on a GPU, unless configured.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mergefront.config import EngineConfig
from mergefront.engine.contract import OnAnswer
from mergefront.engine.inplace import check_donors
from mergefront.engine.labels import LabelTokens, Tokens, label_answer
from mergefront.engine.launch import shut_down, start
from mergefront.engine.prompts import (
    BoundedMemory,
    chat_prompt,
    context_error,
    decode_image,
    image_key,
    image_size,
    item_key,
    load_processor,
    rendered_size,
)
from mergefront.errors import CandidateError, EngineError, MergefrontError
from mergefront.models.locate import ModelFolders
from mergefront.records import Answer, Item, Seconds

if TYPE_CHECKING:
    from mergefront.merging.plan import Plan

logger = logging.getLogger(__name__)

T = TypeVar("T")

_COMPLETE = ("stop", "length")
"""vLLM's reasons for the end of an answer that was not broken off."""


class VllmEngine:
    """An `Engine` (see the laws there) on vLLM."""

    def __init__(
        self,
        settings: EngineConfig,
        models: ModelFolders | Path,
    ) -> None:
        self._models = models
        self._folder = models if isinstance(models, Path) else Path(models.receiver)
        self._loads = 0
        self._requests = 0
        self._salt = "receiver"
        self._broken = ""
        self._rendered: BoundedMemory[dict[str, Any]] = BoundedMemory(rendered_size)
        self._images: BoundedMemory[Any] = BoundedMemory(image_size)
        self._texts: BoundedMemory[str] = BoundedMemory(len)
        started = time.perf_counter()
        self._llm, self._watchdog = start(settings, self._folder)
        self._in_process = self._watchdog is None
        try:
            self._call("mergefront_watch")
            self._processor = load_processor(self._folder, settings.trust_remote_code)
            self._labels = LabelTokens(self._processor.tokenizer)
            if not isinstance(models, Path):
                self._call("mergefront_open", (models.to_dict(), settings.snapshot_device))
        except BaseException:
            self.close()
            raise
        self._limit = int(self._llm.model_config.max_model_len)
        on_cpu = self._llm.llm_engine.vllm_config.device_config.device_type == "cpu"
        self.batch = 1 if on_cpu else settings.max_num_seqs
        logger.info("vLLM started in %.1f s", time.perf_counter() - started)

    def load(self, plan: Plan) -> Seconds:
        if isinstance(self._models, Path):
            raise EngineError(f"this engine serves {self._folder} and loads no recipes")
        check_donors(plan, tuple(self._models.donors))
        recipe = plan.recipe
        self._broken = "the last recipe was not loaded"
        start = time.perf_counter()
        arguments = (dict(plan.contents), recipe.method, dict(recipe.parameters))
        for refused in self._call("mergefront_load", arguments):
            if refused:
                raise CandidateError(refused[0], hint=refused[1])
        built = time.perf_counter()
        self._loads += 1
        self._salt = f"{recipe.hash()}-{self._loads}"
        self._drop_prefixes()
        self._broken = ""
        return Seconds(build=built - start, reset=time.perf_counter() - built)

    def check(self, items: Sequence[Item]) -> None:
        try:
            for item in items:
                pictures = [decode_image(item, index) for index in range(len(item.images))]
                text = chat_prompt(self._processor, item)
                self._check_length(item, self._process(item, text, pictures))
                if item.labels:
                    self._labels.of(item, text)
        finally:
            self._forget_processed()

    def generate(self, items: Sequence[Item], on_answer: OnAnswer | None = None) -> list[Answer]:
        if self._broken:
            raise EngineError(f"{self._broken}: the engine's weights are undefined")
        self._drop_prefixes()
        engine = self._llm.llm_engine
        places: dict[str, int] = {}
        outputs: dict[int, Any] = {}
        added: list[str] = []
        try:
            for place, item in enumerate(items):
                prompt = {**self._render(item), "cache_salt": self._salt}
                self._requests += 1
                name = str(self._requests)
                places[name] = place
                added.append(engine.add_request(name, prompt, self._sampling(item)))
            while engine.has_unfinished_requests():
                for output in self._watched(engine.step):
                    if output.finished:
                        place = places[output.request_id]
                        outputs[place] = output
                        complete = output.outputs[0].finish_reason in _COMPLETE
                        if on_answer is not None and complete:
                            on_answer(place, self._answer(items[place], output))
        except MergefrontError:
            self._forget_processed()  # of an item that was processed, then refused
            raise
        except Exception as error:
            raise self._failure("vLLM failed while answering", error) from error
        finally:
            if len(outputs) < len(added) and not self._is_dead:
                engine.abort_request(added, internal=True)
        return [self._answer(item, outputs.get(place)) for place, item in enumerate(items)]

    def _sampling(self, item: Item) -> Any:
        if not item.labels:
            return _sampling(item.max_tokens)
        return _sampling(1, tuple(token for ids in self._label_tokens(item) for token in ids))

    def _answer(self, item: Item, output: Any) -> Answer:
        answer = _answer(item, output)
        if not item.labels:
            return answer
        logprobs = {token: lp.logprob for token, lp in output.outputs[0].logprobs[0].items()}
        return label_answer(item, self._label_tokens(item), logprobs)

    def _label_tokens(self, item: Item) -> Tokens:
        return self._labels.of(item, self._text(item))

    def parameter_hashes(self) -> dict[str, str]:
        ranks: list[dict[str, str]] = self._call("mergefront_hashes")
        if len(ranks) == 1:
            return ranks[0]
        return {
            f"{i}:{name}": value for i, rank in enumerate(ranks) for name, value in rank.items()
        }

    def tower_passes(self) -> int:
        return int(self._call("mergefront_passes")[0])

    def close(self) -> None:
        llm = self.__dict__.pop("_llm", None)
        if llm is None:
            return
        del self._rendered, self._images, self._texts
        shut_down(llm, self._watchdog)

    def _drop_prefixes(self) -> None:
        try:
            dropped = self._watched(self._llm.reset_prefix_cache)
        except Exception as error:
            raise self._failure("vLLM did not drop its prefix cache", error) from error
        if not dropped:
            self._broken = "vLLM did not drop its prefix cache"
            raise EngineError("vLLM did not drop its prefix cache: requests are still running")

    def _forget_processed(self) -> None:
        """Empty vLLM's memory of processed images, on both sides at once.

        The client's must never know an image that the core has not been sent. Encoded images stay.
        """
        try:
            self._watched(self._llm.reset_mm_cache)
        except Exception as error:
            raise self._failure("vLLM did not drop its processed images", error) from error

    def _call(self, name: str, arguments: tuple[Any, ...] = ()) -> list[Any]:
        """Run a worker method on every rank; our own errors pass, all else is an EngineError."""
        try:
            return list(self._watched(lambda: self._llm.collective_rpc(name, args=arguments)))
        except MergefrontError:
            raise
        except Exception as error:
            raise self._failure(f"{name} failed in vLLM's worker", error) from error

    @property
    def _is_dead(self) -> bool:
        """Whether the engine's processes are gone."""
        return self._watchdog is not None and bool(self._watchdog.diagnosis())

    def _watched(self, call: Callable[[], T]) -> T:
        """Return what a call to vLLM returns; it raises if the engine dies or stalls meanwhile."""
        with nullcontext() if self._watchdog is None else self._watchdog.watching():
            return call()

    def _failure(self, what: str, error: Exception) -> EngineError:
        """The error to raise for one of vLLM's, with the watchdog's reason where it has one."""
        reason = self._watchdog.diagnosis() if self._watchdog is not None else ""
        return EngineError(f"{what}: {reason or error}")

    def _render(self, item: Item) -> dict[str, Any]:
        """The item as vLLM takes it: token ids and processed images.

        Kept from candidate to candidate with an in-process core. With a core of its own, vLLM
        replaces images that the core has already by their names, in an order that both sides must
        follow, so that rendering has to be left to it each time.
        """
        if self._in_process:
            prompt = self._rendered.get(item_key(item), lambda: self._render_anew(item))
        else:
            prompt = self._render_anew(item)
        self._check_length(item, prompt)
        return prompt

    def _check_length(self, item: Item, prompt: Mapping[str, Any]) -> None:
        length = len(prompt["prompt_token_ids"])
        if length + item.max_tokens > self._limit:
            raise context_error(item, length, self._limit)

    def _render_anew(self, item: Item) -> dict[str, Any]:
        pictures = [self._image(item, index) for index in range(len(item.images))]
        return self._process(item, self._text(item), pictures)

    def _text(self, item: Item) -> str:
        return self._texts.get(item_key(item), lambda: chat_prompt(self._processor, item))

    def _process(self, item: Item, text: str, pictures: Sequence[Any]) -> dict[str, Any]:
        """vLLM's own processing: the token ids are those that the model sees, images expanded."""
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        prompt: dict[str, Any] = {"prompt": text}
        if pictures:
            prompt["multi_modal_data"] = {"image": list(pictures)}
            prompt["multi_modal_uuids"] = {"image": [image_key(data) for data in item.images]}
        renderer = self._llm.renderer
        options = renderer.default_cmpl_tok_params.with_kwargs(add_special_tokens=False)
        try:
            parsed = parse_model_prompt(self._llm.model_config, prompt)
            (rendered,) = renderer.render_cmpl([parsed], options)
        except Exception as error:
            raise EngineError(
                f"item {item.id}: vLLM does not take its prompt: {error}",
                hint="shorten the question, or raise engine.max_model_len",
            ) from error
        return dict(rendered)

    def _image(self, item: Item, index: int) -> Any:
        make: Callable[[], Any] = lambda: decode_image(item, index)  # noqa: E731
        return make() if self._in_process else self._images.get(item.images[index], make)


@cache
def _sampling(max_tokens: int, labels: tuple[int, ...] = ()) -> Any:
    """`labels`: tokens to report log-probabilities of."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0,
        max_tokens=max_tokens,
        logprob_token_ids=list(labels) or None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _answer(item: Item, output: Any) -> Answer:
    """The answer, if it ended by itself ("stop") or at `max_tokens` ("length").

    Raises:
        EngineError: it was aborted or failed, say because vLLM's core is shutting down.
    """
    reason = "nothing" if output is None else output.outputs[0].finish_reason
    if reason not in _COMPLETE:
        raise EngineError(f"item {item.id}: vLLM broke off its answer ({reason})")
    completion = output.outputs[0]
    return Answer(completion.text.strip(), len(completion.token_ids), reason == "stop")
