"""Pieces of HTML that the report page is made of: cells, tables, inlined pictures."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mergefront.records import Estimate
from mergefront.stats import normal_interval, wilson

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; color: #222;
  background: #fff; max-width: 74rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
p.warning { font-size: 1.1rem; font-weight: 600; color: #a11; border-left: 4px solid #a11;
  padding-left: .8rem; }
p.lead { font-size: 1.1rem; border-left: 4px solid #0072B2; padding-left: .8rem; }
figure { margin: 1.2rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption, .note { color: #555; font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #e4e4e4; text-align: right; }
th { font-weight: 600; border-bottom: 2px solid #bbb; vertical-align: bottom; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
tr.pick td { background: #fff6ee; } .better { color: #00694d; font-weight: 600; }
.interval { color: #666; white-space: nowrap; } td { white-space: nowrap; }
pre { background: #f6f6f6; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; }
dt { font-weight: 600; margin-top: .6rem; } dd { margin-left: 1.2rem; }
details summary { cursor: pointer; color: #0072B2; }
"""


def score(value: Mapping[str, Any]) -> str:
    """A mean in percent with its 95 % interval as a cell; a cost's with its tokens."""
    found = Estimate(value["mean"], value["se"], value["n"])
    low, high = normal_interval(found) if "tokens" in value else wilson(found)
    interval = f"[{100 * low:.1f}, {100 * high:.1f}]"
    tokens = f"; {value['tokens']:.2f} tokens" if "tokens" in value else ""
    return f'{100 * value["mean"]:.1f} <span class="interval">{interval}{tokens}</span>'


def gain(value: Mapping[str, Any]) -> str:
    """A difference in points with its interval, as a cell; a cost's with that in tokens."""
    interval = f"[{100 * value['low']:+.1f}, {100 * value['high']:+.1f}]"
    interval += f"; {value['tokens']:+.2f} tokens" if "tokens" in value else ""
    words = f'{100 * value["mean"]:+.1f} <span class="interval">{interval}</span>'
    return f'<span class="better">{words}</span>' if value["low"] > 0 else words


def probability(p: float | None) -> str:
    """A p-value as a cell; empty for none."""
    if p is None:
        return ""
    return "&lt; 0.001" if p < 0.001 else f"{p:.3f}"


def row(cells: Sequence[str], *, picked: bool = False) -> str:
    """A table's row."""
    columns = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="pick">{columns}</tr>' if picked else f"<tr>{columns}</tr>"


def table(columns: Sequence[str], rows: Sequence[str]) -> str:
    """A table whose rows are made."""
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    body = "\n".join(rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n{body}</table></div>'


def inline(svg: str, prefix: str, label: str) -> str:
    """Strip the XML prologue and make ids unique on the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()


def text(value: object) -> str:
    """Anything as text, markup escaped."""
    return html.escape(str(value))
