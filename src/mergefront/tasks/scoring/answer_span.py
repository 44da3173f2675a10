r"""The part of a reply that counts, found before any rule looks for an answer of its kind.

Thinking is dropped first. Then the first of these that the reply has is its answer:
1. the last closed \boxed{} (or the box tokens);
2. the last closed <answer> tag;
3. the last "answer" field of a JSON object;
4. the whole rest.
An answer by 1 to 3 is *marked*: the model itself set it apart. In a reply without a mark, rules
look at the *answer clauses*: what follows "the answer is" and similar cues, the last one first.

All text is normalised first (NFKC, one minus sign, LaTeX powers for raised digits, runs of blanks
made one). Short runs of blanks also keep the patterns here linear in the length of a reply.
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
    *("</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<eos>"),
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
class AnswerSpan:
    """The part of a reply that counts.

    `marked` is True if the model set it apart as its answer (box, tag, JSON field). `finished` is
    False if the reply was cut off at its token limit. `reply` is the whole reply without thinking.
    """

    text: str
    marked: bool = False
    finished: bool = True
    reply: str = ""

    @property
    def cut_off(self) -> bool:
        """Whether the end of the text may be missing."""
        return not self.finished and not self.marked

    def whole_clauses(self) -> Iterator[str]:
        """Yield the answer clauses, without one that runs to the end of a text that was cut off."""
        end = self.text.rstrip(" .")
        for clause in answer_clauses(self.text):
            if not (self.cut_off and end.endswith(clause.rstrip(" ."))):
                yield clause


def normalised_text(text: str) -> str:
    """Return the text in NFKC, with `^{2}` for a raised 2 and single blanks and line ends."""
    if not text.isascii():
        text = _VULGAR.sub(r"\1 ", text)
        text = _POWER.sub(lambda digits: f"^{{{digits[1].translate(_RAISED)}}}", text)
        text = unicodedata.normalize("NFKC", text).translate(_MINUS)
    text = _BLANKS.sub(" ", text.replace("\r", "\n"))
    return _LINE_ENDS.sub("\n", text)


def find_answer_span(text: str, *, finished: bool = True) -> AnswerSpan:
    """Find the part of a reply that counts."""
    text = _without_end_tokens(_without_thought(normalised_text(text)))
    marked_text = _last_boxed(text)
    if marked_text is None:
        marked_text = _between(text, "<|begin_of_box|>", "<|end_of_box|>")
    if marked_text is None:
        marked_text = _between(text, "<answer>", "</answer>")
    if marked_text is None:
        marked_text = _json_answer(text)
    if marked_text is not None:
        return AnswerSpan(marked_text.strip(), True, finished, text)
    text = _before_next_question(text).strip()
    return AnswerSpan(text, False, finished, text)


def answer_text(text: str) -> str:
    """Return the text of the part of a finished reply that counts."""
    return find_answer_span(text).text


def answer_clauses(text: str) -> Iterator[str]:
    """Yield what follows each answer cue, up to the end of the thought, the last cue first.

    "The answer cannot be A" is no cue.
    """
    ends = [cue.end() for cue in _CUE.finditer(text) if not _DENIED.search(cue[0])]
    ends += [hashes.end() for hashes in _HASHES.finditer(text)]
    for end in sorted(ends, reverse=True)[:_MOST_CUES]:
        clause = _CUT.split(text[end : end + 400], maxsplit=1)[0].strip()
        if clause:
            yield clause


def sentences(text: str) -> list[str]:
    """Cut a text at line ends and at full stops before a blank; drop empty parts."""
    return [part for part in _SENTENCE.split(text) if part.strip()]


def _without_thought(text: str) -> str:
    """Drop think blocks; a block that is never closed takes the rest of the text with it."""
    closings = list(_CLOSE.finditer(text))
    opening = _OPEN.search(text)
    if not closings:
        return text[: opening.start()] if opening else text
    # Some chat templates open the block in the prompt, so that a reply has only its end.
    before = text[: opening.start()] if opening and opening.start() < closings[0].start() else ""
    rest = text[closings[-1].end() :]
    reopening = _OPEN.search(rest)
    return before + (rest[: reopening.start()] if reopening else rest)


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
    r"""Return the content of the last \boxed{...} that is closed, braces matched."""
    box_starts: list[int | None] = []  # of each open brace: None where the brace opens no box
    content: str | None = None
    for brace in re.finditer(r"\\f?box(?:ed)? ?\{|(?<!\\)[{}]", text):
        if brace[0] != "}":
            box_starts.append(brace.end() if brace[0] != "{" else None)
        elif box_starts and (begin := box_starts.pop()) is not None:
            content = text[begin : brace.start()]
    return content


def _between(text: str, left: str, right: str) -> str | None:
    end = text.lower().rfind(right)
    begin = text.lower().rfind(left, 0, end) if end >= 0 else -1
    return text[begin + len(left) : end] if begin >= 0 else None


def _json_answer(text: str) -> str | None:
    values = [field[1] for field in _JSON.finditer(text)]
    if not values:
        return None
    try:
        return str(json.loads(values[-1]))
    except ValueError:  # LaTeX in a JSON string is seldom escaped
        return values[-1].strip('"')


def _before_next_question(text: str) -> str:
    """Drop the next question, which some models ask themselves after their answer."""
    answer = _CUE.search(text) or re.match(r"\(?[A-Z]\)|[-+$]?\d", text)
    question = _NEXT.search(text, answer.end()) if answer else None
    return text[: question.start()] if question else text


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
    r"""Drop dollar signs, spacing and text commands; write simple fractions as a/b.

    Not a parser: plain numbers and option texts need no more. Roots, powers and Greek letters stay,
    for the rule `math`.
    """
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
