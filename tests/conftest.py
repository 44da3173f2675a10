"""Session-wide settings of the tests."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported anywhere: the machine may be shared, and one thread repeats itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests neither read nor fill the user's own cache of data sets.
os.environ["MERGEFRONT_CACHE"] = tempfile.mkdtemp(prefix="mergefront-cache-")
os.environ.pop("MERGEFRONT_DATASETS", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--oracles", type=Path, help="write the methods' oracle table into this page")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print how well merge methods agree with their oracles, where that was asked for."""
    page = config.getoption("--oracles")
    if page is not None:
        import agreement

        agreement.update(page)
        terminalreporter.write_line(agreement.table())
