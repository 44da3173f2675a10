"""`mergefront plan`: verdicts against the real pairing, counts against brute force, refusals."""

from __future__ import annotations

import json
import math
import shutil
import socket
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures_cli import ZOO_RUN, Command, runner
from fixtures_hub import COMMIT, LocalHub, serving
from fixtures_models import (
    perturbed,
    rewrite,
    tensors_of,
    tiny_idefics3,
    tiny_llama,
    tiny_llava,
    tiny_qwen2,
    tiny_qwen2_vl,
)
from mergefront import files
from mergefront.config import RunConfig
from mergefront.jobs.plan import Hub, RunForecast, cost, make_plan
from mergefront.jobs.plan.backbone import Backbone, backbone_of
from mergefront.jobs.plan.facts import look_up
from mergefront.jobs.plan.memory import ACTIVATIONS, GIB, Memory, engine_memory
from mergefront.merging.methods import METHODS, method_of
from mergefront.merging.slots import SourceSlot
from mergefront.runs.reopen import lay_out
from mergefront.search.loop import start_search
from mergefront.search.setup import prepare_search
from mergefront.space.file import load_space
from mergefront.yaml_file import load_yaml, validate

ROOT = Path(__file__).parents[2]


@pytest.fixture
def mergefront_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return runner(monkeypatch, capsys)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A receiver, its donor and base, and models that do not fit for one reason each."""
    folder = tmp_path_factory.mktemp("models")
    tiny_idefics3(folder / "vlm", seed=0)
    base = tiny_llama(folder / "base", seed=1)
    donor = perturbed(base, folder / "donor", seed=2, scale=0.02)
    tiny_llama(folder / "wide", seed=3, hidden=128)
    tiny_llama(folder / "deep", seed=4, layers=4)
    tiny_llama(folder / "words", seed=5, vocab=72)
    tensors = tensors_of(donor)
    rewrite(donor, folder / "fast", tensors, {"rope_parameters": {"rope_theta": 7e6}})
    shorn = {name: one for name, one in tensors.items() if "layers.1.mlp.up" not in name}
    rewrite(donor, folder / "shorn", shorn)
    shutil.copytree(donor, folder / "pickled")
    (folder / "pickled" / "model.safetensors").rename(folder / "pickled" / "pytorch_model.bin")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and a client that may use the network (of this machine)."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


def written(folder: Path, **changes: Any) -> str:
    """A configuration file: the zoo's, changed."""
    path = folder / "x.yaml"
    path.write_text(yaml.safe_dump({**ZOO_RUN, **changes}))
    return str(path)


def tiny(models: Path, **changes: Any) -> dict[str, Any]:
    """The fields of a run of the tiny models; `donor` and `base` by folder name."""
    donor = {"model": str(models / changes.pop("donor", "donor"))}
    base = changes.pop("base", "base")
    named = {} if base is None else {"base": str(models / base)}
    few = {"search": 8, "validation": 8, "test": 8}
    return {"receiver": str(models / "vlm"), "donors": {"d": donor | named}, "base": None,
            "items": few, **changes}  # fmt: skip


def test_a_plan_of_the_zoo_counts_what_a_search_opens(tmp_path: Path) -> None:
    plan = make_plan("digits", hub=None, gpu_gib=80.0)
    config = load_yaml(files.find_yaml("configs", "digits"), RunConfig)
    space, sources = lay_out(config, plan.spec)
    assert plan.works
    assert plan.dimension == space.dimension
    assert plan.verdicts["donor arithmetic"] == (
        f"fits: all {len(sources.models['arithmetic'].pairs)} tensors pair"
    )
    moved = [group for group in sources.groups if group.part in space.parts]
    values = sum(
        sources.tensor("receiver", name).numel() for group in moved for name in group.tensors
    )
    held = dict(plan.memory.terms)
    assert set(held) == {str(term) for term in METHODS["task_arithmetic"].terms(sources.donors)}
    assert all(size * GIB == pytest.approx(4 * values) for size in held.values())
    live = sum(math.prod(header.shape) for header in sources.receiver.headers.values())
    assert plan.memory.weights == pytest.approx(4 * live / GIB)
    asked = {(q.objective, q.split): q.total for q in plan.questions}
    assert asked["reasoning", "search"] == 400 * 200
    assert asked["perception", "validation"] == 2000 * (config.report.finalists + 1)
    assert asked["perception", "blind"] == 500 * (2 + 1 + len(config.objectives))
    assert asked["perception", "test"] == 2000 * (2 + 1 + len(config.objectives))


