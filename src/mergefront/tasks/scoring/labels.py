"""The labels that stand for the answers of a rule when items are scored by log-probability."""

from __future__ import annotations

from dataclasses import replace

from mergefront.errors import UserError
from mergefront.records import Item
from mergefront.tasks.scoring.choices import letters_of


def has_labels(item: Item) -> bool:
    """Return whether an item can be scored by labels."""
    return item.rule.name in ("choice", "yes_no")


def with_labels(item: Item) -> Item:
    """Return the item with its labels: the letters of its options, or yes and no.

    Raises:
        UserError: its rule has no such labels.
    """
    match item.rule.name:
        case "choice":
            return replace(item, labels=tuple(letters_of(item.choices)), max_tokens=1)
        case "yes_no":
            return replace(item, labels=("yes", "no"), max_tokens=1)
    raise UserError(
        f"task {item.task}: the rule {item.rule.name} has no labels whose log-probabilities could "
        f"be compared (item {item.id})",
        hint="labels exist for the rules choice and yes_no; let the model answer in words instead",
    )
