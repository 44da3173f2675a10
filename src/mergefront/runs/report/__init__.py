"""A finished run as one HTML page that needs nothing else: no network, no script, no other file.

The numbers are those of front.json; this package computes none but intervals. The page and all its
words are `report.html.jinja`; `templates` opens it, and this module hands it the values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergefront.files import write_text
from mergefront.records import Estimate
from mergefront.runs.report.templates import open_template
from mergefront.stats import score_interval, wilson

if TYPE_CHECKING:
    from mergefront.runs.front import Front

__all__ = ["ReportPicture", "write_report"]

_TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclass(frozen=True)
class ReportPicture:
    """A picture on the page: an SVG file as `plots.save` writes it, and what it shows."""

    svg: Path
    caption: str


def write_report(
    path: Path,
    front: Front,
    *,
    pictures: Sequence[ReportPicture] = (),
    config: str = "",
    manifest: Mapping[str, Any] | None = None,
) -> Path:
    """Write the page of a run to `path` and return it.

    Args:
        front: what is reported about the run.
        pictures: those with the stems `calibration` and `race` stand in their sections. Of the
            others, the first stands before the tables and the rest behind them. A picture without
            a file is left out.
        config: the resolved configuration as YAML.
        manifest: manifest.json: sources, items, versions, machine.
    """
    openings = {"openings": [asdict(opening) for opening in front.openings]}
    provenance = {**(manifest or {}), **(openings if front.openings else {})}
    page = open_template(_TEMPLATE).render(
        front=front,
        pictures={
            picture.svg.stem: {
                "svg": _inlined(picture.svg.read_text(encoding="utf-8"), f"f{index}"),
                "caption": picture.caption,
            }
            for index, picture in enumerate(pictures)
            if picture.svg.is_file()
        },
        config=config,
        provenance=provenance and json.dumps(provenance, indent=1, sort_keys=True, default=str),
        score_interval=score_interval,
        share_interval=lambda count, n: wilson(Estimate(count / n, 0.0, n)),
    )
    write_text(path, page)
    return path


def _inlined(svg: str, prefix: str) -> str:
    """Strip what stands before the attributes of the <svg> element; make ids unique on the page.

    The template does not escape this: matplotlib drew texts as paths and escaped its comments.
    """
    svg = svg[svg.index("<svg") + len("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
