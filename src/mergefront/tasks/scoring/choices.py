"""Rules for options: `choice` (one letter), `choices` (a set of letters), `yes_no`.

The letter of `choice` is looked for in these places; the first place that has one decides:
1. the whole marked span or reply is a letter, in brackets or bold or with its option after it;
2. an answer clause, the last one first: a letter at its start, "option B" in it, or the text of
   just one option in it; "B is correct" counts as a clause;
3. the last sentence with letters in brackets has just one of them;
4. the last line, or the first, is a letter, maybe with its option after it;
5. the text of just one option stands in the last sentence, else in the first.
Where a marked span names no option, 2 is tried on the whole reply. Of an answer that was cut off,
only 1 and 2 count. Two letters in one place are no answer.

Lines that list the options again are skipped. Only letters that the options have count. A small
letter counts where it stands alone or in brackets, never inside a sentence ("a" is an article). In
a sentence that denies something, an option's text counts only at the start. The same holds for the
options "yes" and "no" in every sentence. The text of an option that is itself a letter never
counts. Options with the same text are one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from mergefront.errors import UserError
from mergefront.records import Item, Score
from mergefront.tasks.scoring.answer_span import (
    AnswerSpan,
    answer_clauses,
    normalised_text,
    plain_latex,
    sentences,
)
from mergefront.tasks.scoring.numbers import number_alone

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
_YES_AND_NO = (["yes"], ["no"])
_PUNCTUATION = frozenset(".,;:!?\"'`*()[]{}$_")


def choice(span: AnswerSpan, item: Item) -> Score:
    """Score 1 if the letter of the reply is a gold; golds are letters."""
    options = item.choices
    letter = _find_letter(span, letters_of(options), options)
    if letter is None:
        return Score(0.0, "", "no_answer")
    golds = {first_alike(gold, options) for gold in item.answers}
    return Score(float(first_alike(letter, options) in golds), letter, "ok")


def choices(span: AnswerSpan, item: Item) -> Score:
    """Score 1 if the reply's set of letters is a gold's: "B and D" equals "D, B".

    Golds are written "B, D".
    """
    options = item.choices
    letters = letters_of(options) if options else ALPHABET
    answer = letter_set(span.text, letters)
    if not answer:
        sets = (letter_set(clause, letters) for clause in span.whole_clauses())
        answer = next(filter(None, sets), "")
    if not answer and not span.cut_off:
        answer = _find_letter(span, letters, options) or ""
    if not answer:
        return Score(0.0, "", "no_answer")
    golds = {"".join(re.findall("[A-Z]", gold)) for gold in item.answers}
    return Score(float(answer in golds), ", ".join(answer), "ok")


def yes_no(span: AnswerSpan, item: Item) -> Score:
    """Mark the first yes or no: of the last answer clause that has one, else of the whole reply.

    Of a reply that was cut off, only an answer clause or the first word counts.
    """
    reply = span.text
    if span.cut_off:
        reply = (re.match(r"\W*\w+", reply) or [""])[0]
    for region in (*answer_clauses(span.text), reply):
        if match := re.search(r"\b(yes|no)\b", region, re.IGNORECASE):
            answer = match.group(1).lower()
            return Score(float(answer in item.answers), answer, "ok")
    return Score(0.0, "", "no_answer")


def first_alike(letter: str, options: Sequence[str]) -> str:
    """Return the letter of the first option with the same text as this letter's."""
    place = ALPHABET.find(letter)
    return ALPHABET[options.index(options[place])] if 0 <= place < len(options) else letter


def letters_of(options: Sequence[str]) -> str:
    """Return the letters that the options have; A to D where there are no options."""
    return ALPHABET[: len(options) or 4]


