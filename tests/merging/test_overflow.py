"""Overflow of a candidate: found in every dtype, by weights alone where they tell, and never twice.

The exporter, which looks at every tensor that it makes, is the oracle: in place the same recipes
are refused. Real engines are held to it by `engine_contract`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from fixtures_cli import ZOO_RUN
from fixtures_models import perturbed, tiny_idefics3, tiny_llama
from mergefront.config import Donor, RunConfig
from mergefront.engine import Engine, open_engine
from mergefront.engine.inplace import InPlace, Target
from mergefront.engine.transformers import _stage
from mergefront.errors import CandidateError, CheckpointError, EngineError
from mergefront.merging import build
from mergefront.merging.plan import Plan, plan_of
from mergefront.merging.recipe import Recipe
from mergefront.models.locate import ModelNames, locate_models
from mergefront.models.safetensors import DTYPES
from mergefront.models.sources import Sources
from mergefront.search import loop as searching
from mergefront.search.engine_slot import MAX_FAILURES
from mergefront.search.loop import RunningSearch, start_search
from mergefront.search.setup import PreparedSearch, prepare_search
from mergefront.yaml_file import validate

KINDS = (torch.float32, torch.bfloat16, torch.float16)
NAME = "model.text_model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module", params=KINDS, ids=str)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelNames:
    """A receiver of each dtype, and a donor."""
    root = tmp_path_factory.mktemp("overflow")
    base = tiny_llama(root / "base", seed=2)
    return ModelNames(
        receiver=str(tiny_idefics3(root / "vlm", seed=1, dtype=request.param)),
        base=str(base),
        donors={"a": Donor(model=str(perturbed(base, root / "a", seed=3, scale=0.1)))},
    )


def in_place(sources: Sources, live: torch.dtype | None = None) -> InPlace:
    """Live tensors in the checkpoint's layout; of the checkpoint's dtype, or of another."""
    targets = []
    for group in sources.groups:
        for name in group.tensors:
            tensor = sources.receiver.tensor(name).clone()
            own = DTYPES[group.dtype] if live is None else live
            targets.append(Target(name, name, group, None, tensor.to(own)))
    return InPlace(targets, sources, _stage)


def built(engine: InPlace, recipe: Recipe, sources: Sources) -> None:
    plan = plan_of(recipe, sources)
    engine.build(plan.contents, plan.method)


@pytest.mark.parametrize("method", ["task_arithmetic", "linear", "ties"])
@pytest.mark.parametrize("side", [0.9, 0.99, 1.01, 1.1, 1e3])
def test_in_place_refuses_what_the_exporter_refuses(
    models: ModelNames, method: str, side: float
) -> None:
    """On both sides of the edge: the coefficient that takes the largest delta to the limit."""
    sources = Sources.open(locate_models(models))
    dtype = sources.receiver.tensor(NAME).dtype
    largest = float((sources.tensor("a", NAME).float() - sources.tensor("base", NAME)).abs().max())
    if method == "linear":
        largest = float((sources.tensor("a", NAME) - sources.tensor("receiver", NAME)).abs().max())
    c = side * torch.finfo(dtype).max / largest
    parameters = {"density": 1.0} if method == "ties" else {}
    recipe = Recipe(method, models, {"a": {"1.mlp": c}}, parameters)
    plan = plan_of(recipe, sources)
    refused = False
    for group in sources.groups:
        for name in group.tensors:
            try:
                list(build.combined_pieces(sources, plan, name, plan.contents[group.name]))
            except CheckpointError:
                refused = True
    assert refused or side < 1.0  # another tensor of the group may have larger deltas
    engine = in_place(sources)
    if refused:
        words = rf"group 1\.mlp: .*layers\.1\.mlp.* overflow {str(dtype).removeprefix('torch.')}"
        with pytest.raises(CandidateError, match=words):
            engine.build(plan.contents, plan.method)
    else:
        engine.build(plan.contents, plan.method)


def test_a_narrower_engine_overflows_earlier(models: ModelNames) -> None:
    recipe = Recipe("task_arithmetic", models, {"a": {"1.mlp": 1e6}})
    sources = Sources.open(locate_models(recipe.models))
    plan = plan_of(recipe, sources)
    with pytest.raises(CandidateError, match="overflow float16"):
        in_place(sources, torch.float16).build(plan.contents, plan.method)
    if sources.receiver.tensor(NAME).dtype != torch.float16:
        in_place(sources, torch.float32).build(plan.contents, plan.method)


@pytest.mark.parametrize("c", [4e38, -1e39])
def test_a_coefficient_beyond_fp32_overflows_whatever_the_deltas(
    models: ModelNames, c: float
) -> None:
    recipe = Recipe("task_arithmetic", models, {"a": {"1.mlp": c}})
    sources = Sources.open(locate_models(recipe.models))
    with pytest.raises(CandidateError, match=r"group 1\.mlp"):
        built(in_place(sources), recipe, sources)


def test_ordinary_candidates_cost_no_look_at_what_was_written(
    models: ModelNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weighted sum's terms are looked at once a run, and no live tensor ever is."""
    recipe = Recipe("task_arithmetic", models, {"a": {"*": 0.5}})
    sources = Sources.open(locate_models(recipe.models))
    engine = in_place(sources)
    live = {target.live.data_ptr() for mine in engine._targets.values() for target in mine}
    looked: list[int] = []
    aminmax = Tensor.aminmax

    def counting(tensor: Tensor, **how: Any) -> Any:
        looked.append(tensor.data_ptr())
        return aminmax(tensor, **how)

    built(engine, recipe, sources)
    monkeypatch.setattr(Tensor, "aminmax", counting)
    for c in (0.1, -0.7, 2.0):
        again = Recipe("task_arithmetic", models, {"a": {"*": c}})
        built(engine, again, sources)
    assert looked == []
    voted = Recipe("ties", models, {"a": {"1.mlp": 0.3}})
    built(engine, voted, sources)
    assert live & set(looked)


