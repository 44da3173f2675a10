"""A finished run as one HTML page that needs nothing else: no network, no script, no other file.

The numbers are front.json's; this module computes none, and explains each. Reading order:
`write_report`, then the sections in the order in which they stand on the page.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergefront.records import Estimate
from mergefront.statistics import wilson

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; color: #222;
  background: #fff; max-width: 74rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
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
        figures: the first stands before the tables, the others behind; missing files are left
            out.
        config: the resolved configuration as YAML.
        manifest: manifest.json: sources, items, versions, machine.
    """
    pictures = list(_figures(figures))
    sections = [
        *_summary(front),
        *pictures[:1],
        *_members(front),
        *_picks(front),
        *pictures[1:],
        *_knobs(front),
        *_definitions(front),
        *_reproduce(front),
        *_provenance(front, config, manifest or {}),
    ]
    title = f"mergefront: {_text(front['run'])}"
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style>"
    )
    body = "\n".join(sections)
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
    path.write_text(page, encoding="utf-8")
    return path


def _summary(front: Mapping[str, Any]) -> Iterator[str]:
    volume = front["hypervolume"]
    items = front["items"]
    rounds = front.get("test_rounds", 1)
    often = "once" if rounds == 1 else f"in {rounds} rounds, since the search was extended,"
    yield f"<h1>{_text(front['run'])}</h1>"
    yield (
        f'<p class="note">{front["candidates"]} candidates ({front["failed"]} failed), each on '
        f"{items['search']} search items an objective; {len(front['members'])} validated on "
        f"{items['validation']}, picks tested {often} on {items['test']}.</p>"
    )
    for message in front["messages"]:
        yield f'<p class="lead">{_text(message)}</p>'
    validated = volume.get("validation")
    if validated:
        yield (
            f"<p>Hypervolume on validation items: <b>{validated['value']:.4f}</b> "
            f'<span class="interval">[{validated["low"]:.4f}, {validated["high"]:.4f}]</span> '
            f"(search items, flattering: {volume['search']:.4f}).</p>"
        )


def _figures(figures: Sequence[Figure]) -> Iterator[str]:
    for index, figure in enumerate(figures):
        if figure.svg.is_file():
            caption = _text(figure.caption)
            picture = _inline(figure.svg.read_text(encoding="utf-8"), f"f{index}", caption)
            yield f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _members(front: Mapping[str, Any]) -> Iterator[str]:
    """The front on validation items, the receiver first."""
    names = front["objectives"]
    columns = ["candidate", "origin", *[c for n in names for c in (n, f"{n} gain")], "verdict"]
    receiver = front["receiver"].get("validation")
    rows = []
    if receiver:
        cells = [cell for name in names for cell in (_score(receiver[name]), "")]
        rows.append(_row(["receiver", "", *cells, ""]))
    for member in front["members"]:
        cells = []
        for name in names:
            cells += [_score(member["validation"][name]), _gain(member["gain"][name])]
        label = f"{member['number']} {_text(', '.join(member['picks']))}".strip()
        verdict = _text(member["verdict"])
        if member["verdict"] == "beats the receiver":
            verdict = f'<span class="better">{verdict}</span>'
        row = [label, _text(member["origin"]), *cells, verdict]
        rows.append(_row(row, picked=bool(member["picks"])))
    yield "<h2>The front, on validation items</h2>"
    yield _table(columns, rows)


def _picks(front: Mapping[str, Any]) -> Iterator[str]:
    """The picks on test items."""
    names = front["objectives"]
    tested = [m for m in front["members"] if m.get("test")]
    if not tested:
        return
    columns = ["pick", *[c for n in names for c in (n, f"{n} gain")]]
    rows = []
    receiver = front["receiver"].get("test")
    if receiver:
        cells = [cell for name in names for cell in (_score(receiver[name]), "")]
        rows.append(_row(["receiver", *cells]))
    for member in tested:
        cells = []
        for name in names:
            cells += [_score(member["test"][name]), _gain(member["test_gain"][name])]
        label = f"{_text(', '.join(member['picks']))} ({member['number']})"
        rows.append(_row([label, *cells]))
    yield "<h2>The picks, on test items</h2>"
    yield _table(columns, rows)


