"""The doctor survives what it diagnoses: missing packages, broken builds, killed imports."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mergefront.jobs import doctor

ROOT = Path(__file__).parents[2]


def test_required_packages_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[^\w.-]", entry, maxsplit=1)[0] for entry in project["dependencies"]]
    assert sorted(doctor.REQUIRED) == sorted(names)


@pytest.mark.parametrize(
    ("code", "stderr", "words"),
    [
        (-11, "", "importing vllm was killed by SIGSEGV"),
        (-4, "noise\n", "importing vllm was killed by SIGILL"),
        (3, "", "importing vllm ended with exit code 3"),
        (1, "Traceback\nImportError: no libcudart\n", "ImportError: no libcudart"),
        (0, "a warning", ""),
    ],
)
def test_a_failed_import_is_put_in_words(
    monkeypatch: pytest.MonkeyPatch, code: int, stderr: str, words: str
) -> None:
    process = subprocess.CompletedProcess([], code, "", stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: process)
    assert doctor._import_error("vllm") == words


def test_without_torch_every_diagnosis_is_still_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    error = "ModuleNotFoundError: No module named 'torch'"
    process = subprocess.CompletedProcess([], 1, "", error)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: process)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "mergefront.models.checkpoint", raising=False)
    diagnoses = {diagnosis.subject: diagnosis for diagnosis in doctor.examine(tmp_path)}
    assert diagnoses["gpu"].state == diagnoses["zoo"].state == "broken"
    assert "torch does not import" in diagnoses["gpu"].message


def test_advice_is_the_readmes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda _: None)
    readme = (ROOT / "README.md").read_text().replace("\n", " ")
    for diagnosis in [doctor._package("scipy"), doctor._engine()]:
        assert diagnosis.message == "missing"
        commands = re.findall(r'pip install "[^"]*"', diagnosis.hint)
        assert len(commands) == 2
        assert all(command in readme for command in commands)
