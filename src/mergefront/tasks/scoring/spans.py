"""Which part of a reply counts, before any rule looks for an answer of its type.

Ordered: thinking is dropped; then the last closed \boxed{} (or box token); else the last closed
answer tag; else the last "answer" of a JSON object; else the whole rest. What stands in a box, tag
or JSON field is *marked*: the model itself said where its answer is. In an unmarked reply rules
look at the *clauses*: what follows "the answer is" and its like, the last one first.

All text is normalised first (NFKC, one minus sign, LaTeX powers for raised digits, runs of blanks
made one), which also keeps every pattern here linear in the length of a reply.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_POWER = re.compile(r"([⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)")
_VULGAR = re.compile(r"(\d)\s*(?=[¼½¾⅐-⅞])")
_MINUS = str.maketrans(dict.fromkeys("−‐‑‒–", "-") | {"⁄": "/", "∕": "/"})
_BLANKS = re.compile(r"  +|[^\S\n ][^\S\n]*")
_LINE_ENDS = re.compile(r" ?\n[ \n]+| \n")
_THOUGHT = r"(?:think|thinking|thought|reasoning)"
_OPEN = re.compile(rf"<{_THOUGHT}>|◁think▷", re.IGNORECASE)
_CLOSE = re.compile(rf"</{_THOUGHT}>|◁/think▷", re.IGNORECASE)
_END_TOKENS = (
    "</s>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<eos>",
)
_JSON = re.compile(r'"(?:short |final )?answer"\s?:\s?("(?:[^"\\]|\\.)*"|[-+\d.][^\s,}]*)', re.I)
_NEXT = re.compile(r"\n(?:question|hint|user|human)\s?:", re.IGNORECASE)
_CUE = re.compile(
    r"(?:\b(?:answers?|(?:correct|right) (?:options|choices)"
    r"|(?:option|choice)(?![^\w:]{0,4}[A-Z]\b))\b"
    r"(?:[^.\n:=]{0,60}?(?:\b(?:is|are|be)\b(?:\s(?:still|just|simply|therefore|thus|then))?|[:=])"
    r"|\*\*\s)|答案(?:[是为选]|:))[\s:*_]*",
    re.IGNORECASE,
)
_DENIED = re.compile(r"(?:\bnot|\bnever|\bcannot|n't) be[\s:*_]*\Z", re.IGNORECASE)
_MOST_CUES = 50
_HASHES = re.compile(r"(?:^|\n)#### ?")
_CUT = re.compile(r"\n|。|[.;?!](?=\s|\Z)|,?\s\b(?:not|because|since|but|as|which|where)\b", re.I)
_SENTENCE = re.compile(r"(?<=[.;?!])\s|(?<=。)|\n")


@dataclass(frozen=True)
class Span:
    """The part of a reply that counts.

    `marked` if the model set it apart as its answer (box, tag, JSON field); `finished` is False
    if the reply was cut off at its token limit. `reply` is all but the thinking.
    """

    text: str
    marked: bool = False
    finished: bool = True
    reply: str = ""

    @property
    def cut(self) -> bool:
        """Whether the end of the text may be missing."""
        return not self.finished and not self.marked


def normal(text: str) -> str:
    """NFKC with one minus sign, `^{2}` for a raised 2, and single blanks and line ends."""
    if not text.isascii():
        text = _VULGAR.sub(r"\1 ", text)
        text = _POWER.sub(lambda found: f"^{{{found[1].translate(_RAISED)}}}", text)
        text = unicodedata.normalize("NFKC", text).translate(_MINUS)
    text = _BLANKS.sub(" ", text.replace("\r", "\n"))
    return _LINE_ENDS.sub("\n", text)


def final(text: str, *, finished: bool = True) -> Span:
    """The part of a reply that counts."""
    text = _without_thought(normal(text))
    text = _without_end_tokens(text)
    boxed = _last_boxed(text)
    if boxed is None:
        boxed = _between(text, "<|begin_of_box|>", "<|end_of_box|>")
    if boxed is None:
        boxed = _between(text, "<answer>", "</answer>")
    if boxed is None:
        boxed = _field(text)
    if boxed is not None:
        return Span(boxed.strip(), True, finished, text)
    text = _own_part(text).strip()
    return Span(text, False, finished, text)


def final_span(text: str) -> str:
    """The part of a reply that counts: after thinking; the last boxed or tagged answer if any."""
    return final(text).text


def clauses(text: str) -> Iterator[str]:
    """What follows each answer cue up to the end of the thought, the last cue first.

    "The answer cannot be A" is none.
    """
    ends = [found.end() for found in _CUE.finditer(text) if not _DENIED.search(found[0])]
    ends += [found.end() for found in _HASHES.finditer(text)]
    for end in sorted(ends, reverse=True)[:_MOST_CUES]:
        clause = _CUT.split(text[end : end + 400], maxsplit=1)[0].strip()
        if clause:
            yield clause


def ends_in(text: str, clause: str) -> bool:
    """Whether a clause runs to the end of the text, so that more of it might have come."""
    return text.rstrip(" .").endswith(clause.rstrip(" ."))


def sentences(text: str) -> list[str]:
    """The text cut at line ends and at full stops that a blank follows; none is empty."""
    return [part for part in _SENTENCE.split(text) if part.strip()]


def _without_thought(text: str) -> str:
    """Drop think blocks; one that is never closed takes the rest with it."""
    closed = list(_CLOSE.finditer(text))
    opened = _OPEN.search(text)
    if not closed:  # some templates open the block in the prompt, so that only its end is here
        return text[: opened.start()] if opened else text
    before = text[: opened.start()] if opened and opened.start() < closed[0].start() else ""
    rest = text[closed[-1].end() :]
    again = _OPEN.search(rest)
    return before + (rest[: again.start()] if again else rest)


def _without_end_tokens(text: str) -> str:
    """Drop the tokens that end a reply, and blanks, from the end of the text."""
    end = len(text)
    while end:  # a pattern anchored at the end would be tried at each token: quadratic time
        if text[end - 1].isspace():
            end -= 1
        elif token := next((t for t in _END_TOKENS if text.endswith(t, 0, end)), ""):
            end -= len(token)
        else:
            break
    return text[:end]


def _last_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...} that is closed, braces matched; linear in the text."""
    stack: list[int | None] = []
    last: str | None = None
    for found in re.finditer(r"\\f?box(?:ed)? ?\{|(?<!\\)[{}]", text):
        if found[0] != "}":
            stack.append(found.end() if found[0] != "{" else None)
        elif stack and (begin := stack.pop()) is not None:
            last = text[begin : found.start()]
    return last


def _between(text: str, left: str, right: str) -> str | None:
    end = text.lower().rfind(right)
    begin = text.lower().rfind(left, 0, end) if end >= 0 else -1
    return text[begin + len(left) : end] if begin >= 0 else None


def _field(text: str) -> str | None:
    hits = list(_JSON.finditer(text))
    if not hits:
        return None
    found = hits[-1]
    try:
        return str(json.loads(found[1]))
    except ValueError:  # LaTeX in a JSON string is seldom escaped
        return found[1].strip('"')


def _own_part(text: str) -> str:
    """Drop what a model adds when, having answered, it asks itself the next question."""
    said = _CUE.search(text) or re.match(r"\(?[A-Z]\)|[-+$]?\d", text)
    further = _NEXT.search(text, said.end()) if said else None
    return text[: further.start()] if further else text
