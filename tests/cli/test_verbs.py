"""The command line: exit codes, streams, one clear message for bad input, nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import mergefront
from fixtures_cli import Command, runner
from fixtures_models import perturbed, rewrite, tensors_of, tiny_idefics3, tiny_llama
from mergefront.merging.methods import METHODS


@pytest.fixture
def mergefront_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return runner(monkeypatch, capsys)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A receiver, a base, a donor, and donors with one fault each."""
    folder = tmp_path_factory.mktemp("models")
    tiny_idefics3(folder / "vlm", seed=0)
    base = tiny_llama(folder / "base", seed=1)
    donor = perturbed(base, folder / "donor", seed=2, scale=0.02)
    tiny_llama(folder / "wide", seed=3, hidden=128)
    tiny_llama(folder / "deep", seed=4, layers=4)
    shutil.copytree(donor, folder / "truncated")
    weights = folder / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    shutil.copytree(donor, folder / "pickled")
    (folder / "pickled" / "model.safetensors").rename(folder / "pickled" / "pytorch_model.bin")
    tensors = tensors_of(donor)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][0, 0] = torch.nan
    rewrite(donor, folder / "nan", tensors)
    shutil.copytree(donor, folder / "sharded")
    (folder / "sharded" / "model.safetensors").rename(
        folder / "sharded" / "model-00001-of-00002.safetensors"
    )
    return folder


def config(models: Path, folder: Path, **changes: Any) -> Path:
    data = {
        "name": "x",
        "receiver": str(models / "vlm"),
        "base": str(models / "base"),
        "donors": {"d": {"model": str(models / "donor")}},
        "space": "uniform",
        "objectives": {"reasoning": ["digits_reasoning"], "perception": ["digits_perception"]},
        "items": {"search": 8, "validation": 8, "test": 8},
        "engine": {"kind": "transformers"},
        **changes,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def space(folder: Path, knobs: list[dict[str, Any]], frozen: list[str]) -> str:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({"knobs": knobs, "frozen": frozen}))
    return str(path)


ALL = {"layers": "all", "low": 0.0, "high": 1.0}


@pytest.mark.parametrize(
    ("donor", "words"),
    [
        ("wide", ["64", "128", "donor"]),
        ("deep", ["3", "4", "layers"]),
        ("truncated", ["model.safetensors", "truncated"]),
        ("pickled", ["pytorch_model.bin", "safetensors"]),
        ("nan", ["model.layers.1.mlp.up_proj.weight", "NaN"]),
        ("sharded", ["model-00002-of-00002.safetensors"]),
        ("nowhere", ["nowhere"]),
    ],
)
def test_faulty_donors(
    mergefront_cli: Command, models: Path, tmp_path: Path, donor: str, words: list[str]
) -> None:
    path = config(models, tmp_path, donors={"d": {"model": str(models / donor)}})
    code, out, err = mergefront_cli("search", path, "--runs", tmp_path / "runs")
    assert (code, out) == (2, "")
    assert err.count("error:") == 1
    assert "hint:" in err
    for word in words:
        assert word in err
    assert not (tmp_path / "runs").exists()


def test_faulty_spaces_and_models_without_base(
    mergefront_cli: Command, models: Path, tmp_path: Path
) -> None:
    twice = [{"parts": ["mlp"], **ALL}, {"parts": ["mlp", "attention"], **ALL}]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"space": space(tmp_path, twice, ["norm", "embedding", "head"])}, "mlp"),
        ({"base": None}, "base"),
    ]
    for change, word in cases:
        path = config(models, tmp_path, **change)
        code, _, err = mergefront_cli("search", path, "--runs", tmp_path / "runs")
        assert code == 2
        assert word in err
        assert err.count("error:") == 1
    unclaimed = space(tmp_path, [{"parts": ["mlp"], **ALL}], ["norm", "embedding", "head"])
    path = config(models, tmp_path, space=unclaimed)
    code, _, err = mergefront_cli("search", path, "--runs", tmp_path / "runs")
    assert code == 2
    assert "attention" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_run_directory_of_another_configuration(
    mergefront_cli: Command, models: Path, tmp_path: Path
) -> None:
    path = config(models, tmp_path, budget={"candidates": 1}, report={"finalists": 2})
    runs = tmp_path / "runs"
    assert mergefront_cli("search", path, "--runs", runs)[0] == 0
    before = {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()}
    path = config(models, tmp_path, budget={"candidates": 1}, items={"search": 9})
    code, _, err = mergefront_cli("search", path, "--runs", runs)
    assert code == 2
    assert "belongs to another configuration" in err
    assert {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()} == before


