"""The driver of one live vLLM engine; the worker's side is `worker`.

The engine starts once, on the receiver. A candidate is a few hundred floats sent to the worker,
which rewrites the weights in place; then the prefix cache is dropped, and every question carries
the candidate's own cache salt besides. Encoded images stay, for no recipe touches the tower.

The core runs in this process on a CPU (a child would cost 30-60 s more to start and one core) and
in its own process on a GPU, unless configured. vLLM is configured through environment variables
in places; they are set here, before its first import, and nowhere else.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergefront.config import EngineConfig
from mergefront.engine.inplace import recipe_weights
from mergefront.engine.prompts import (
    Kept,
    chat_prompt,
    context_error,
    context_length,
    decode_image,
    image_key,
    image_size,
    item_key,
    load_processor,
)
from mergefront.errors import EngineError, MergefrontError
from mergefront.merging.sources import ModelRefs, Sources
from mergefront.records import Answer, Item, Seconds

if TYPE_CHECKING:
    from mergefront.recipe import Recipe

logger = logging.getLogger(__name__)

GIB = 1 << 30
MAX_IMAGES = 16
"""Images in one question."""
CPU_BLOCK = 32
"""Tokens of a KV block on a CPU; vLLM's 128 there would never share a short prefix."""

_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set unless the user has set them: quiet, nothing on stdout, no telemetry, no core pinning."""


class VllmEngine:
    """An `Engine` (see the laws there) on vLLM."""

    def __init__(
        self,
        settings: EngineConfig,
        refs: ModelRefs,
        method: str,
        parameters: Mapping[str, Any],
        folder: Path | None = None,
        groups: Collection[str] = (),
    ) -> None:
        self._fixed = folder is not None
        self._method = method
        self._parameters = dict(parameters)
        self._folder = Path(refs.receiver) if folder is None else folder
        self._loads = 0
        self._requests = 0
        self._salt = "receiver"
        self._broken = ""
        started = time.perf_counter()
        self._llm, self._in_process = _start(settings, self._folder)
        try:
            self._call("mergefront_watch")
            self._processor = load_processor(self._folder)
            if not self._fixed:
                self._open_sources(settings, refs, groups)
        except BaseException:
            self.close()
            raise
        self._limit = int(self._llm.model_config.max_model_len)
        self._rendered: Kept[dict[str, Any]] = Kept(_rendered_size)
        self._images: Kept[Any] = Kept(image_size)
        logger.info("vLLM started in %.1f s", time.perf_counter() - started)

    def _open_sources(
        self, settings: EngineConfig, refs: ModelRefs, groups: Collection[str]
    ) -> None:
        self._sources = Sources.open(refs)
        arguments = (refs.to_dict(), self._method, self._parameters, settings.snapshot_device)
        self._call("mergefront_open", arguments)
        if groups:
            self._call("mergefront_hold", (sorted(groups),))

    def load(self, recipe: Recipe) -> Seconds:
        if self._fixed:
            raise EngineError(f"this engine serves {self._folder} and loads no recipes")
        weights = recipe_weights(recipe, self._sources, self._method, self._parameters)
        self._broken = "the last recipe was not loaded"
        start = time.perf_counter()
        self._call("mergefront_load", (weights,))
        built = time.perf_counter()
        self._loads += 1
        self._salt = f"{recipe.hash()}-{self._loads}"
        self._drop_prefixes()
        self._broken = ""
        return Seconds(build=built - start, reset=time.perf_counter() - built)

    def generate(self, items: Sequence[Item]) -> list[Answer]:
        if self._broken:
            raise EngineError(f"{self._broken}: the engine's weights are undefined")
        self._drop_prefixes()
        numbers: dict[str, int] = {}
        outputs: dict[int, Any] = {}
        engine = self._llm.llm_engine
        added: list[str] = []
        try:
            for number, item in enumerate(items):
                self._requests += 1
                numbers[str(self._requests)] = number
                prompt = {**self._render(item), "cache_salt": self._salt}
                added.append(
                    engine.add_request(str(self._requests), prompt, _sampling(item.max_tokens))
                )
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        outputs[numbers[output.request_id]] = output
        finally:
            if engine.has_unfinished_requests():
                engine.abort_request(added, internal=True)
        return [_answer(outputs[number]) for number in range(len(items))]

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
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        if self._in_process:
            from vllm.distributed import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()

    def _drop_prefixes(self) -> None:
        if not self._llm.reset_prefix_cache():
            self._broken = "vLLM did not drop its prefix cache"
            raise EngineError("vLLM did not drop its prefix cache: requests are still running")

    def _call(self, name: str, arguments: tuple[Any, ...] = ()) -> list[Any]:
        """Run a worker method on every rank; our own errors pass, all else is an EngineError."""
        try:
            return list(self._llm.collective_rpc(name, args=arguments))
        except MergefrontError:
            raise
        except Exception as error:
            raise EngineError(f"{name} failed in vLLM's worker: {error}") from error

    def _render(self, item: Item) -> dict[str, Any]:
        """The item as vLLM takes it: token ids and processed images.

        Kept from candidate to candidate with an in-process core. With a core of its own, vLLM
        replaces images that the core has already by their names, in an order that both sides must
        follow, so that rendering has to be left to it each time.
        """
        if not self._in_process:
            return self._render_anew(item)
        prompt = self._rendered.get(item_key(item), lambda: self._render_anew(item))
        self._check_length(item, prompt)
        return prompt

    def _render_anew(self, item: Item) -> dict[str, Any]:
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        prompt: dict[str, Any] = {"prompt": chat_prompt(self._processor, item)}
        if item.images:
            keys = [image_key(data) for data in item.images]
            prompt["multi_modal_data"] = {"image": [self._image(item, i) for i in range(len(keys))]}
            prompt["multi_modal_uuids"] = {"image": keys}
        renderer = self._llm.renderer
        options = renderer.default_cmpl_tok_params.with_kwargs(add_special_tokens=False)
        try:
            parsed = parse_model_prompt(self._llm.model_config, prompt)
            (rendered,) = renderer.render_cmpl([parsed], options)
        except (ValueError, RuntimeError) as error:
            raise EngineError(f"item {item.id}: vLLM does not take its prompt: {error}") from error
        self._check_length(item, rendered)
        return dict(rendered)

    def _check_length(self, item: Item, prompt: Mapping[str, Any]) -> None:
        length = len(prompt["prompt_token_ids"])
        if length + item.max_tokens > self._limit:
            raise context_error(item, length, self._limit)

    def _image(self, item: Item, index: int) -> Any:
        make: Callable[[], Any] = lambda: decode_image(item, index)  # noqa: E731
        return make() if self._in_process else self._images.get(item.images[index], make)


def _start(settings: EngineConfig, folder: Path) -> tuple[Any, bool]:
    """Start vLLM on a folder; returns the LLM and whether its core is in this process."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as error:
        raise EngineError(
            f"vLLM does not import: {error}", hint="run `mergefront doctor`"
        ) from error
    cpu = current_platform.is_cpu()
    own_process = settings.multiprocess
    if own_process is None:
        own_process = not cpu or settings.tensor_parallel_size > 1
    with _start_environment(settings, own_process):
        try:
            return LLM(**_arguments(settings, folder, cpu)), not own_process
        except MergefrontError:
            raise
        except Exception as error:
            raise EngineError(f"vLLM did not start on {folder}: {error}") from error


