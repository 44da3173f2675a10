"""One receiver family in a live engine: what is merged in place is what is exported.

Questions are text only: an image processor is another matter for each family, and the towers are
copied byte for byte (`test_families`). Their parameters are in the engine and compared too.
As a script, `family_engine.py KIND NAME ...` checks these families one after the other.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers as hf

from fixtures_families import FAMILIES, make_donor, native
from fixtures_models import tiny_tokenizer
from mergefront.config import Donor, EngineConfig
from mergefront.engine import open_engine
from mergefront.errors import EngineError, MergefrontError
from mergefront.merging import build
from mergefront.merging.plan import plan_of
from mergefront.merging.recipe import Recipe
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.locate import ModelNames, locate_models
from mergefront.models.sources import Sources
from mergefront.records import Item

MODULES = {"vllm": "mergefront.engine.vllm", "transformers": "mergefront.engine.transformers"}


UNFILLED = {"Phi-3.5-Vision": "language_model.model.embed_tokens.weight"}
"""What vLLM makes and never fills, whatever lay in that memory: its own embedding is another one,
used only beside images. What such a model says of words alone means nothing."""


class InternVLChatConfig(hf.PreTrainedConfig):  # type: ignore[misc]  # no types there
    """As in InternVL's repositories: the text model's config under `llm_config`."""

    model_type = "internvl_chat"

    def __init__(self, llm_config: Any = None, vision_config: Any = None, **values: Any) -> None:
        self.vision_config = hf.PreTrainedConfig(**(vision_config or {}))
        words = dict(llm_config or {})
        kind = words.pop("model_type", "qwen2")
        known = kind in hf.CONFIG_MAPPING
        self.text_config = (
            hf.AutoConfig.for_model(kind, **words) if known else hf.LlamaConfig(**words)
        )
        super().__init__(**values)

    def get_text_config(self, decoder: Any = None, encoder: Any = None) -> Any:
        return self.text_config


class Phi3VConfig(hf.Phi3Config):  # type: ignore[misc]  # no types there
    """Phi-3 with its towers' settings beside."""

    model_type = "phi3_v"


class MiniCPMVConfig(hf.Qwen2Config):  # type: ignore[misc]  # no types there
    """The text model's values, and `vision_config`."""

    model_type = "minicpmv"

    def __init__(self, vision_config: Any = None, **values: Any) -> None:
        self.vision_config = hf.SiglipVisionConfig(**(vision_config or {}))
        super().__init__(**values)


for config in (InternVLChatConfig, Phi3VConfig, MiniCPMVConfig):
    hf.AutoConfig.register(config.model_type, config, exist_ok=True)