def test_merge_writes_whole_folders_or_none(
    mergefront_cli: Command, models: Path, tmp_path: Path
) -> None:
    recipe: dict[str, Any] = {
        "format": "mergefront/recipe@1",
        "method": "task_arithmetic",
        "models": {
            "receiver": str(models / "vlm"),
            "base": str(models / "base"),
            "donors": {"d": {"model": str(models / "donor")}},
        },
        "table": {"d": {"*": 0.5}},
    }
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe))
    out = tmp_path / "merged"
    code, printed, _ = mergefront_cli("merge", path, "--out", out)
    assert (code, printed.strip()) == (0, str(out))
    assert {"config.json", "model.safetensors", "README.md", "recipe.json", "provenance.json"} <= {
        p.name for p in out.iterdir()
    }
    code, _, err = mergefront_cli("merge", path, "--out", out)
    assert code == 2
    assert "exists already" in err
    recipe["table"] = {"d": {"99.mlp": 0.5}}
    path.write_text(json.dumps(recipe))
    code, _, err = mergefront_cli("merge", path, "--out", tmp_path / "other")
    assert code == 2
    assert err.lstrip().startswith(f"error: {path}: recipe: table.d: '99.mlp'")
    path.write_bytes(b"\xff\xfe{")
    code, _, err = mergefront_cli("merge", path, "--out", tmp_path / "other")
    assert code == 2
    assert err.startswith(f"error: {path}: cannot be read")
    recipe["models"]["donors"]["d"]["model"] = ""
    path.write_text(json.dumps(recipe))
    code, _, err = mergefront_cli("merge", path, "--out", tmp_path / "other")
    assert code == 2
    assert err.startswith("error: model '': no such folder")
    assert not [p for p in tmp_path.iterdir() if "other" in p.name]


def test_methods_tells_ranges_from_words(mergefront_cli: Command) -> None:
    code, out, _ = mergefront_cli("methods", "--json")
    assert code == 0
    found = {one["name"]: one for one in json.loads(out)["methods"]}
    assert set(found) == set(METHODS)
    assert len({one["what"] for one in found.values()}) == len(found)
    assert found["low_rank"]["parameters"]["rank"] == [1, 65536]
    code, out, _ = mergefront_cli("methods")
    for words in ("rank* 1..65,536", "anchor own|base|receiver", "density* 0..1"):
        assert words in out


def test_inspect_prints_a_pairing_and_json(mergefront_cli: Command, models: Path) -> None:
    words = ["inspect", models / "vlm", models / "donor", "--base", models / "base"]
    code, out, _ = mergefront_cli(*words, "--json")
    assert code == 0
    json.loads(out)
    code, out, _ = mergefront_cli(*words)
    assert code == 0
    assert "attention" in out


def test_init_writes_a_file_and_never_over_one(mergefront_cli: Command, tmp_path: Path) -> None:
    words = [
        "init",
        "zoo:vlm",
        "zoo:arithmetic",
        "--base",
        "zoo:base",
        "--out",
        tmp_path / "a.yaml",
    ]
    assert mergefront_cli(*words)[0] == 0
    code, _, err = mergefront_cli(*words)
    assert code == 2
    assert "exists already" in err
    _, _, err = mergefront_cli("init", "org/vlm", "org/llm", "--out", tmp_path / "b.yaml")
    assert f"mergefront plan {tmp_path / 'b.yaml'}" in err


def test_missing_runs_and_files_have_hints(mergefront_cli: Command, tmp_path: Path) -> None:
    for words in (
        ["status", "none", "--runs", tmp_path],
        ["front", "none", "--runs", tmp_path],
        ["compare", "none", "--runs", tmp_path],
        ["compare", tmp_path / "none.json"],
        ["search", "none"],
    ):
        code, out, err = mergefront_cli(*words)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")


def test_help_is_fast_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, mergefront.cli\n"
        "heavy = {'torch', 'transformers', 'vllm', 'mlflow', 'optuna', 'datasets', 'matplotlib',"
        " 'pandas', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_verb_has_help(mergefront_cli: Command) -> None:
    code, out, _ = mergefront_cli("--help")
    assert code == 0
    verbs = ["init", "search", "status", "front", "export", "merge", "inspect", "compare",
             "rebuild", "doctor", "zoo", "schema"]  # fmt: skip
    for verb in verbs:
        assert verb in out
        assert mergefront_cli(verb, "--help")[0] == 0


def test_version_and_changelog_agree(mergefront_cli: Command) -> None:
    code, out, _ = mergefront_cli("--version")
    assert (code, out.strip()) == (0, f"mergefront {mergefront.__version__}")
    changelog = Path(__file__).parents[2] / "CHANGELOG.md"
    sections = [line for line in changelog.read_text().splitlines() if line.startswith("## ")]
    assert sections[0] == "## Unreleased"
    assert sections[1].startswith(f"## {mergefront.__version__} - ")


def test_zoo_and_schema_are_data_on_stdout(mergefront_cli: Command) -> None:
    code, out, _ = mergefront_cli("zoo", "--json")
    assert code == 0
    assert json.loads(out)["models"][0]["name"] == "zoo:vlm"
    for kind in ("run", "space", "task"):
        code, out, _ = mergefront_cli("schema", kind)
        assert json.loads(out)["title"] == f"mergefront {kind} file"
