"""The command line inside the test's process, and the smallest complete run on the zoo."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from mergefront.cli import main

Command = Callable[..., tuple[int, str, str]]

ZOO_RUN: dict[str, Any] = {
    "name": "x",
    "receiver": "zoo:vlm",
    "base": "zoo:base",
    "donors": {
        "arithmetic": {"model": "zoo:arithmetic"},
        "comparison": {"model": "zoo:comparison"},
    },
    "space": "knots_by_part",
    "objectives": {"reasoning": ["digits_reasoning"], "perception": ["digits_perception"]},
}


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Returns a function that runs `mergefront WORDS`: (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mergefront", *(str(word) for word in words)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