@pytest.mark.parametrize("method", METHODS)
def test_every_methods_terms_are_counted_as_it_prepares_them(
    method: str, models: Path, tmp_path: Path
) -> None:
    searched = METHODS[method].searchable
    (tmp_path / "space.yaml").write_text(
        yaml.safe_dump({
            "method": method,
            "parameters": {name: {"low": a, "high": b} for name, (a, b) in searched.items()},
            "knobs": [{"parts": ["mlp"], "low": 0.0, "high": 0.5}],
            "frozen": ["attention", "norm", "embedding", "head"],
        })
    )  # fmt: skip
    fields = tiny(models, space=str(tmp_path / "space.yaml")) | {"base": str(models / "base")}
    if method == "model_stock":  # needs two donors
        fields["donors"] |= {"e": {"model": str(models / "fast")}}
    path = written(tmp_path, **fields)
    plan = make_plan(path, hub=None)
    assert plan.works
    _, sources = lay_out(load_yaml(Path(path), RunConfig), plan.spec)
    names = [name for group in sources.groups if group.part == "mlp" for name in group.tensors]
    held = {
        str(term): sum(
            METHODS[method].prepare(term, SourceSlot(sources, name)).nbytes for name in names
        )
        for term in method_of(method, plan.spec.start_parameters).terms(sources.donors)
    }
    assert {term: size * GIB for term, size in plan.memory.terms} == pytest.approx(held)


