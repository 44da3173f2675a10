"""A finished run as one HTML page that needs nothing else: no network, no script, no other file.

The numbers are front.json's; this package computes none, and explains each. `tables` and `words`
have the sections, `choice` those about the search's own word, `markup` the pieces of HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergefront.runs.report.html import STYLE, inline, text
from mergefront.runs.report.sections import (
    answer_table,
    choice_section,
    definitions,
    knob_table,
    member_table,
    pick_table,
    provenance,
    race_section,
    reproduce,
    summary,
)

__all__ = ["Figure", "write_report"]


@dataclass(frozen=True)
class Figure:
    """A picture on the page: an SVG file as `plots.save` writes it, and what it shows."""

    svg: Path
    caption: str


def write_report(
    path: Path,
    front: Mapping[str, Any],
    *,
    figures: Sequence[Figure] = (),
    config: str = "",
    manifest: Mapping[str, Any] | None = None,
) -> Path:
    """Write the page of a run to `path` and return it.

    Args:
        front: front.json (format mergefront/front@1).
        figures: `calibration` and `race` (the files' stems) stand in their sections, of the others
            the first before the tables and the rest behind; missing files are left out.
        config: the resolved configuration as YAML.
        manifest: manifest.json: sources, items, versions, machine.
    """
    drawn = dict(_figures(figures))
    checks = [drawn.pop("calibration", ""), drawn.pop("race", "")]
    pictures = list(drawn.values())
    sections = [
        *summary(front),
        *pictures[:1],
        *member_table(front),
        *pick_table(front),
        *answer_table(front),
        *choice_section(front),
        checks[0],
        *race_section(front),
        checks[1],
        *pictures[1:],
        *knob_table(front),
        *definitions(front),
        *reproduce(front),
        *provenance(front, config, manifest or {}),
    ]
    title = f"mergefront: {text(front['run'])}"
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style>"
    )
    body = "\n".join(sections)
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
    path.write_text(page, encoding="utf-8")
    return path


def _figures(figures: Sequence[Figure]) -> Iterator[tuple[str, str]]:
    """Stem -> picture with its caption, of the files that are there."""
    for index, figure in enumerate(figures):
        if figure.svg.is_file():
            caption = text(figure.caption)
            picture = inline(figure.svg.read_text(encoding="utf-8"), f"f{index}", caption)
            caption = f"<figcaption>{caption}</figcaption>"
            yield figure.svg.stem, f"<figure>{picture}{caption}</figure>"
