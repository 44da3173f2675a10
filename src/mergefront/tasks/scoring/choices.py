"""Rules for options: `choice` (one letter), `choices` (a set of letters), `yes_no`.

Where the letter is, first hit wins:
1. the whole marked span or reply is a letter, in brackets or bold or with its option after it;
2. an answer cue, the last one first: a letter right after it, "option B" in it, or the text of
   just one option in it; "B is correct" counts as a cue;
3. the last sentence with letters in brackets has just one of them;
4. the last line, or the first, is a letter, maybe with its option after it;
5. the text of just one option stands in the last sentence, else in the first.
Where a marked span names no option, 2 is tried on the whole reply. Lines that list the options
again are skipped. A small letter counts where it stands alone or in brackets, never inside a
sentence ("a" is an article). Only letters that the options have count. An option's text does not
count in a sentence that denies something, unless the sentence begins with it; "yes" and "no" count
only there, and the text of an option that is a letter never does. An answer that was cut off
counts only by 1 and 2. Two hits in one place are none. Options with the same text are one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mergefront.records import Item, Score
from mergefront.tasks.scoring.latex import plain_latex
from mergefront.tasks.scoring.numbers import whole
from mergefront.tasks.scoring.spans import Span, clauses, ends_in, normal, sentences

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OPEN, _CLOSE = r"[\s\"'`*_(\[{]*", r"[\s\"'`*_)\]}.:,;!]*"
_AFTER_LETTERS = re.compile(r"[\s\"'`*_)\]}.:]*")
_BETWEEN_LETTERS = re.compile(rf"{_AFTER_LETTERS.pattern}(?:[,;&\s]|and)(?:[,;&\s]|and)*+{_OPEN}")
_VERDICT = (
    r"\s(?:is|would be|must be|seems|looks)\s(?:the\s)?(?:most\s)?"
    r"(?:correct|right|best|true|answer)\b"
)
_LEAD = (
    r"[\s\"'`*_(\[{$]*(?:\\(?:text|mathrm|mathbf|textbf) ?\{)?"
    r"(?:[Oo]ption |[Cc]hoice |letter )?"
)
_TOKEN = re.compile(r"(?<![\w%])[-+]?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?|\w+|[^\s\w]")
_DENIAL = re.compile(r"\b(?:not|none|neither|nor|never|except|cannot|\w+n't)\b", re.IGNORECASE)
_INSTEAD = re.compile(r",?\s(?:not|rather than|instead of)\s", re.IGNORECASE)
_SLIGHT = (["yes"], ["no"])
_NOISE = frozenset(".,;:!?\"'`*()[]{}$_")


def choice(span: Span, item: Item) -> Score:
    """The letter said is a gold; golds are letters."""
    options = item.choices
    letter = _letter(span, letters_of(options), options)
    if letter is None:
        return Score(0.0, "", "no_answer")
    golds = {first_alike(gold, options) for gold in item.answers}
    return Score(float(first_alike(letter, options) in golds), letter, "ok")


def choices(span: Span, item: Item) -> Score:
    """The set of letters said is a gold's: "B and D" equals "D, B"; golds are written "B, D"."""
    options = item.choices
    letters = letters_of(options) if options else ALPHABET
    said = letter_set(span.text, letters)
    if not said:
        whole_clauses = (
            one for one in clauses(span.text) if not (span.cut and ends_in(span.text, one))
        )
        hits = (letter_set(clause, letters) for clause in whole_clauses)
        said = next((hit for hit in hits if hit), "")
    if not said and not span.cut:
        said = _letter(span, letters, options) or ""
    if not said:
        return Score(0.0, "", "no_answer")
    golds = {"".join(re.findall("[A-Z]", gold)) for gold in item.answers}
    return Score(float(said in golds), ", ".join(said), "ok")


def yes_no(span: Span, item: Item) -> Score:
    """The first yes or no: after the last answer cue that has one, else in the whole reply.

    Of a reply that was cut off only what follows a cue counts, or its first word.
    """
    reply = span.text
    if span.cut:
        reply = (re.match(r"\W*\w+", reply) or [""])[0]
    for region in (*clauses(span.text), reply):
        if found := re.search(r"\b(yes|no)\b", region, re.IGNORECASE):
            said = found.group(1).lower()
            return Score(float(said in item.answers), said, "ok")
    return Score(0.0, "", "no_answer")


