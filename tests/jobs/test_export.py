"""A folder best/ is a run's model only if it holds what the run exported and verified."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures_runs import simulated_run
from mergefront.config import Donor
from mergefront.jobs import artifacts, export
from mergefront.merging.recipe import Recipe
from mergefront.models.locate import ModelNames
from mergefront.runs import history
from mergefront.runs.directory import RunDirectory

MODELS = ModelNames(receiver="zoo:vlm", base="zoo:base", donors={"math": Donor(model="zoo:math")})
RECIPE = Recipe("task_arithmetic", MODELS, {"math": {"0.attn": 0.5}})
SCORED = "ab" * 32


@dataclass(frozen=True)
class Candidate:
    recipe: Recipe = RECIPE
    number: int = 1


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run whose best/ is its verified export."""
    run, _ = simulated_run(tmp_path, export="knee")
    best = run.path / "best"
    best.mkdir()
    (best / "model.safetensors").write_bytes(b"the weights")
    (best / "config.json").write_text("{}")
    (best / "recipe.json").write_text(RECIPE.to_json())
    (best / "README.md").write_text("card")
    provenance = {
        "recipe": RECIPE.hash(),
        "verified": {"engine": {"parameters_sha256": SCORED}},
        "files": export._file_hashes(best),
    }
    (best / "provenance.json").write_text(json.dumps(provenance))
    monkeypatch.setattr(artifacts, "reopen_candidate", lambda run, pick: Candidate())
    monkeypatch.setattr(history, "recorded_model_hash", lambda study, name: SCORED)
    return run


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_the_verified_export_of_the_present_pick_stays(run: RunDirectory) -> None:
    (run.path / "best" / "README.md").write_text("edited by a person")
    said: list[str] = []
    before = content(run.path / "best")
    artifacts._make_room(run, run.path / "best", said.append)
    assert (content(run.path / "best"), said) == (before, [])


def other_weights(best: Path) -> None:
    (best / "model.safetensors").write_bytes(b"the_weights")


def no_provenance(best: Path) -> None:
    (best / "provenance.json").unlink()


def broken_provenance(best: Path) -> None:
    (best / "provenance.json").write_text("[" * 100_000)


def more_weights(best: Path) -> None:
    (best / "model-00002.safetensors").write_bytes(b"more")


def other_digest(best: Path) -> None:
    file = best / "provenance.json"
    file.write_text(file.read_text().replace(SCORED, "cd" * 32))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_weights, "model.safetensors is not the file that was verified"),
        (no_provenance, "it has no provenance.json"),
        (broken_provenance, "its provenance.json is not that of a verified export"),
        (more_weights, "model-00002.safetensors was not there when it was verified"),
        (other_digest, "its parameters are not those that the run scored"),
    ],
)
def test_anything_else_is_moved_aside_and_said(
    run: RunDirectory, change: Callable[[Path], None], words: str
) -> None:
    best = run.path / "best"
    change(best)
    before = content(best)
    said: list[str] = []
    artifacts._make_room(run, best, said.append)
    (aside,) = run.path.glob("best.aside-*")
    assert not best.exists()
    assert content(aside) == before
    assert said == [f"{best} is not what this run exported: {words}; moved to {aside}"]


def test_the_verified_export_of_an_earlier_pick_makes_room(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    extended = Candidate(Recipe("task_arithmetic", MODELS, {"math": {"0.attn": 0.6}}), 2)
    monkeypatch.setattr(artifacts, "reopen_candidate", lambda run, pick: extended)
    artifacts._make_room(run, run.path / "best", print)
    assert not list(run.path.glob("best*"))