def _knobs(front: Mapping[str, Any]) -> Iterator[str]:
    members = front["members"]
    if not members:
        return
    numbers = [str(m["number"]) for m in members]
    names = list(members[0]["knobs"])
    rows = [_row([_text(name), *(f"{m['knobs'][name]:.3f}" for m in members)]) for name in names]
    table = _table(["knob", *numbers], rows)
    yield f"<details><summary>Knob values of the front</summary>{table}</details>"


def _definitions(front: Mapping[str, Any]) -> Iterator[str]:
    first, *others = front["objectives"]
    reference = ", ".join(f"{_text(k)} {100 * v:.1f} %" for k, v in front["reference"].items())
    guard = f"{100 * front['guard']:g} points"
    kept = " and ".join(_text(name) for name in others) or "nothing else"
    entries = {
        "Score": "Mean score of an objective's items in percent, with Wilson's 95 % interval; "
        "items that share an image or problem count as one cluster.",
        "Gain": "Difference to the receiver on the same items in points, with a cluster-robust "
        "95 % t interval.",
        "Search, validation, test": "Three disjoint sets of items. The search and the picks use "
        "search items only, so their scores flatter; members are scored again on validation "
        "items; test items are read for the picks only, at the end of a search.",
        "Beats the receiver": f"The interval of the {_text(first)} gain lies above zero, and the "
        f"loss of {kept} is at most {guard}.",
        "Not resolved": "No gain or loss beyond its interval: more items would be needed.",
        "Hypervolume": f"What the front covers above the reference point ({reference}): an area "
        "(volume) of scores between 0 and 1. On validation items it is corrected for the luck of "
        "the best by a bootstrap over clusters, which also gives its 95 % interval.",
        "Knee": "The member of the front, on search items, farthest above the line that joins its "
        "extremes, each objective scaled to its range.",
    }
    yield "<h2>What the numbers mean</h2><dl>"
    for term, meaning in entries.items():
        yield f"<dt>{term}</dt><dd>{meaning}</dd>"
    yield "</dl>"


def _reproduce(front: Mapping[str, Any]) -> Iterator[str]:
    run = _text(front["run"])
    commands = [
        "mergefront search config.yaml        # the configuration below; resumes if it was killed",
        f"mergefront export {run} --pick knee --out DIR",
        f"mergefront compare {run}:knee {run}:best:{_text(front['objectives'][0])}",
    ]
    yield "<h2>Reproduce and use</h2>"
    yield f"<pre>{chr(10).join(commands)}</pre>"
    if front.get("seconds"):
        parts = ", ".join(f"{_text(k)} {v:.2f}" for k, v in front["seconds"].items())
        yield f'<p class="note">Mean wall seconds of a candidate: {parts}.</p>'


def _provenance(
    front: Mapping[str, Any], config: str, manifest: Mapping[str, Any]
) -> Iterator[str]:
    if config:
        yield f"<details><summary>Configuration</summary><pre>{_text(config)}</pre></details>"
    record = {**manifest, **({"openings": front["openings"]} if front.get("openings") else {})}
    if record:
        text = _text(json.dumps(record, indent=1, sort_keys=True, default=str))
        yield (
            "<details><summary>Provenance: sources, items, versions, machine</summary>"
            f"<pre>{text}</pre></details>"
        )


def _score(value: Mapping[str, Any]) -> str:
    low, high = wilson(Estimate(**value))
    interval = f"[{100 * low:.1f}, {100 * high:.1f}]"
    return f'{100 * value["mean"]:.1f} <span class="interval">{interval}</span>'


def _gain(value: Mapping[str, Any]) -> str:
    text = (
        f"{100 * value['mean']:+.1f} "
        f'<span class="interval">[{100 * value["low"]:+.1f}, {100 * value["high"]:+.1f}]</span>'
    )
    return f'<span class="better">{text}</span>' if value["low"] > 0 else text


def _row(cells: Sequence[str], *, picked: bool = False) -> str:
    columns = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="pick">{columns}</tr>' if picked else f"<tr>{columns}</tr>"


def _table(columns: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    body = "\n".join(rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n{body}</table></div>'


def _inline(svg: str, prefix: str, label: str) -> str:
    """Strip the XML prologue and make ids unique on the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()


def _text(value: object) -> str:
    return html.escape(str(value))
