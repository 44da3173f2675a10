"""Where a recipe becomes answers: one live model, rebuilt in place for every candidate.

Reading order: `contract`, `inplace` (pristine terms and the weighted sum, shared by
all engines), `transformers` (the reference engine), `vllm` (the driver) with `launch` (how vLLM is
started), `worker` (what runs inside vLLM's worker) with `layout` (its loader, and whether weights
are where the loader puts them), `encoder_cache` (each image is encoded once a run), `prompts`,
`labels`, `answering` (questions to an engine, and marks for its answers), `activations` (what
donors change in the receiver's modules).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from mergefront.engine.contract import Engine, OnAnswer

if TYPE_CHECKING:
    from mergefront.config import EngineConfig
    from mergefront.models.locate import ModelFolders

__all__ = ["Engine", "OnAnswer", "open_engine"]


def open_engine(settings: EngineConfig, models: ModelFolders | Path) -> Engine:
    """Start an engine on the receiver of `models`, ready to load recipes on them.

    The sources of a group are read when a recipe first touches it. Given a folder, the engine
    serves that checkpoint alone and loads no recipes.

    Raises:
        EngineError: the engine is not installed, did not start, or cannot be rewritten in place.
    """
    match settings.kind:
        case "vllm":
            from mergefront.engine.vllm import VllmEngine

            return VllmEngine(settings, models)
        case "transformers":
            from mergefront.engine.transformers import TransformersEngine

            return TransformersEngine(settings, models)
        case _ as unknown:
            assert_never(unknown)