def first_alike(letter: str, options: Sequence[str]) -> str:
    """The letter of the first option with the same text as this letter's."""
    place = ALPHABET.find(letter)
    return ALPHABET[options.index(options[place])] if 0 <= place < len(options) else letter


def letters_of(options: Sequence[str]) -> str:
    """The letters that options have; A to D where they are not known."""
    return ALPHABET[: len(options) or 4]


def options_named(text: str, options: Sequence[str]) -> set[str]:
    """The letters that a text names anywhere: as a letter, or by an option's text."""
    text = normal(text)
    words = _tokens(plain_latex(text))
    named = set(re.findall(rf"(?<![A-Za-z])[{letters_of(options)}](?![A-Za-z])", text))
    texts = (
        (letter, _tokens(plain_latex(normal(one))))
        for letter, one in zip(ALPHABET, options, strict=False)
    )
    return named | {letter for letter, option in texts if option and _inside(option, words)}


def letter_set(text: str, letters: str) -> str:
    """The sorted letters of a text that is nothing but letters ("B, D"; "(B) and (D)"; "BD")."""
    text = plain_latex(text[:100])
    if re.fullmatch(rf"{_OPEN}[{letters}]+{_CLOSE}", text):
        found = re.findall(f"[{letters}]", text)
        return "".join(sorted(found)) if len(set(found)) == len(found) else ""
    # One pattern for the whole enumeration takes exponential time: it tries every way to share out
    # the blanks between two letters. The texts around the letters are matched one by one instead.
    before, *others = re.split(f"[{letters}]", text)
    if not others or not re.fullmatch(_OPEN, before) or not _AFTER_LETTERS.fullmatch(others[-1]):
        return ""
    if not all(_BETWEEN_LETTERS.fullmatch(gap) for gap in others[:-1]):
        return ""
    return "".join(sorted(set(re.findall(rf"\b[{letters}]\b", text))))


def _letter(span: Span, letters: str, options: Sequence[str]) -> str | None:
    text = plain_latex(span.text[:400]) if span.marked else _without_listing(span.text)
    if alone := _alone(text, letters) or (_labelled(text, letters) if span.marked else None):
        return alone
    if span.marked:
        reply = _without_listing(span.reply)
        return _option(text, options) or _cued(reply, letters, options)
    if cued := _cued(text, letters, options):
        return cued
    if span.cut:
        return None
    return _bracketed(text, letters) or _edge_line(text, letters) or _option(text, options)


def _cued(text: str, letters: str, options: Sequence[str]) -> str | None:
    for clause in clauses(text):
        if hit := _in_clause(clause, letters) or _named(clause, options):
            return hit
    verdicts = set(re.findall(rf"(?:^|[\s(*])([{letters}])[)*]*{_VERDICT}", text))
    return str(verdicts.pop()) if len(verdicts) == 1 else None


def _alone(text: str, letters: str) -> str | None:
    """The letter that a text is, large or small, maybe quoted, in brackets or bold."""
    if len(text) > 60:
        return None
    named = "(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer) )?"
    found = re.fullmatch(rf"{_OPEN}{named}([{letters}{letters.lower()}]){_CLOSE}", text)
    return found.group(1).upper() if found else None


def _labelled(text: str, letters: str) -> str | None:
    """The letter with which a text begins as a label: "B. red", "(B) red", "B: red"."""
    found = re.match(rf"{_OPEN}([{letters}])(?:[)\]}}*]+|[.:]+(?=\s|\Z|\*))", text)
    return found.group(1) if found else None