def _arguments(settings: EngineConfig, folder: Path, cpu: bool) -> dict[str, Any]:
    """The arguments of vLLM's `LLM` that follow from the settings."""
    arguments: dict[str, Any] = {
        "model": str(folder),
        "dtype": settings.dtype,
        "seed": 0,
        "worker_extension_cls": "mergefront.engine.worker.MergeWorker",
        "max_model_len": settings.max_model_len or context_length(folder),
        "max_num_seqs": settings.max_num_seqs,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enforce_eager": cpu if settings.enforce_eager is None else settings.enforce_eager,
        "limit_mm_per_prompt": {"image": MAX_IMAGES, "video": 0},
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
    }
    memory = settings.memory_gb or (1.0 if cpu else None)
    if memory is not None:
        arguments["kv_cache_memory_bytes"] = int(memory * GIB)
    if settings.gpu_memory_utilization is not None:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
    if cpu:
        arguments["block_size"] = CPU_BLOCK
    if settings.encoder_cache_gb > 0:
        arguments["ec_manager_config"] = {
            "encoder_cache_manager_cls": (
                "mergefront.engine.encoder_cache.PinningEncoderCacheManager"
            ),
            "manager_config": {"bytes": int(settings.encoder_cache_gb * GIB)},
        }
    return arguments


@contextmanager
def _start_environment(settings: EngineConfig, own_process: bool) -> Iterator[None]:
    """What holds while vLLM starts: environment variables, threads, torch as we found it.

    vLLM's CPU worker replaces `torch.set_num_threads` by a function that warns, in our process
    too; it is put back, for vLLM itself calls it for every image.
    """
    import torch

    changed = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if own_process else "0",
        "HF_HUB_OFFLINE": "1",
    }
    if settings.threads is not None:
        changed["OMP_NUM_THREADS"] = str(settings.threads)
        if not own_process:
            torch.set_num_threads(settings.threads)
    before = {name: os.environ.get(name) for name in changed}
    set_threads = torch.set_num_threads
    os.environ.update(changed)
    try:
        yield
    finally:
        torch.set_num_threads = set_threads
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _sampling(max_tokens: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0, max_tokens=max_tokens, output_kind=RequestOutputKind.FINAL_ONLY
    )


def _answer(output: Any) -> Answer:
    said = output.outputs[0]
    return Answer(said.text.strip(), len(said.token_ids), said.finish_reason == "stop")


def _rendered_size(prompt: Mapping[str, Any]) -> int:
    """Bytes of the processed images of a rendered prompt."""
    import torch

    total = 0
    for items in prompt.get("mm_kwargs", {}).values():
        for item in items:
            for element in ({} if item is None else item.get_data()).values():
                if isinstance(element, torch.Tensor):
                    total += element.numel() * element.element_size()
    return total
