"""The project's one door to jinja2: templates that are files beside the module that fills them.

A name that a template lacks is an error, and so is a misspelt one. The filters are the number
formats of `stats.text`, so that pages print numbers as the terminal does.
"""

from __future__ import annotations

import re
from pathlib import Path

import jinja2

from mergefront.runs.plots.style import COLOURS
from mergefront.stats import text


def open_template(path: Path) -> jinja2.Template:
    """Load a template of HTML (.html.jinja), Markdown (.md.jinja) or other text.

    In HTML every value is escaped. In Markdown a value stays on its line and in its table cell.
    """
    markdown = path.name.endswith(".md.jinja")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=path.name.endswith(".html.jinja"),
        finalize=_on_one_line if markdown else None,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions = (
        text.plural, text.percent, text.share, text.points, text.interval, text.points_interval,
        text.mean_with_error, text.gain_with_interval, text.p_value,
    )  # fmt: skip
    environment.globals.update(
        {function.__name__: function for function in functions}, colours=COLOURS
    )
    return environment.get_template(path.name)


def _on_one_line(value: object) -> object:
    if not isinstance(value, str):
        return value
    return re.sub(r"\s*[\r\n]\s*", " ", value).replace("|", "\\|")
