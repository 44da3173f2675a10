"""Print docs/pairs.md: the shipped pairs, from configs/*.yaml and the comments at their heads.

python -m scripts.docs_pairs > docs/pairs.md
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Final

from mergefront import files
from mergefront.config import RunConfig
from mergefront.yaml_file import load_yaml

NOTES: Final = ("Reported", "Lineage", "Caution")
"""Labels of the notes in a configuration's comment, in the order of the page."""

_HEAD: Final = """\
# Shipped pairs

Every pair of [the founding paper](https://arxiv.org/abs/2505.05464), and pairs with newer receivers
and donors of the same backbone. One file each in [configs/](../configs):

```bash
mergefront plan NAME --gpu-gb 80      # what it would download, need and take; is it still there?
mergefront search NAME
```

**None of these searches has been run by us**: the models were out of reach. What is reported below
is what others measured with one coefficient for the whole model, mostly single runs, without error
bars. Their gains are a few points and often within noise: at 95 % a single score moves by about 4.4
points on MathVista, 4.9 on a MathVerse mode, 7.9 on MathVision's 304 questions, 3.6 on MMStar. That
is why a search here compares answers to the same questions, and confirms on fresh ones.

Two warnings from the literature hold for all pairs:

- **Cliffs.** Real pairs can collapse at a donor weight of 0.1 to 0.2, and Qwen2-VL with Qwen2-Math
  did at 0.2. So these configurations use the space `real_pairs`: knobs from 0 to 0.3 that start at
  0.1, and the receiver itself among the warm starts.
- **A base that is none.** A donor's delta is taken from what the donor was trained from, which is
  not always the receiver's ancestor: each donor names its own `base`.

The paper itself takes a weighted mean, 0.9 receiver + 0.1 donor, which needs no base. To search
around that, set `space: real_pairs_linear`.

Commits are pinned where public code names them; they were not checked against the hub, which could
not be reached. `mergefront plan` asks it, and says so where a repository is gated, gone, or holds
only pickled weights.
"""


@dataclass(frozen=True)
class Pair:
    """One shipped configuration with its title and notes (label -> text)."""

    title: str
    notes: dict[str, str]
    config: RunConfig


def shipped_pairs() -> list[Pair]:
    """Return the shipped configurations whose models do not come with mergefront, by name."""
    pairs = []
    for name in files.shipped_names("configs"):
        path = files.find_yaml("configs", name)
        config = load_yaml(path, RunConfig)
        if not config.receiver.startswith("zoo:"):
            title, notes = read_notes(path.read_text(encoding="utf-8"))
            pairs.append(Pair(title, notes, config))
    return pairs


def read_notes(text: str) -> tuple[str, dict[str, str]]:
    """Read a file's leading comment: its first line, and the notes by label.

    A note begins with its label and a colon; indented comment lines continue it.
    """
    lines = text.splitlines()
    title = lines[0].removeprefix("#").strip() if lines else ""
    notes: dict[str, str] = {}
    label = ""
    for line in lines[1:]:
        if not line.startswith("#"):
            break
        start = re.match(rf"# ({'|'.join(NOTES)}): (.*)", line)
        if start is not None:
            label = start[1]
            notes[label] = start[2]
        elif label and line.startswith("#   "):
            notes[label] += " " + line.removeprefix("#").strip()
        else:
            label = ""
    return title, notes


def page() -> str:
    """Return the text of docs/pairs.md."""
    pairs = shipped_pairs()
    rows = [
        f"| [{p.config.name}](../configs/{p.config.name}.yaml) | {_model(p.config.receiver)} "
        f"| {_donors(p.config)} | {p.config.engine.kind} | {p.config.budget.candidates} |"
        for p in pairs
    ]
    table = [
        "| name | receiver | donor (its base) | engine | candidates |",
        "| --- | --- | --- | --- | --- |",
        *rows,
    ]
    parts = [_HEAD, "\n".join(table) + "\n", "## What is known of each\n"]
    for pair in pairs:
        lines = [f"- {label}: {pair.notes[label]}" for label in NOTES if label in pair.notes]
        parts.append(f"### {pair.config.name}\n\n{pair.title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _donors(config: RunConfig) -> str:
    return "; ".join(
        f"{_model(donor.model)} ({_model(donor.base or config.base or 'none')})"
        for donor in config.donors.values()
    )


def _model(name: str) -> str:
    return name.partition("@")[0]


if __name__ == "__main__":
    sys.stdout.write(page())