def letter_set(text: str, letters: str) -> str:
    """Return the sorted letters of a text that is nothing but letters, else an empty text.

    Such texts are "B, D", "(B) and (D)" and "BD".
    """
    text = plain_latex(text[:100])
    if re.fullmatch(rf"{_OPEN}[{letters}]+{_CLOSE}", text):
        row = re.findall(f"[{letters}]", text)
        return "".join(sorted(row)) if len(set(row)) == len(row) else ""
    # One pattern for the whole enumeration takes exponential time: it tries every way to share out
    # the blanks between two letters. The texts around the letters are matched one by one instead.
    before, *gaps = re.split(f"[{letters}]", text)
    if not gaps or not re.fullmatch(_OPEN, before) or not _AFTER_LETTERS.fullmatch(gaps[-1]):
        return ""
    if not all(_BETWEEN_LETTERS.fullmatch(gap) for gap in gaps[:-1]):
        return ""
    return "".join(sorted(set(re.findall(rf"\b[{letters}]\b", text))))


def _find_letter(span: AnswerSpan, letters: str, options: Sequence[str]) -> str | None:
    text = plain_latex(span.text[:400]) if span.marked else _without_listing(span.text)
    label = _label_of(text, letters) if span.marked else None
    if alone := _letter_alone(text, letters) or label:
        return alone
    if span.marked:
        reply = _without_listing(span.reply)
        return _option_at_edges(text, options) or _letter_in_clauses(reply, letters, options)
    if letter := _letter_in_clauses(text, letters, options):
        return letter
    if span.cut_off:
        return None
    return (
        _letter_in_brackets(text, letters)
        or _letter_on_edge_line(text, letters)
        or _option_at_edges(text, options)
    )


def _letter_in_clauses(text: str, letters: str, options: Sequence[str]) -> str | None:
    for clause in answer_clauses(text):
        if letter := _letter_in_clause(clause, letters) or _option_in(clause, options):
            return letter
    verdicts = set(re.findall(rf"(?:^|[\s(*])([{letters}])[)*]*{_VERDICT}", text))
    return str(verdicts.pop()) if len(verdicts) == 1 else None


def _letter_alone(text: str, letters: str) -> str | None:
    """Return the letter that a text is, large or small, maybe quoted, in brackets or bold."""
    if len(text) > 60:
        return None
    named = "(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer) )?"
    match = re.fullmatch(rf"{_OPEN}{named}([{letters}{letters.lower()}]){_CLOSE}", text)
    return match.group(1).upper() if match else None


def _label_of(text: str, letters: str) -> str | None:
    """Return the letter with which a text begins as a label: "B. red", "(B) red", "B: red"."""
    match = re.match(rf"{_OPEN}([{letters}])(?:[)\]}}*]+|[.:]+(?=\s|\Z|\*))", text)
    return match.group(1) if match else None


def _letter_in_clause(clause: str, letters: str) -> str | None:
    if alone := _letter_alone(clause, letters):
        return alone
    small = re.match(rf"{_LEAD}\(([{letters.lower()}])\)", clause)
    if small:
        return small.group(1).upper()
    leading = re.match(rf"{_LEAD}([{letters}])(?=[\s\"'`*_)\]}}.:,;!$\\]|\Z)", clause)
    if leading and not re.match(r"[\s*]*A\s+[a-z]", clause):  # "a", the article
        more = re.match(
            rf"[)*\s]*(?:,|and\b|or\b|&)[,\s(*]*(?:and |or |\()*[{letters}]\b",
            clause[leading.end() :],
        )
        return None if more else leading.group(1)
    inside = set(
        re.findall(rf"\(([{letters}])\)|\b(?:[Oo]ption|[Cc]hoice) ([{letters}])\b", clause)
    )
    hits = {bracketed or named for bracketed, named in inside}
    return hits.pop() if len(hits) == 1 else None


def _letter_in_brackets(text: str, letters: str) -> str | None:
    for case in (letters, letters.lower()):
        parts = sentences(text)
        starts = [label[1] for part in parts if (label := re.match(rf"\W*\(([{case}])\)", part))]
        for sentence in reversed(parts):
            if len(set(starts)) > 1 and re.match(rf"\W*\([{case}]\)", sentence):
                continue  # the reply looks at one option after the other
            hits = set(re.findall(rf"\(([{case}])\)", sentence))
            if hits:
                return str(hits.pop()).upper() if len(hits) == 1 else None
    return None