@pytest.mark.parametrize(
    ("changes", "subject", "words"),
    [
        ({"donor": "wide"}, "donor d", ["hidden", "128", "64"]),
        ({"donor": "deep"}, "donor d", ["layers", "4", "3"]),
        ({"donor": "shorn"}, "donor d", ["layers.1.mlp.up_proj"]),
        ({"donor": "pickled"}, "donor d", ["pytorch_model.bin"]),
        ({"donor": "nowhere"}, "donor d", ["nowhere"]),
        ({"base": None}, "donor d", ["base", "task_arithmetic"]),
        ({"base": "donor"}, "donor d", ["the same model"]),
        ({"base": "deep"}, "base of d", ["layers"]),
        ({"items": {"search": 9999}}, "items.search", ["9999", "digits_reasoning"]),
        ({"budget": {"candidates": 2, "hours": 1e-4}}, "budget", ["validation"]),
        ({"engine": {"max_model_len": 4}}, "engine", ["4", "digits"]),
        ({"search_parts": ["head"], "donor": "words"}, "donor d", ["vocab", "72", "64"]),
    ],
)
def test_what_cannot_work_is_named(
    mergefront_cli: Command,
    models: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    subject: str,
    words: list[str],
) -> None:
    if parts := changes.pop("search_parts", None):
        knobs = [{"parts": parts, "low": 0.0, "high": 1.0}]
        space = {"knobs": knobs, "frozen": ["attention", "mlp", "norm", "embedding"]}
        (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
        changes["space"] = str(tmp_path / "space.yaml")
    path = written(tmp_path, **tiny(models, **changes))
    option = ("--seconds-per-1000-items", 60)
    code, out, err = mergefront_cli("plan", path, "--offline", "--json", *option)
    assert (code, err) == (2, "")
    remarks = [r for r in json.loads(out)["remarks"] if r["level"] == "error"]
    assert subject in [remark["subject"] for remark in remarks]
    said = " ".join(r["message"] for r in remarks if r["subject"] == subject)
    for word in words:
        assert word in said
    code, out, _ = mergefront_cli("plan", path, "--offline", *option)
    assert code == 2
    assert "cannot work as it is" in out


def test_faulty_files_are_errors_as_in_a_search(mergefront_cli: Command, tmp_path: Path) -> None:
    for changes, word in (
        ({"receiver": 7}, "receiver"),
        ({"space": "no_such_space"}, "no_such_space"),
        ({"objectives": {"a": ["no_such_task"], "b": ["digits_perception"]}}, "no_such_task"),
    ):
        code, out, err = mergefront_cli("plan", written(tmp_path, **changes), "--offline")
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert word in err


def test_another_rotary_frequency_is_a_doubt_and_casts_one_on_the_base(
    models: Path, tmp_path: Path
) -> None:
    plan = make_plan(written(tmp_path, **tiny(models, donor="fast")), hub=None)
    assert plan.works
    assert plan.verdicts["donor d"].startswith("fits, with doubts: all ")
    said = [r.message for r in plan.remarks if r.level == "warning" and r.subject == "donor d"]
    assert sum("rope theta is 7e+06" in one for one in said) == 1
    assert sum("may not be its ancestor" in one for one in said) == 1


def cached(cache: Path, name: str, folder: Path, only: str = "*") -> None:
    """Put a folder into the hub's cache, in its layout."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for file in folder.glob(only):
        shutil.copy(file, snapshot)


def hub_run(folder: Path, **changes: Any) -> str:
    """A run of hub models."""
    donor = {"model": "org/donor", "base": "org/base"}
    few = {"search": 8, "validation": 8, "test": 8}
    fields = {"receiver": "org/vlm", "base": None, "donors": {"d": donor}, "items": few}
    return written(folder, **{**fields, **changes})


def essence(plan: RunForecast) -> dict[str, Any]:
    """What does not depend on where the models lie."""
    data = plan.to_dict()
    shapes = [(one["role"], one["backbone"], one["verdict"]) for one in data["models"]]
    return {"models": shapes, **{key: data[key] for key in ("search", "memory", "questions")}}


def test_cached_hub_models_are_read_like_folders(models: Path, tmp_path: Path, cache: Path) -> None:
    local = make_plan(written(tmp_path, **tiny(models)), hub=None)
    for name in ("vlm", "donor", "base"):
        cached(cache, f"org/{name}", models / name)
    plan = make_plan(hub_run(tmp_path), hub=None)
    assert {one.state for one in plan.models} == {"cached"}
    assert essence(plan) == essence(local)
    pinned = make_plan(hub_run(tmp_path, receiver=f"org/vlm@{COMMIT}"), hub=None)
    assert pinned.models[0].state == "cached"


def test_offline_it_says_what_is_unknown(models: Path, tmp_path: Path, cache: Path) -> None:
    cached(cache, "org/vlm", models / "vlm", "config.json")
    plan = make_plan(hub_run(tmp_path), hub=None)
    assert plan.works
    assert (plan.layers_source, plan.dimension) == ("config", 7)
    assert plan.verdicts["donor d"].startswith("unknown")
    notes = {remark.subject: remark.message for remark in plan.remarks}
    assert "only its config.json is known" in notes["receiver"]
    assert "nothing is known" in notes["donor d"]
    assert "--offline" in notes["donor d"]
    bare = make_plan(hub_run(tmp_path, receiver="org/other"), hub=None)
    assert (bare.layers_source, bare.dimension, bare.memory.weights) == ("assumed", 7, None)
    deep = make_plan(hub_run(tmp_path, receiver="org/other", space="every_layer"), hub=None)
    assert deep.dimension is None


def test_the_hub_is_asked_for_descriptions_only(models: Path, tmp_path: Path, cache: Path) -> None:
    local = make_plan(written(tmp_path, **tiny(models)), hub=None)
    folders = {f"org/{name}": models / name for name in ("vlm", "donor", "base")}
    card = {"org/donor": {"base_model": "other/ancestor"}}
    with serving(LocalHub(folders, cards=card)) as hub:
        plan = make_plan(hub_run(tmp_path), hub=Hub(endpoint=hub.url))
    assert [one.state for one in plan.models] == ["hub"] * 3
    assert essence(plan) == essence(local)
    for one, name in zip(plan.models, ("vlm", "donor", "base"), strict=True):
        assert one.commit == COMMIT
        assert one.to_download == (models / name / "model.safetensors").stat().st_size
    assert not [file for file in cache.rglob("*") if file.suffix == ".safetensors"]
    whole = sum(one.n_bytes or 0 for one in plan.models)
    assert hub.sent < 3 * 100_001 + 60_000 < whole
    warnings = [r.message for r in plan.remarks if r.level == "warning"]
    assert any("other/ancestor" in one and "org/base" in one for one in warnings)
    pins = [r.hint for r in plan.remarks if "is not pinned" in r.message]
    assert pins == [f"pin it: {COMMIT}"] * 3


def test_second_copies_are_not_counted(models: Path, tmp_path: Path, cache: Path) -> None:
    folder = shutil.copytree(models / "donor", tmp_path / "donor")
    for name in ("original", "checkpoint-100"):
        shutil.copytree(models / "donor", folder / name)
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    with serving(LocalHub({"org/donor": folder})) as hub:
        found = look_up("donor d", "org/donor", None, Hub(endpoint=hub.url))
    assert found.to_download == (folder / "model.safetensors").stat().st_size


def test_what_the_hub_refuses_is_said(models: Path, tmp_path: Path, cache: Path) -> None:
    folders = {
        "org/vlm": models / "vlm",
        "org/donor": models / "pickled",
        "org/base": models / "base",
    }
    with serving(LocalHub(folders, gated={"org/base"})) as hub:
        plan = make_plan(hub_run(tmp_path), hub=Hub(endpoint=hub.url))
        pinned = look_up("receiver", "org/vlm", "f" * 40, Hub(endpoint=hub.url))
        gone = look_up("receiver", "org/gone", None, Hub(endpoint=hub.url))
    assert not plan.works
    said = {
        remark.subject: remark.message
        for remark in plan.remarks
        if "not pinned" not in remark.message
    }
    assert "pickled weights (pytorch_model.bin)" in said["donor d"]
    assert "gated" in said["base of d"]
    assert plan.models[2].to_download == (models / "base" / "model.safetensors").stat().st_size
    assert pinned.broken
    assert "no revision" in pinned.trouble
    assert gone.broken
    assert "no such model" in gone.trouble


def test_a_hub_out_of_reach_is_asked_once(models: Path, tmp_path: Path, cache: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        hub = Hub(endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}")
        plan = make_plan(hub_run(tmp_path), hub=hub)
    assert plan.works
    assert {one.state for one in plan.models} == {"unknown"}
    assert all("cannot be reached" in one.trouble for one in plan.models)


@pytest.mark.parametrize(
    "family", ["llama", "llama tied", "qwen2", "idefics3", "llava", "qwen2_vl"]
)
def test_sizes_by_config_are_those_of_the_tensors(family: str, tmp_path: Path) -> None:
    kind, _, tied = family.partition(" ")
    makers: dict[str, Any] = {
        "llama": tiny_llama, "qwen2": tiny_qwen2, "idefics3": tiny_idefics3,
        "llava": tiny_llava, "qwen2_vl": tiny_qwen2_vl,
    }  # fmt: skip
    folder = makers[kind](tmp_path / "m", seed=0, **({"tied": True} if tied else {}))
    facts = look_up("receiver", str(folder), None, None)
    assert facts.config is not None
    exact = cost.group_sizes(facts, Backbone())
    blind = type(facts)("receiver", "x", "unknown", config=facts.config)
    guessed = cost.group_sizes(blind, backbone_of(facts.config))
    assert (exact.source, guessed.source) == ("headers", "config")
    assert exact.parameters is not None
    assert guessed.parameters is not None
    for name, values in exact.parameters.items():
        slack = 0.02 * values if "qwen2" in kind and "attention" in name else 0  # biases
        assert abs(guessed.parameters[name] - values) <= slack, name


def plan_memory(models: Path, tmp_path: Path, gpu: float, **engine: Any) -> Memory:
    path = written(tmp_path, **tiny(models, engine=engine))
    return make_plan(path, hub=None, gpu_gib=gpu).memory


@settings(max_examples=60, deadline=None)
@given(
    weights=st.floats(0.5, 40), donors=st.integers(1, 3), gpu=st.floats(8, 200),
    share=st.floats(0.1, 1.0), encoded=st.floats(0, 8),
)  # fmt: skip
def test_the_advised_share_keeps_every_source_on_the_device(
    weights: float, donors: int, gpu: float, share: float, encoded: float
) -> None:
    """Planned again with the advice taken, nothing waits in host memory and answers have room."""
    first = placed(weights, donors, gpu, share, encoded)
    pinned = [name for name, where in (first.placement or {}).items() if where != "device"]
    assert first.pinned == pytest.approx(sum(size for name, size in first.terms if name in pinned))
    if first.best_utilization is not None:
        assert pinned
        again = placed(weights, donors, gpu, first.best_utilization, encoded)
        assert set((again.placement or {}).values()) == {"device"}
        assert again.kv_room is not None
        assert again.kv_room >= 16 * again.context * (again.kv_token_kib or 0) / (1 << 20)
        held = sum(size for _, size in again.terms) + again.encoder_cache
        assert held + weights + ACTIVATIONS + again.kv_room <= gpu + 1e-6


def placed(weights: float, donors: int, gpu: float, share: float, encoded: float) -> Memory:
    """The memory of a model whose language groups are nine tenths of its bf16 weights."""
    names = {f"d{i}": {"model": f"org/d{i}", "base": "org/b"} for i in range(donors)}
    config = validate(
        {
            **ZOO_RUN,
            "donors": names,
            "engine": {
                "dtype": "bfloat16", "gpu_memory_utilization": share,
                "encoder_cache_gb": encoded, "max_model_len": 4096,
            },
        },
        RunConfig,
        "x",
    )  # fmt: skip
    spec = load_space(files.find_yaml("search_spaces", "real_pairs"))
    groups = cost.group_sizes(look_up("receiver", "org/none", None, None), Backbone()).groups
    moved = [g for g in groups if g.part in ("attention", "mlp", "norm")]
    each = int(0.9 * weights * GIB / 2 / len(moved))
    values = {g.name: each if g in moved else 0 for g in groups}
    values["embedding"] = int(weights * GIB / 2) - each * len(moved)
    facts = look_up("receiver", "org/none", None, None)
    backbone = backbone_of({"num_hidden_layers": 32, "num_key_value_heads": 8, "head_dim": 128})
    return engine_memory(
        config, spec, facts, cost.GroupSizes(groups, values, "config"), backbone, gpu
    )


def test_a_gpu_that_is_too_small_and_one_that_is_split(models: Path, tmp_path: Path) -> None:
    path = written(tmp_path, **tiny(models))
    small = make_plan(path, hub=None, gpu_gib=2.0)
    assert [r.subject for r in small.remarks if r.level == "error"] == ["memory"]
    one = plan_memory(models, tmp_path, 80.0)
    two = plan_memory(models, tmp_path, 80.0, tensor_parallel_size=2)
    assert one.weights == pytest.approx(2 * (two.weights or 0))
    assert [size for _, size in one.terms] == pytest.approx([2 * size for _, size in two.terms])
    host = plan_memory(models, tmp_path, 80.0, snapshot_device="cpu")
    assert set((host.placement or {}).values()) == {"pinned RAM"}


def test_time_is_questions_times_rate_and_the_budget_is_held_against_it() -> None:
    plan = make_plan("digits", hub=None, seconds_per_1000=36.0)
    took = plan.duration
    assert took is not None
    asked = {split: sum(q.total for q in plan.questions if q.split == split)
             for split in ("search", "validation", "test", "blind")}  # fmt: skip
    assert took.search == pytest.approx(asked["search"] * 0.036 / 3600)
    assert took.total == pytest.approx(sum(asked.values()) * 0.036 / 3600)
    assert took.candidate_seconds == pytest.approx(800 * 0.036)
    reserve = cost.MARGIN * (took.validation + took.test)
    assert took.affordable == int((1.0 - reserve) * 3600 // (800 * 0.036))
    warned = [r for r in plan.remarks if r.subject == "budget"]
    assert [r.level for r in warned] == ["warning"]
    assert f"about {took.affordable} of 200" in warned[0].message


def test_earlier_runs_say_how_long_questions_take(tmp_path: Path) -> None:
    few = {"search": 8, "validation": 8, "test": 8}
    engine = {"kind": "transformers"}
    path = written(tmp_path, items=few, engine=engine, budget={"candidates": 3})
    runs = tmp_path / "runs"
    assert make_plan(path, hub=None, runs=runs).duration is None
    prepared = prepare_search(load_yaml(Path(path), RunConfig), runs)
    with prepared, start_search(prepared) as search:
        done = list(search.candidates())
    took = make_plan(path, hub=None, runs=runs).duration
    assert took is not None
    assert took.source == "measured by run x"
    measured = [e.seconds.total for e in done if e.seconds.generate > 0]
    assert took.rate == pytest.approx(1000 * median(measured) / 16)
    other = written(tmp_path, items=few, engine={"kind": "vllm"})
    assert make_plan(other, hub=None, runs=runs).duration is None


def test_help_is_worth_reading(mergefront_cli: Command) -> None:
    code, out, _ = mergefront_cli("plan", "--help")
    assert code == 0
    for word in ("--offline", "--gpu-gb", "--seconds-per-1000-items", "--json"):
        assert word in out


def test_the_tables_show_every_model_and_split(mergefront_cli: Command) -> None:
    code, out, _ = mergefront_cli("plan", "digits", "--offline", "--gpu-gb", 24)
    assert code == 0
    for word in ("zoo:arithmetic", "fits: all", "dimensions D", "validation", "delta:comparison"):
        assert word in out
