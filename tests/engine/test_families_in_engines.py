"""Families in a live engine: what is merged in place is what is exported.

In vLLM those whose model files need no torchvision (Idefics3 is in `test_engine_vllm`); all others
by `make families`. Two that vLLM lacks run in the transformers engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from family_engine import check
from fixtures_families import FAMILIES
from mergefront.errors import EngineError
from mergefront.models.locate import ModelFolders
from mergefront.models.sources import Sources

pytestmark = [pytest.mark.slow, pytest.mark.engine]

WITHOUT_TORCHVISION = ("SmolVLM", "PaliGemma 2", "MiniCPM-V 2.6 (Qwen2)", "Phi-3.5-Vision")


@pytest.mark.parametrize("name", WITHOUT_TORCHVISION)
def test_in_vllm(name: str, tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    result = check(name, "vllm", tmp_path)
    assert (result["hashes"], result["restored"]) == (True, True)
    said = None if name == "Phi-3.5-Vision" else True  # None: nothing that words alone could show
    assert (result["answers"], result["moved"]) == (said, said)
    assert result["changed"] >= 15


@pytest.mark.parametrize("name", ["Idefics2", "Llama 3.2 Vision"])
def test_in_transformers(name: str, tmp_path: Path) -> None:
    result = check(name, "transformers", tmp_path)
    assert (result["hashes"], result["restored"], result["answers"]) == (True, True, True)
    assert result["moved"]
    assert result["changed"] == (21 if name == "Idefics2" else 29)


def test_weights_that_were_repacked_after_loading_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As vLLM does with experts on a CPU: shape and dtype stay, the order of values does not."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from mergefront.engine import worker

    monkeypatch.setattr(worker, "get_tensor_model_parallel_world_size", lambda: 1)
    folder = FAMILIES["SmolVLM"].make(tmp_path / "receiver", "transformers 5", seed=2)
    sources = Sources.open(ModelFolders(str(folder), None, {}))
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    parameters = dict(model.named_parameters())

    def load_weights(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            parameters[name].data.copy_(tensor)

    model.load_weights = load_weights
    worker.LiveModel(model, sources, "cpu")
    packed = "model.text_model.layers.0.mlp.down_proj.weight"
    data = parameters[packed].data
    data.copy_(data.view(2, -1).T.reshape(data.shape))
    with pytest.raises(EngineError, match=f"parameter {packed} is kept in a layout of the engine"):
        worker.LiveModel(model, sources, "cpu")
