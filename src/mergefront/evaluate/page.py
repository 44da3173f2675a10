"""A task's examples as one self-contained HTML page: pictures where people look."""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path

from PIL import Image

from mergefront.checkpoint import whole_folder
from mergefront.evaluate.checking import Checked, Example, picture_facts
from mergefront.records import SPLITS

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c1c1e; background: #fff }
h1 { font-size: 1.4rem } h2 { font-size: 1rem; margin: 0 }
article { border: 1px solid #d5d5da; border-radius: 8px; padding: 1rem; margin: 1rem 0 }
img { max-width: 100%; max-height: 22rem; border: 1px solid #d5d5da; image-rendering: auto }
pre { white-space: pre-wrap; background: #f4f4f6; padding: .7rem; border-radius: 6px }
table { border-collapse: collapse } td, th { padding: .15rem .9rem .15rem 0; text-align: left;
        vertical-align: top }
figure { margin: .7rem 0 } figcaption, .quiet { color: #66666e; font-size: .88rem }
.warning { color: #9a3d00 }
@media (prefers-color-scheme: dark) { body { background: #1c1c1e; color: #f0f0f2 }
  pre { background: #2a2a2e } .warning { color: #ffb27a } }
"""


def page(checked: Checked) -> str:
    """The page's HTML: what the task is, its sizes, and each example with its images."""
    task = checked.task
    title = f"{task.name}: {len(checked.examples)} of its questions as they are asked"
    gold, share = checked.commonest
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p class=quiet>{escape(str(checked.file))}; rule {escape(', '.join(task.rules))}; "
        f"answering {escape(gold)} always would be right {100 * share:.0f} % of the time</p>",
        *(f"<p class=warning>{escape(words)}</p>" for words in checked.warnings),
        _sizes(checked),
        *(_article(number, one) for number, one in enumerate(checked.examples, start=1)),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _sizes(checked: Checked) -> str:
    pool = checked.pool
    names = sorted({name for split in SPLITS for name in pool.strata(split)})
    head = "".join(f"<th>{escape(cell)}</th>" for cell in ("", *SPLITS))
    rows = [["all", *(str(pool.size(split)) for split in SPLITS)]]
    if len(names) > 1:
        rows += [[name, *(str(pool.strata(s).get(name, 0)) for s in SPLITS)] for name in names]
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _article(number: int, one: Example) -> str:
    item = one.item
    facts = [f"{one.split} item", item.stratum, f"cluster {item.cluster}"]
    facts += [f"unit {item.unit}"] if item.unit else []
    if item.labels:
        facts.append(f"by the log-probability of {', '.join(item.labels)}")
    figures = "".join(_figure(data, place) for place, data in enumerate(item.images, start=1))
    rows = "".join(
        f"<tr><td>{escape(text)}</td><td>{escape(mark.extracted)}</td>"
        f"<td>{escape(mark.status)}</td><td>{mark.value:g}</td></tr>"
        for text, mark in one.marks
    )
    marks = (
        f"<table><tr><th>answer</th><th>read as</th><th>status</th><th>score</th></tr>{rows}"
        "</table>" if rows else ""
    )  # fmt: skip
    return (
        f"<article><h2>{number}. {escape(item.id)}</h2>"
        f"<p class=quiet>{escape('; '.join(fact for fact in facts if fact))}</p>{figures}"
        f"<pre>{escape(item.question)}</pre>"
        f"<p>gold: <b>{escape(' | '.join(item.answers))}</b> (rule {escape(item.rule.name)})</p>"
        f"{marks}</article>"
    )


def _figure(data: bytes, place: int) -> str:
    facts = picture_facts(data)
    kind = Image.MIME.get(facts["format"], "image/png")
    coded = base64.b64encode(data).decode()
    words = f"image {place}: {facts['width']} x {facts['height']} {facts['format']}"
    return (
        f'<figure><img src="data:{kind};base64,{coded}" alt="{escape(words)}">'
        f"<figcaption>{escape(words)}, {facts['bytes'] / 1000:.0f} kB</figcaption></figure>"
    )


def write_page(checked: Checked, out: Path) -> None:
    """Write index.html and task.json (the same, without pictures) into the new folder `out`.

    Raises:
        UserError: `out` exists or the disk is too full.
    """
    with whole_folder(out) as folder:
        (folder / "index.html").write_text(page(checked), encoding="utf-8")
        told = json.dumps(checked.to_dict(), indent=1, ensure_ascii=False)
        (folder / "task.json").write_text(told, encoding="utf-8")