class TextProcessor:
    """A tokenizer where a processor is expected."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.chat_template = tokenizer.chat_template
        self.apply_chat_template = tokenizer.apply_chat_template

    def __call__(self, **inputs: Any) -> Any:
        return hf.BatchFeature(dict(self.tokenizer(**inputs)))


def questions(number: int = 8) -> list[Item]:
    """Questions of words, answers of up to four tokens."""
    return [
        Item(
            id=f"q{i}",
            task="words",
            question=" ".join(f"w{(7 * i + 3 * j) % 50}" for j in range(12 + i)),
            images=(),
            answers=("w0",),
            cluster=str(i),
            max_tokens=4,
        )
        for i in range(number)
    ]


def check(name: str, kind: str, root: Path) -> dict[str, Any]:
    """Merge half of a donor in place and into a checkpoint, and compare hashes and answers.

    Embedding and head are merged too wherever the vocabularies agree.
    """
    family = FAMILIES[name]
    hub = "transformers 4"  # vLLM 0.32 does not know towers as transformers 5 saves them
    layout = hub if hub in family.layouts else family.layouts[0]
    receiver = family.make(root / "receiver", layout, seed=2, tied=family.tied)
    (class_name,) = Checkpoint.open(receiver).config["architectures"]
    if kind == "vllm" and not in_vllm(class_name):
        raise EngineError(f"vLLM has no {class_name} of its own")
    donor = make_donor(root / "donor", family.donor, seed=3, tied=family.tied)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(receiver)
    models = ModelNames(receiver=str(receiver), donors={"donor": Donor(model=str(donor))})
    parts = {"*", "embedding", "head"} - ({"head"} if family.tied else set())
    parts -= {"embedding"} if family.donor == "mllama" else set()
    recipe = Recipe("linear", models, {"donor": dict.fromkeys(sorted(parts), 0.5)})
    settings = EngineConfig(kind=kind, dtype="float32", memory_gb=0.2, threads=1, max_model_len=128)
    located, items = locate_models(recipe.models), questions()
    sources = Sources.open(located)
    labelled = [replace(item, labels=("w1", "w2")) for item in items]  # probabilities always move
    with text_only(kind, TextProcessor(tokenizer)):
        started = time.perf_counter()
        engine = open_engine(settings, located)
        try:
            fresh = engine.parameter_hashes()
            plain = engine.generate(labelled)
            part = Recipe("linear", models, {"donor": {"*.mlp": 0.5}})  # a part alone
            engine.load(plan_of(part, sources))
            engine.load(plan_of(recipe, sources))
            merged, answers = engine.parameter_hashes(), engine.generate(items)
            moved = engine.generate(labelled) != plain
            engine.load(plan_of(Recipe("linear", models), sources))
            again = engine.parameter_hashes()
        finally:
            engine.close()
        (root / "out").mkdir()
        build.write(sources, recipe, root / "out")
        engine = open_engine(settings, root / "out")
        try:
            exported, said = engine.parameter_hashes(), engine.generate(items)
        finally:
            engine.close()
    unfilled = UNFILLED.get(name) if kind == "vllm" else None
    for hashes in (fresh, merged, again, exported):
        hashes.pop(unfilled or "", None)
    return {
        "parameters": len(fresh),
        "changed": sum(merged[one] != fresh[one] for one in fresh.keys() & merged.keys()),
        "hashes": merged == exported,
        "answers": None if unfilled else answers == said,
        "moved": None if unfilled else moved,
        "restored": again == fresh,
        "seconds": round(time.perf_counter() - started, 1),
    }


def in_vllm(class_name: str) -> bool:
    """Whether vLLM has a module for this class; others it would run through transformers."""
    from vllm import ModelRegistry

    return class_name in ModelRegistry.get_supported_archs()


@contextmanager
def text_only(kind: str, processor: TextProcessor) -> Iterator[None]:
    """Let engines start without image processors: no images come."""
    import importlib

    from mergefront.engine import launch

    module: Any = importlib.import_module(MODULES[kind])
    before = launch.MAX_IMAGES, module.load_processor
    launch.MAX_IMAGES = 0
    module.load_processor = lambda *_: processor
    try:
        with whole_towers() if kind == "vllm" else nullcontext():
            yield
    finally:
        launch.MAX_IMAGES, module.load_processor = before


@contextmanager
def whole_towers() -> Iterator[None]:
    """Let vLLM build and fill vision towers although no images will come, if they can be tiny.

    DeepSeek-VL2's has 400 M parameters whatever its config says, and is left out. Phi-3-V's has
    one size written in vLLM's source, which is changed.
    """
    from vllm.model_executor.models import deepseek_vl2, phi3v
    from vllm.model_executor.models.interfaces import SupportsMultiModal

    before = SupportsMultiModal._mark_tower_model, phi3v.CLIP_VIT_LARGE_PATCH14_336_CONFIG
    small = hf.CLIPVisionConfig(**native.vision("clip_vision_model"))
    deepseek_vl2.DeepseekVLV2ForCausalLM._mark_tower_model = before[0]
    SupportsMultiModal._mark_tower_model = lambda *_, **__: nullcontext()
    phi3v.CLIP_VIT_LARGE_PATCH14_336_CONFIG = small
    try:
        yield
    finally:
        SupportsMultiModal._mark_tower_model, phi3v.CLIP_VIT_LARGE_PATCH14_336_CONFIG = before
        del deepseek_vl2.DeepseekVLV2ForCausalLM._mark_tower_model


def main(kind: str, *names: str) -> None:
    """Print one JSON line a family: the result of `check`, or the error."""
    for name in names:
        with tempfile.TemporaryDirectory() as root:
            try:
                result = check(name, kind, Path(root))
            except (MergefrontError, AttributeError, TypeError, ValueError) as error:
                result = {"error": " ".join(str(error).split())}
        print(json.dumps({"name": name} | result), flush=True)  # noqa: T201
    os._exit(0)  # vLLM's threads need not be waited for


if __name__ == "__main__":
    main(*sys.argv[1:])
