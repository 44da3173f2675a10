"""LaTeX and Markdown to plain text, as far as plain numbers and option texts need it.

Not a parser: `\frac{1}{2}` becomes 1/2, `\text{cm}` becomes cm, spacing and dollar signs go. Roots,
powers and Greek letters stay, for the rule `math`.
"""

from __future__ import annotations

import re

_FRACTION = re.compile(r"(?:(\d) ?)?(-)?\\[dtc]?frac ?\{ ?(-?\d+) ?\} ?\{ ?(\d+) ?\}")
_SHORT_FRACTION = re.compile(
    r"(?:(\d) ?)?(-)?\\[dtc]?frac ?(?:(\d) ?(\d)|\{ ?(\d+) ?\} ?(\d))(?![\d{])"
)
_WORDS = re.compile(
    r"\\(?:text|mathrm|mathbf|textbf|textit|mathit|textrm|mathsf|operatorname|mbox|hbox|bf|rm)"
    r" ?\{([^{}]*)\}"
)
_SYMBOLS = (
    (re.compile(r"\{,\}|(?<=\d)\\[,!](?=\d{3})"), ","),
    (re.compile(r"\\(?:left|right|big|Big|displaystyle|limits)(?![A-Za-z])"), ""),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), " × "),
    (re.compile(r"\\(?:approx|simeq)(?![A-Za-z])"), "≈"),
    (re.compile(r"\^ ?\{? ?\\circ ?\}?|\\degree(?![A-Za-z])|\{ ?degrees ?\}"), "°"),
    (re.compile(r"\\[,!;: ]|~"), " "),
    (re.compile(r"\\?\$|\\[()\[\]]"), ""),
    (re.compile(r"\\(?=[%#&])"), ""),
)


def plain_latex(text: str) -> str:
    """Drop dollar signs, spacing and text commands; write simple fractions as a/b."""
    if "\\" in text or "{" in text:
        text = _FRACTION.sub(_with_slash, text)
        text = _SHORT_FRACTION.sub(_with_slash, text)
        text = _WORDS.sub(r" \1 ", text)
    if "\\" in text or "$" in text or "{" in text or "~" in text:
        for pattern, plain in _SYMBOLS:
            text = pattern.sub(plain, text)
    return " ".join(text.split(" ")) if "\n" in text else " ".join(text.split())


def _with_slash(fraction: re.Match[str]) -> str:
    whole, sign, *parts = (part or "" for part in fraction.groups())
    top, bottom = (part for part in parts if part)
    return f"{whole and whole + ' '}{sign}{top}/{bottom}"  # 2\frac{1}{3} is 2 1/3