def _letter_on_edge_line(text: str, letters: str) -> str | None:
    lines = text.splitlines() or [""]
    labels = [label for line in lines if (label := _label_of(line, letters))]
    for line in (lines[-1], lines[0]):
        if alone := _letter_alone(line, letters):
            return alone
        if len(set(labels)) == 1 and (label := _label_of(line, letters)):
            return label
    return None


def _without_listing(text: str) -> str:
    """Drop lines that list the options again, one a line: (A) ..., (B) ..., and so on."""
    lines, rest, listing = text.split("\n"), list[str](), list[str]()
    for line in [*lines, ""]:
        label = re.match(r"[\s*-]*\(?([A-Z])[.):]", line)
        if label and label[1] == ALPHABET[len(listing) % 26]:
            listing.append(line)
            continue
        rest += listing if len(listing) < 2 else []
        listing = [line] if label and label[1] == "A" else []
        rest += [] if listing else [line]
    return "\n".join(rest[:-1])  # without the line that ended the loop


def _option_at_edges(text: str, options: Sequence[str]) -> str | None:
    parts = sentences(text) or [""]
    edges = (parts[-1], parts[0])
    return next((letter for part in edges if (letter := _option_in(part, options))), None)


def _option_in(region: str, options: Sequence[str]) -> str | None:
    """Return the letter of the only option whose text, or number, stands in a short text."""
    region = _INSTEAD.split(plain_latex(region), maxsplit=1)[0]
    if (answer := number_alone(region)) is not None and answer.value is not None:
        numbers = [number_alone(normalised_text(option)) for option in options]
        equal = [i for i, number in enumerate(numbers) if number and number.value == answer.value]
        return _only_option(equal, options)
    words = option_tokens(region)
    hits = [
        (i, option_tokens(plain_latex(normalised_text(text)))) for i, text in enumerate(options)
    ]
    hits = [(i, option) for i, option in hits if not re.fullmatch("[a-z]?", " ".join(option))]
    leading = [hit for hit in hits if words[: len(hit[1])] == hit[1]]
    if not leading and _DENIAL.search(region):
        return None
    hits = [
        hit
        for hit in hits
        if hit in leading or (hit[1] not in _YES_AND_NO and is_part(hit[1], words))
    ]
    # "blue" inside "light blue" is not named itself where "light blue" is an option too.
    outermost = [
        place
        for place, option in hits
        if not any(option != longer and is_part(option, longer) for _, longer in hits)
    ]
    return _only_option(outermost, options)


def _only_option(places: Sequence[int], options: Sequence[str]) -> str | None:
    """Return the letter of the only option, or of the first if all have the same text."""
    alike = {options[place].strip() for place in places}
    return ALPHABET[places[0]] if len(alike) == 1 else None


def option_tokens(text: str) -> list[str]:
    """Return the words and numbers of an option or a reply, without punctuation."""
    return [token for token in _TOKEN.findall(text.lower()[:2000]) if token not in _PUNCTUATION]


def is_part(part: Sequence[str], words: Sequence[str]) -> bool:
    """Return whether one row of words stands inside another."""
    n = len(part)
    return any(list(words[i : i + n]) == list(part) for i in range(len(words) - n + 1))


def has_labels(item: Item) -> bool:
    """Return whether an item can be scored by labels."""
    return item.rule.name in ("choice", "yes_no")


def with_labels(item: Item) -> Item:
    """Return the item with its labels: the letters of its options, or yes and no.

    Raises:
        UserError: its rule has no such labels.
    """
    if has_labels(item):
        words = ("yes", "no") if item.rule.name == "yes_no" else tuple(letters_of(item.choices))
        return replace(item, labels=words, max_tokens=1)
    raise UserError(
        f"task {item.task}: the rule {item.rule.name} has no labels whose log-probabilities could "
        f"be compared (item {item.id})",
        hint="labels exist for the rules choice and yes_no; let the model answer in words instead",
    )
