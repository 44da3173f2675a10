"""Recipe -> plan: what each group is made of, before any tensor is looked at.

A candidate is planned once. The search reads in the plan whether any group changes, an engine
builds the plan in place, and the exporter writes it. Not here: how a row of coefficients becomes
the weights of one tensor (`methods`), and the tensors themselves (`build`, `engine.inplace`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mergefront.merging.method import Method, Mix, Term
from mergefront.merging.methods import method_of
from mergefront.merging.recipe import Recipe
from mergefront.models.sources import Sources, check_heads
from mergefront.records import Part

COPY_RECEIVER: Final = "receiver"
"""Content of a group that stays the receiver's."""
ZERO: Final = "zero"

GroupContent = str | Mapping[str, float]
"""What a group is made of: the source that it is copied from ("receiver", "base", an alias, or
"zero" for zeros), or its row of coefficients (source -> c), which the recipe's method turns into
weights tensor by tensor. These are plain values, which may cross process boundaries."""


@dataclass(frozen=True)
class Plan:
    """A recipe, its method, the content of each group by name, and the parts that change."""

    recipe: Recipe
    method: Method
    contents: Mapping[str, GroupContent]
    touched_parts: frozenset[Part]

    @property
    def untouched(self) -> bool:
        """Whether the recipe is the receiver itself, in every group."""
        return not self.touched_parts


def plan_of(recipe: Recipe, sources: Sources) -> Plan:
    """Plan a recipe on its opened models.

    Raises:
        ConfigError: a parameter is illegal, the recipe names a group that the receiver has not, or
            its coefficients make no sense in its method.
        UserError: the recipe needs a base that was not named, or it touches an embedding or head
            that cannot be merged.
    """
    method = method_of(recipe.method, recipe.parameters)
    check_method(sources, method)
    table = recipe.resolved(sources.group_index)
    overridden = recipe.overridden(sources.group_index)
    for source in set(overridden.values()) - {ZERO}:
        sources.model(source)
    contents: dict[str, GroupContent] = {}
    for group in sources.groups:
        if group.name in overridden:
            contents[group.name] = overridden[group.name]
            continue
        row = {name: values[group.name] for name, values in table.items() if group.name in values}
        # Donors at 0 and the receiver at 1.
        if all(value == (name == "receiver") for name, value in row.items()):
            contents[group.name] = COPY_RECEIVER
            continue
        method.check_row(row, recipe.donors)
        contents[group.name] = method.copied_source(row, recipe.donors) or row
    touched = frozenset(g.part for g in sources.groups if contents[g.name] != COPY_RECEIVER)
    check_heads(sources, touched)
    return Plan(recipe, method, contents, touched)


def check_method(sources: Sources, method: Method) -> None:
    """Check that every source that a method reads is there.

    Raises:
        UserError: the method needs a base that was not named.
    """
    for term in method.terms(sources.donors):
        for source in method.reads(term):
            sources.model(source)


def copy_of(source: str) -> Mix:
    """Return the mix that copies one source, or makes zeros."""
    return Mix(()) if source == ZERO else Mix((Term("source", source),), (1.0,))
