"""How often our scorer agrees with the official one, on real answers of released systems.

    python benchmarks/scoring_agreement.py --data FOLDER [--write docs/scoring.md] [--show]

FOLDER holds `mathvista.jsonl.gz` and `mathvision.jsonl.gz`: one JSON object a line with `system`,
`response`, `answer`, the options, and the official `extraction` and `official_correct`. On
multiple choice every disagreement is put into a class by rules stated in `fault`. `--write` puts
the tables between the markers of a Markdown file; `--show` prints every disagreement.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergefront.records import Answer, Item, Rule, Score
from mergefront.tasks.scoring import normalised_gold, score_all
from mergefront.tasks.scoring.answer_span import normalised_text, plain_latex
from mergefront.tasks.scoring.choices import ALPHABET, is_part, letters_of, option_tokens
from mergefront.tasks.scoring.texts import bare_words

BEGIN, END = "<!-- agreement: begin -->", "<!-- agreement: end -->"
SETS = ("mathvista", "mathvision")
FORCED = "no option in the reply; official forces the nearest by edit distance"
INFERRED = "no option in the reply; the judge model inferred one from a statement"
MISREAD = "the reply names an option; the official extraction is another that it does not name"
UNREAD = "the reply names an option; official extracted none and forces the nearest"
BOTH = "the reply names both (it changes its mind, or goes on to a question of its own)"
FORM = "the reply names an option with its text or unit; official compares strings"
ROUNDED = "no option in the reply; official rounds to two decimals and finds one equal"
UNKNOWN = "unexplained"


@dataclass(frozen=True)
class Row:
    """One released response with both verdicts."""

    data: Mapping[str, Any]
    item: Item
    ours: Score

    @property
    def agrees(self) -> bool:
        return (self.ours.value > 0) == self.data["official_correct"]

    @property
    def is_choice(self) -> bool:
        return self.item.rule.name == "choice"


def rows_of(folder: Path, name: str) -> list[Row]:
    """Read and mark the responses of one set."""
    with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        data = [json.loads(line) for line in lines]
    items = [item_of(fields) for fields in data]
    scores = score_all(items, [Answer(fields["response"], 0, True) for fields in data])
    return [Row(*three) for three in zip(data, items, scores, strict=True)]


def item_of(data: Mapping[str, Any]) -> Item:
    """The item of a response, by the official answer type."""
    choices = tuple(data.get("options") or data.get("choices") or ())
    rule = Rule("math", digits=2)  # MATH-Vision compares after rounding to two decimals
    if choices:
        rule = Rule("choice")
    elif kind := data.get("answer_type"):
        rules = {"integer": Rule("integer"), "list": Rule("list")}
        rule = rules.get(kind) or Rule("float", digits=data["precision"])
    gold = normalised_gold(rule, data["answer"], choices)
    assert gold is not None, data["answer"]
    name = str(data.get("pid") or data["id"])
    return Item(name, "t", "", (), (gold,), name, choices=choices, rule=rule)


def fault(row: Row) -> str:
    """The class of a disagreement on multiple choice."""
    options, reply = row.item.choices, row.data["response"]
    official = _option_of(row.data["extraction"], options)
    if row.ours.status == "no_answer":
        if "pid" not in row.data:
            return ROUNDED if row.data["official_correct"] else UNKNOWN
        return INFERRED if official else FORCED
    ours = row.ours.extracted
    if ours not in options_named(f"{row.data['extraction']}\n{reply}", options):
        return UNKNOWN
    if official in (None, ours) and "pid" not in row.data:
        return FORM
    if official is None:
        return UNREAD
    if official == ours:
        return UNKNOWN
    return BOTH if official in options_named(reply, options) else MISREAD


def options_named(text: str, options: Sequence[str]) -> set[str]:
    """Return the letters that a text names anywhere: as a letter, or by an option's text."""
    text = normalised_text(text)
    words = option_tokens(plain_latex(text))
    letters = set(re.findall(rf"(?<![A-Za-z])[{letters_of(options)}](?![A-Za-z])", text))
    for letter, option in zip(ALPHABET, options, strict=False):
        tokens = option_tokens(plain_latex(normalised_text(option)))
        letters |= {letter} if tokens and is_part(tokens, words) else set()
    return letters


def _option_of(extraction: str, options: tuple[str, ...]) -> str | None:
    """The letter of an official extraction that is a letter, maybe with text, or an option."""
    bare = extraction.strip().strip("().").upper()
    if len(bare) == 1 and bare in ALPHABET:
        return bare
    if extraction[:1] == "(" and extraction[2:3] == ")":
        return extraction[1].upper()
    texts = [bare_words(plain_latex(option)) for option in options]
    text = bare_words(plain_latex(extraction))
    return ALPHABET[texts.index(text)] if text in texts else None


def tables(marked: Mapping[str, list[Row]]) -> Iterator[str]:
    """The lines of the Markdown tables."""
    yield "| set | system | free-form: agree | false + | false - | choice: agree |"
    yield "|---|---|---|---|---|---|"
    for name, rows in marked.items():
        for system in [*dict.fromkeys(row.data["system"] for row in rows), "all"]:
            system_rows = [row for row in rows if system in (row.data["system"], "all")]
            free = [row for row in system_rows if not row.is_choice]
            wrong = Counter(row.ours.value > 0 for row in free if not row.agrees)
            choice = [row for row in system_rows if row.is_choice]
            yield (
                f"| {name} | {system} | {_share(free)} | {wrong[True]} | {wrong[False]} "
                f"| {_share(choice)} |"
            )
    yield ""
    yield "| why verdicts on multiple choice differ | " + " | ".join(marked) + " |"
    yield "|---|" + "---|" * len(marked)
    counts = {
        name: Counter(fault(row) for row in rows if row.is_choice and not row.agrees)
        for name, rows in marked.items()
    }
    for why in (FORCED, INFERRED, UNREAD, MISREAD, BOTH, FORM, ROUNDED, UNKNOWN):
        yield f"| {why} | " + " | ".join(str(count[why]) for count in counts.values()) + " |"
    yield "| sum | " + " | ".join(str(count.total()) for count in counts.values()) + " |"


def _share(rows: list[Row]) -> str:
    agreed = sum(row.agrees for row in rows)
    return f"{agreed / len(rows):.2%} of {len(rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--show", action="store_true")
    settings = parser.parse_args()
    marked = {name: rows_of(settings.data, name) for name in SETS}
    text = "\n".join(tables(marked))
    print(text)
    if settings.write:
        page = settings.write.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        after = rest.partition(END)[2]
        settings.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    for row in [row for rows in marked.values() for row in rows if settings.show]:
        if not row.agrees:
            why = fault(row) if row.is_choice else "free-form"
            facts = {key: row.data[key] for key in ("system", "answer", "extraction")}
            print(f"\n{why}: {row.item.id} {facts} {row.item.choices} {row.ours}")
            print(row.data["response"][-600:])


if __name__ == "__main__":
    main()
