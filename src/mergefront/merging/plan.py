"""Recipe -> plan: what each group is made of, before any tensor is looked at.

The engine and the exporter both take their plan from here. A plan says of each group either the
one source that it is copied from ("receiver", "base", an alias; "zero" for zeros), or the row of
coefficients (source -> c) that the recipe's method turns into weights, tensor by tensor. A group
that is the receiver's own need not be touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mergefront.merging.method import Mix
from mergefront.merging.methods import METHODS
from mergefront.merging.recipe import Recipe
from mergefront.models.sources import Sources
from mergefront.records import Group

UNTOUCHED: Final = "receiver"
ZERO: Final = "zero"

Choice = str | Mapping[str, float]
"""A source to copy, or a row of coefficients."""

Plan = Mapping[str, Choice]
"""Group name -> choice: plain values that may cross process boundaries."""


def check_method(sources: Sources, name: str, parameters: Mapping[str, Any]) -> None:
    """Check that every source a method reads is there, before anything is built.

    Raises:
        ConfigError: if a parameter is illegal.
        UserError: if the method needs a base that was not named.
    """
    method = METHODS[name]
    for term in method.terms(sources.donors, parameters):
        for source in method.reads(term, parameters):
            sources.model(source)


def plan_of(recipe: Recipe, groups: Sequence[Group]) -> dict[str, Choice]:
    """Return group name -> choice for every group.

    Raises:
        ConfigError: if the recipe names a group that the receiver has not, or its coefficients
            make no sense in its method.
    """
    method = METHODS[recipe.method]
    table = recipe.resolved(groups)
    overridden = recipe.overridden(groups)
    plan: dict[str, Choice] = {}
    for group in groups:
        source = overridden.get(group.name)
        if source is not None:
            plan[group.name] = source
            continue
        row = {name: values[group.name] for name, values in table.items() if group.name in values}
        if all(value == (name == "receiver") for name, value in row.items()):
            plan[group.name] = UNTOUCHED
            continue
        method.check_row(row, recipe.donors, recipe.parameters)
        plan[group.name] = method.copied(row, recipe.donors, recipe.parameters) or row
    return plan


def touched_parts(recipe: Recipe, groups: Sequence[Group]) -> frozenset[str]:
    """Return the parts in which a recipe differs from the receiver."""
    plan = plan_of(recipe, groups)
    return frozenset(group.part for group in groups if plan[group.name] != UNTOUCHED)


def copied(source: str) -> Mix:
    """The mix that copies one source, or makes zeros."""
    return Mix(()) if source == ZERO else Mix((source,), (1.0,))