# --- a search -----------------------------------------------------------------------------------


@pytest.fixture
def overflowing(tmp_path: Path) -> PreparedSearch:
    """All candidates but the receiver are far too large."""
    line = {"donors": "tied", "parts": ["attention", "mlp", "norm"], "low": 0.0, "high": 1e60}
    space = {"knobs": [line], "frozen": ["embedding", "head"]}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    config = {
        **ZOO_RUN,
        "space": str(tmp_path / "space.yaml"),
        "items": {"search": 8, "validation": 8, "test": 8},
        "budget": {"candidates": MAX_FAILURES + 3},
        "search": {"sampler": "random"},
        "report": {"finalists": 2},
        "engine": {"kind": "transformers", "dtype": "float32", "threads": 1},
        "tracking": {"enabled": False},
    }
    return prepare_search(validate(config, RunConfig, "x.yaml"), tmp_path / "runs")


@pytest.mark.slow
def test_a_candidate_that_overflows_fails_at_once_and_the_engine_goes_on(
    overflowing: PreparedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Engine] = []
    loads: list[str] = []

    def counted(*arguments: Any, **more: Any) -> Engine:
        engine = open_engine(*arguments, **more)
        load = engine.load

        def loading(plan: Plan) -> Any:
            loads.append(plan.recipe.hash())
            return load(plan)

        monkeypatch.setattr(engine, "load", loading)
        opened.append(engine)
        return engine

    monkeypatch.setattr(searching, "open_engine", counted)
    last = overflowing.receiver_plan()
    with overflowing, start_search(overflowing) as search:
        found = list(search.candidates())
        search.slot.engine().load(last)
    failed = [one for one in found if one.failure]
    assert len(found) - len(failed) == 1  # the receiver, and more in a row than an engine may fail
    assert len(failed) > MAX_FAILURES
    assert all("overflow float32" in one.failure for one in failed)
    assert len(opened) == 1
    tried = [one for one in loads if one not in (last.recipe.hash(), loads[0])]
    assert len(tried) == len(set(tried)) == len(failed)


@pytest.mark.slow
def test_an_engine_that_fails_is_still_tried_afresh(
    overflowing: PreparedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def failing(search: RunningSearch, number: int, point: Any, origin: str) -> Any:
        asked.append(number)
        raise EngineError("it died")

    monkeypatch.setattr(RunningSearch, "evaluate", failing)
    with (
        overflowing,
        start_search(overflowing) as search,
        pytest.raises(EngineError, match="3 engines in a row failed, the last with: it died"),
    ):
        list(search.candidates())
    assert len(asked) == 2 * MAX_FAILURES
