"""Recipe -> plan: what each group is made of, before any tensor is looked at.

A candidate is planned once. The search asks its plan whether there is anything to build, an engine
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

UNTOUCHED: Final = "receiver"
ZERO: Final = "zero"

Choice = str | Mapping[str, float]
"""What a group is made of: the name of the source that it is copied from ("receiver", "base", an
alias; "zero" for zeros), or its row of coefficients (source -> c), which the recipe's method turns
into weights tensor by tensor. Plain values, which may cross process boundaries."""


@dataclass(frozen=True)
class Plan:
    """A recipe, its method, the choice for each group by name, and the parts that change.

    A group whose choice is the receiver need not be touched.
    """

    recipe: Recipe
    method: Method
    choices: Mapping[str, Choice]
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
    choices: dict[str, Choice] = {}
    for group in sources.groups:
        if group.name in overridden:
            choices[group.name] = overridden[group.name]
            continue
        row = {name: values[group.name] for name, values in table.items() if group.name in values}
        if all(value == (name == "receiver") for name, value in row.items()):
            choices[group.name] = UNTOUCHED
            continue
        method.check_row(row, recipe.donors)
        choices[group.name] = method.copied_source(row, recipe.donors) or row
    touched = frozenset(g.part for g in sources.groups if choices[g.name] != UNTOUCHED)
    check_heads(sources, touched)
    return Plan(recipe, method, choices, touched)


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
