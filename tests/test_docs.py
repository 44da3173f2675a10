"""Generated pages are not stale, links inside the repository lead somewhere."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mergefront.jobs.starter import json_schema

ROOT = Path(__file__).parent.parent


def test_the_command_line_reference_is_what_help_says() -> None:
    command = [sys.executable, "-m", "typer", "mergefront.cli", "utils", "docs"]
    made = subprocess.run(
        [*command, "--name", "mergefront", "--title", "Command line"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert (ROOT / "docs" / "cli.md").read_text().strip() == made.stdout.strip(), "make docs"


@pytest.mark.parametrize("kind", ["run", "space", "task"])
def test_the_committed_schemas_are_current(kind: str) -> None:
    path = ROOT / "docs" / "schemas" / f"{kind}.schema.json"
    assert json.loads(path.read_text()) == json_schema(kind), "make docs"  # type: ignore[arg-type]


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    for link in links:
        if not link.startswith(("http://", "https://")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_map_names_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    source = ROOT / "src" / "mergefront"
    modules = {path.stem for path in source.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in source.glob("*/__init__.py")}
    assert modules | packages <= set(re.findall(r"\w+", page))


def test_the_map_names_what_there_is() -> None:
    """Files, and functions and classes after a colon: all of them exist."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    source = ROOT / "src" / "mergefront"
    places = re.findall(r"`([\w/]+\.(?:py|html\.jinja))(?::([\w.]+))?`", page)
    assert len(places) > 30
    for file, name in places:
        assert (source / file).is_file(), file
        body = ast.parse((source / file).read_text()).body if name else []
        for word in name.split(".") if name else []:
            named = [node for node in body if getattr(node, "name", "") == word]
            assert named, f"{file} has no {name}"
            body = getattr(named[0], "body", [])


@pytest.mark.parametrize("page", sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")]), ids=str)
def test_the_source_files_that_pages_name_are_there(page: Path) -> None:
    if page.name == "lab.md":  # dated entries keep the names of their day
        return
    for file in re.findall(r"`([a-z_]+(?:/[a-z_]+)+\.py)`", page.read_text()):
        assert (ROOT / file).is_file() or (ROOT / "src" / "mergefront" / file).is_file(), file
