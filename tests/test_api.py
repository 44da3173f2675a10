"""The Python API: `__all__` is what there is, the import is light, docs/api.md works as written."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mergefront

ROOT = Path(__file__).parent.parent


def test_every_public_name_is_there_and_documented() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    table = set(re.findall(r"`(\w+)`", page[page.index("## Names") :]))
    assert table == set(mergefront.__all__)
    for name in mergefront.__all__:
        assert getattr(mergefront, name).__name__ == name
        assert getattr(mergefront, name).__doc__


def test_all_is_exactly_the_public_names() -> None:
    source = ast.parse(Path(str(mergefront.__file__)).read_text())
    typed = {
        alias.name
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mergefront.")
        for alias in node.names
    }
    assert typed == set(mergefront.__all__)
    assert mergefront.__all__ == sorted(mergefront.__all__)
    assert [name for name in dir(mergefront) if not name.startswith("_")] == mergefront.__all__
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = mergefront.no_such_name


@pytest.mark.parametrize("statement", ["import mergefront", "import mergefront.cli"])
def test_the_import_is_light(statement: str) -> None:
    code = f"{statement}; import sys; print({{'torch', 'vllm', 'transformers'}} & {{*sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "set()\n"), result.stderr


@pytest.mark.slow
def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "api.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "docs/api.md", "exec"), names)
    front = names["front"]
    assert isinstance(front, mergefront.Front)
    assert front.candidates == 6
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert (tmp_path / "recipe.json").is_file()
