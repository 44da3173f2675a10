"""Checkpoints written in another floating type than the receiver's: rounded once, and said so."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForImageTextToText

from fixtures_cli import Command, runner
from fixtures_models import perturbed, rewrite, tensors_of, tiny_idefics3, tiny_llama
from mergefront.config import Donor, EngineConfig
from mergefront.engine import open_engine
from mergefront.engine.inplace import model_hash
from mergefront.errors import CheckpointError, EngineError, UserError
from mergefront.files import whole_folder
from mergefront.jobs.export import merge
from mergefront.jobs.verify import ScoredCandidate, comparable, same_tensors, verify
from mergefront.merging import build
from mergefront.merging.plan import plan_of
from mergefront.merging.recipe import Override, Recipe, identity
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.locate import ModelNames, locate_models
from mergefront.models.sources import Sources
from mergefront.models.writer import set_config_dtype
from mergefront.records import Dtype
from mergefront.tasks import ItemSet

pytestmark = pytest.mark.slow

FLOATS: tuple[Dtype, ...] = ("float32", "bfloat16", "float16")
command = pytest.fixture(runner)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("dtype")
    made = {
        "float32": tiny_idefics3(root / "float32", seed=1),
        "bfloat16": tiny_idefics3(root / "bfloat16", seed=1, dtype=torch.bfloat16),
        "base": tiny_llama(root / "base", seed=2),
    }
    tensors = tensors_of(made["float32"])
    for name in tensors:
        if "mlp" in name or "connector" in name:  # of the tower and of the language model
            tensors[name] = tensors[name].bfloat16()
    tensors["model.vision_model.positions"] = torch.arange(7)
    tensors["model.vision_model.mask"] = torch.tensor([True, False])
    tensors["model.vision_model.bias_mask"] = torch.tensor([0.0, -torch.inf])
    made["mixed"] = rewrite(made["float32"], root / "mixed", tensors)
    for alias, seed in (("a", 3), ("b", 4)):
        made[alias] = perturbed(made["base"], root / alias, seed=seed, scale=0.1)
    return made


def recipe_on(zoo: Mapping[str, Path], receiver: str, method: str = "task_arithmetic") -> Recipe:
    donors = {alias: Donor(model=str(zoo[alias])) for alias in ("a", "b")}
    models = ModelNames(receiver=str(zoo[receiver]), base=str(zoo["base"]), donors=donors)
    overrides = (Override(groups=("1.attention",), source="a"),)
    return Recipe(method, models, {"a": {"*": 0.4}, "b": {"0.mlp": -0.3}}, overrides=overrides)


def written(recipe: Recipe, out: Path, dtype: Dtype, **options: Any) -> dict[str, torch.Tensor]:
    with whole_folder(out) as folder:
        build.write(
            Sources.open(locate_models(recipe.models)), recipe, folder, dtype=dtype, **options
        )
    opened = Checkpoint.open(out)
    return {name: opened.tensor(name) for name in opened.headers}


@pytest.mark.parametrize("method", ["task_arithmetic", "linear", "ties", "dare_linear"])
@pytest.mark.parametrize("receiver", ["float32", "bfloat16", "mixed"])
def test_every_type_is_one_rounding_of_the_fp32_result(
    zoo: dict[str, Path], tmp_path: Path, receiver: str, method: str
) -> None:
    recipe = recipe_on(zoo, receiver, method)
    made = {dtype: written(recipe, tmp_path / dtype, dtype) for dtype in (*FLOATS, "auto")}
    own = Checkpoint.open(zoo[receiver])
    assert made["auto"].keys() == set(own.headers)
    for name, exact in made["float32"].items():
        mine = own.tensor(name).dtype
        for dtype in ("bfloat16", "float16"):
            wanted = exact.to(getattr(torch, dtype)) if mine.is_floating_point else exact
            assert torch.equal(made[dtype][name], wanted)
            assert made[dtype][name].dtype == wanted.dtype
        assert torch.equal(made["auto"][name], exact.to(mine))
        assert made["auto"][name].dtype == mine


@pytest.mark.parametrize(("receiver", "dtype"), [("float32", "float32"), ("bfloat16", "bfloat16")])
def test_the_receivers_own_type_by_name_is_auto(
    zoo: dict[str, Path], tmp_path: Path, receiver: str, dtype: Dtype
) -> None:
    recipe = identity(recipe_on(zoo, receiver).models)
    for number, one in enumerate((dtype, "auto")):
        written(recipe, tmp_path / f"{number}", one)
    by_name, auto = (tmp_path / f"{n}" / "model.safetensors" for n in (0, 1))
    assert by_name.read_bytes() == auto.read_bytes()
    assert json.loads((tmp_path / "0" / "config.json").read_text())["dtype"] == dtype


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("receiver", ["float32", "bfloat16"])
def test_transformers_loads_it_in_that_type(
    zoo: dict[str, Path], tmp_path: Path, receiver: str, dtype: Dtype
) -> None:
    written(recipe_on(zoo, receiver), tmp_path / "out", dtype, shard_bytes=100_000)
    model, info = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "out", output_loading_info=True, dtype="auto"
    )
    assert not any(info.values())
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"dtype": "bfloat16"}, {"dtype": "float16"}),
        ({"torch_dtype": "bfloat16"}, {"torch_dtype": "float16"}),
        ({"model_type": "x"}, {"model_type": "x", "torch_dtype": "float16"}),
        ({"dtype": None}, {"dtype": None, "torch_dtype": "float16"}),
        (
            {"torch_dtype": "float32", "text_config": {"dtype": "bfloat16", "name": "dtype"},
             "vision_config": {"torch_dtype": "bfloat16", "dtype": None},
             "thinker_config": {"audio_config": {"torch_dtype": "float32"}}},
            {"torch_dtype": "float16", "text_config": {"dtype": "float16", "name": "dtype"},
             "vision_config": {"torch_dtype": "float16", "dtype": None},
             "thinker_config": {"audio_config": {"torch_dtype": "float16"}}},
        ),
    ],
)  # fmt: skip
def test_config_json_follows_in_every_part(
    tmp_path: Path, config: dict[str, Any], wanted: dict[str, Any]
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    set_config_dtype(file, "float16")
    assert json.loads(file.read_text()) == wanted


@pytest.mark.parametrize("dtype", ["auto", "float32", "float16"])
def test_bytes_are_those_of_the_type_written(
    zoo: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Dtype
) -> None:
    recipe, done = recipe_on(zoo, "bfloat16"), []
    made = written(recipe, tmp_path / "out", dtype, progress=lambda *at: done.append(at))
    total = sum(tensor.nbytes for tensor in made.values())
    sources = Sources.open(locate_models(recipe.models))
    assert total == sources.receiver.written_bytes(dtype)
    assert total == sources.receiver.written_bytes() * {"float32": 2}.get(dtype, 1)
    assert done[-1] == (total, total)
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(total, 1, total - 1))
    with pytest.raises(UserError, match="no space for"):
        merge(recipe, sources, tmp_path / "full", dtype=dtype)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(total, 0, total))
    merge(recipe, sources, tmp_path / "fits", dtype=dtype)


def test_what_does_not_fit_into_float16_is_named_and_nothing_is_written(
    zoo: dict[str, Path], tmp_path: Path
) -> None:
    tensors = tensors_of(zoo["bfloat16"])
    name = next(one for one in tensors if "vision" in one)
    tensors[name].view(-1)[3] = 1e5
    loud = rewrite(zoo["bfloat16"], tmp_path / "loud", tensors)
    recipe = recipe_on({**zoo, "loud": loud}, "loud")
    sources, out = Sources.open(locate_models(recipe.models)), tmp_path / "out" / "here"
    with pytest.raises(CheckpointError, match=rf"copied tensor '{name}' overflows float16") as told:
        merge(recipe, sources, out, dtype="float16")
    assert told.value.hint == "write it in bfloat16 or float32"
    assert not list(out.parent.iterdir())
    merge(recipe, sources, tmp_path / "fine", dtype="float32")
    large = Recipe("task_arithmetic", recipe.models, {"a": {"1.mlp": 1e8}})
    words = r"merged tensor 'model\.text_model\.layers\.1\.mlp\S+' overflows float16, .* 65504"
    with pytest.raises(CheckpointError, match=words):
        written(large, tmp_path / "large", "float16")
    assert written(large, tmp_path / "large", "float32")


def test_the_command_writes_it_and_says_so(
    zoo: dict[str, Path], tmp_path: Path, command: Command
) -> None:
    recipe, out = tmp_path / "recipe.json", tmp_path / "out"
    recipe.write_text(recipe_on(zoo, "bfloat16").to_json())
    code, printed, err = command("merge", recipe, "--out", out, "--dtype", "float16")
    assert (code, printed.strip()) == (0, str(out))
    assert "written in float16" in err
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["dtype"] == {"written": "float16", "receiver": ["bfloat16"]}
    card = (out / "README.md").read_text()
    assert "All weights are in float16; the receiver's are in bfloat16." in card
    assert "mergefront merge recipe.json --out DIR --dtype float16" in card
    code, _, err = command("merge", recipe, "--out", tmp_path / "no", "--dtype", "int8")
    assert code == 2
    assert "float16" in err
    assert command("merge", recipe, "--out", tmp_path / "own", "--dtype", "bfloat16")[0] == 0
    assert "dtype" not in json.loads((tmp_path / "own" / "provenance.json").read_text())


# --- what can be verified -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("receiver", "engine", "dtype", "agree"),
    [
        ("float32", "bfloat16", "bfloat16", True),
        ("mixed", "bfloat16", "bfloat16", True),
        ("float32", "float32", "bfloat16", False),
        ("bfloat16", "float32", "float32", False),
        ("float32", "auto", "bfloat16", False),
    ],
)
def test_hashes_are_compared_where_they_must_agree(
    zoo: dict[str, Path], tmp_path: Path, receiver: str, engine: Any, dtype: Dtype, agree: bool
) -> None:
    recipe = recipe_on(zoo, receiver)
    if receiver == "mixed":  # without the tensors that transformers does not know
        tensors = {n: t for n, t in tensors_of(zoo["mixed"]).items() if "mask" not in n}
        del tensors["model.vision_model.positions"]
        folder = rewrite(zoo["float32"], tmp_path / "mixed", tensors)
        recipe = recipe_on({**zoo, "mixed": folder}, "mixed")
    sources = Sources.open(locate_models(recipe.models))
    settings = EngineConfig(kind="transformers", dtype=engine, threads=1)
    assert comparable(sources.receiver, settings, dtype) == agree
    scoring = open_engine(settings, sources.folders)
    try:
        scoring.load(plan_of(recipe, sources))
        scored = ScoredCandidate(model_hash(scoring.parameter_hashes()), [])
    finally:
        scoring.close()
    out = merge(recipe, sources, tmp_path / "out", dtype=dtype)
    items = ItemSet({}, {})  # no record is asked again
    verified = verify(out, sources, settings, items, scored, dtype)
    assert verified.same_as_scored == agree
    compared = any("hash to those scored" in words for words in verified.sentences())
    assert compared == agree
    assert (
        any(words.startswith("not compared: parameter") for words in verified.sentences()) != agree
    )
    if agree:
        with pytest.raises(EngineError, match="exported parameters hash to"):
            verify(out, sources, settings, items, ScoredCandidate("0" * 64, []), dtype)
    with pytest.raises(EngineError, match="is not as in the receiver"):
        same_tensors(out, sources)


def test_an_engine_that_asks_the_config_may_choose_another_type(
    zoo: dict[str, Path], tmp_path: Path
) -> None:
    """Tensors in fp32, a config that names bf16, in which it was scored; the file names fp32."""
    folder = tmp_path / "receiver"
    shutil.copytree(zoo["float32"], folder)
    set_config_dtype(folder / "config.json", "bfloat16")
    recipe = recipe_on({**zoo, "named": folder}, "named")
    sources = Sources.open(locate_models(recipe.models))
    settings = EngineConfig(kind="transformers", threads=1)
    scoring = open_engine(settings, sources.folders)
    try:
        scoring.load(plan_of(recipe, sources))
        scored = ScoredCandidate(model_hash(scoring.parameter_hashes()), [])
    finally:
        scoring.close()
    for dtype, same in (("auto", True), ("float32", False)):
        out = merge(recipe, sources, tmp_path / dtype, dtype=cast("Dtype", dtype))
        verified = verify(out, sources, settings, ItemSet({}, {}), scored, cast("Dtype", dtype))
        assert verified.same_as_scored == same
        assert ("dtype" in verified.to_dict()) != same
