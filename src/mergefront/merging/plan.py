"""Recipe -> weights: which terms each group is the weighted sum of.

The engine and the exporter both take their weights from here. A group whose weights are
{"receiver": 1.0} is the receiver's own and need not be touched.
"""

from __future__ import annotations

from collections.abc import Sequence

from mergefront.recipe import Recipe
from mergefront.records import Group

from . import METHODS

UNTOUCHED: dict[str, float] = {"receiver": 1.0}


def group_weights(recipe: Recipe, groups: Sequence[Group]) -> dict[str, dict[str, float]]:
    """Return group name -> term -> weight, zero weights left out, in the order of summation.

    Overridden groups have their source as the only term, at one, or no term at all for zeros.
    Terms are those of `Method.terms`, and for overrides any plain source: `Method.prepare` knows
    both.

    Raises:
        ConfigError: if the recipe names a group that the receiver has not.
    """
    method = METHODS[recipe.method]
    order = method.terms(recipe.donors, recipe.parameters)
    table = recipe.resolved(groups)
    overridden = recipe.overridden(groups)
    plan = {}
    for group in groups:
        source = overridden.get(group.name)
        if source is not None:
            plan[group.name] = {} if source == "zero" else {source: 1.0}
            continue
        row = {name: values[group.name] for name, values in table.items() if group.name in values}
        if all(value == (name == "receiver") for name, value in row.items()):
            plan[group.name] = dict(UNTOUCHED)
            continue
        weights = method.weights(row, recipe.donors, recipe.parameters)
        plan[group.name] = {term: weights[term] for term in order if weights[term] != 0.0}
    return plan


def touched_parts(recipe: Recipe, groups: Sequence[Group]) -> frozenset[str]:
    """Return the parts in which a recipe differs from the receiver."""
    plan = group_weights(recipe, groups)
    return frozenset(group.part for group in groups if plan[group.name] != UNTOUCHED)
