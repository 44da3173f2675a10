"""Generated pages are not stale, links inside the repository lead somewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mergefront.schemas import json_schema

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