def _in_clause(clause: str, letters: str) -> str | None:
    if alone := _alone(clause, letters):
        return alone
    small = re.match(rf"{_LEAD}\(([{letters.lower()}])\)", clause)
    if small:
        return small.group(1).upper()
    found = re.match(rf"{_LEAD}([{letters}])(?=[\s\"'`*_)\]}}.:,;!$\\]|\Z)", clause)
    if found and not re.match(r"[\s*]*A\s+[a-z]", clause):  # "a", the article
        more = re.match(
            rf"[)*\s]*(?:,|and\b|or\b|&)[,\s(*]*(?:and |or |\()*[{letters}]\b",
            clause[found.end() :],
        )
        return None if more else found.group(1)
    inside = set(
        re.findall(rf"\(([{letters}])\)|\b(?:[Oo]ption|[Cc]hoice) ([{letters}])\b", clause)
    )
    hits = {one or other for one, other in inside}
    return hits.pop() if len(hits) == 1 else None


def _bracketed(text: str, letters: str) -> str | None:
    for marks in (letters, letters.lower()):
        parts = sentences(text)
        starts = [found[1] for part in parts if (found := re.match(rf"\W*\(([{marks}])\)", part))]
        for sentence in reversed(parts):
            if len(set(starts)) > 1 and re.match(rf"\W*\([{marks}]\)", sentence):
                continue  # one option after the other is looked at
            hits = set(re.findall(rf"\(([{marks}])\)", sentence))
            if hits:
                return str(hits.pop()).upper() if len(hits) == 1 else None
    return None


def _edge_line(text: str, letters: str) -> str | None:
    lines = text.splitlines() or [""]
    labelled = [label for line in lines if (label := _labelled(line, letters))]
    for line in (lines[-1], lines[0]):
        if alone := _alone(line, letters):
            return alone
        if len(set(labelled)) == 1 and (label := _labelled(line, letters)):
            return label
    return None


def _without_listing(text: str) -> str:
    """Drop lines that say all options again, one a line: (A) ..., (B) ..., and so on."""
    lines, kept, run = text.split("\n"), list[str](), list[str]()
    for line in [*lines, ""]:
        label = re.match(r"[\s*-]*\(?([A-Z])[.):]", line)
        if label and label[1] == ALPHABET[len(run) % 26]:
            run.append(line)
            continue
        kept += run if len(run) < 2 else []
        run = [line] if label and label[1] == "A" else []
        kept += [] if run else [line]
    return "\n".join(kept[:-1] if not run else kept + run)


def _option(text: str, options: Sequence[str]) -> str | None:
    parts = sentences(text) or [""]
    return next((hit for one in (parts[-1], parts[0]) if (hit := _named(one, options))), None)


def _named(region: str, options: Sequence[str]) -> str | None:
    """The letter of the only option whose text, or number, stands in a short text."""
    region = _INSTEAD.split(plain_latex(region), maxsplit=1)[0]
    if (said := whole(region)) is not None and said.value is not None:
        values = [whole(normal(option)) for option in options]
        return _only(
            [i for i, one in enumerate(values) if one and one.value == said.value], options
        )
    words = _tokens(region)
    hits = [(i, _tokens(plain_latex(normal(text)))) for i, text in enumerate(options)]
    hits = [(i, option) for i, option in hits if option and not _is_letter(option)]
    first = [hit for hit in hits if words[: len(hit[1])] == hit[1]]
    if not first and _DENIAL.search(region):
        return None
    hits = [
        hit for hit in hits if hit in first or (hit[1] not in _SLIGHT and _inside(hit[1], words))
    ]
    # An option inside a longer named option ("blue" in "light blue") is not named itself.
    named = [hit for hit in hits if not any(hit[1] != o[1] and _inside(hit[1], o[1]) for o in hits)]
    return _only([i for i, _ in named], options)


def _only(places: Sequence[int], options: Sequence[str]) -> str | None:
    """The letter of the only option, or of the first if all have the same text."""
    alike = {options[place].strip() for place in places}
    return ALPHABET[places[0]] if len(alike) == 1 else None


def _is_letter(option: Sequence[str]) -> bool:
    return len(option) == 1 and re.fullmatch("[a-z]", option[0]) is not None


def _tokens(text: str) -> list[str]:
    return [one for one in _TOKEN.findall(text.lower()[:2000]) if one not in _NOISE]


def _inside(part: Sequence[str], words: Sequence[str]) -> bool:
    n = len(part)
    return any(list(words[i : i + n]) == list(part) for i in range(len(words) - n + 1))
