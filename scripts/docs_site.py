"""Hooks of mkdocs: README and CONTRIBUTING are pages too, and links out of docs/ are checked.

A link to a file of the repository that is no page (a configuration, a folder) stands on the site as
its path, since the site has no copy of it. If there is no such file, the strict build fails.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages at the root of the repository -> their place on the site."""

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")
_PICTURE = re.compile(r"!\[([^\]]*)\]\(docs/([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie at the root."""
    for source, target in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let each link lead to a page of the site, or stand as a path of the repository."""
    source = next((s for s, t in PAGES.items() if t == page.file.src_uri), None)
    folder = posixpath.dirname(source or f"docs/{page.file.src_uri}")
    here = posixpath.dirname(page.file.src_uri)

    def replace(match: re.Match[str]) -> str:
        words, link, anchor = match[1], match[2], match[3] or ""
        if re.match(r"[a-z]+:", link):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, link))
        if not (ROOT / path).exists():
            raise PluginError(f"{page.file.src_uri} links to {path}, which does not exist")
        target = PAGES.get(path, path.removeprefix("docs/"))
        if path in PAGES or (path.startswith("docs/") and files.get_file_from_path(target)):
            return f"[{words}]({posixpath.relpath(target, here or '.')}{anchor})"
        return words if words.strip("`") == path else f"{words} (`{path}`)"

    return _LINK.sub(replace, _PICTURE.sub(r"![\1](\2)", markdown))
