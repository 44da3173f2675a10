"""Before members are chosen: those that left the race, but would be members, answer the rest.

A model is surest of itself where it hopes most, so that nobody is chosen on part of the search
items and its word alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mergefront.asking import answer
from mergefront.members import believed, choose_finalists
from mergefront.recorded import COMPLETED, ELAPSED, evaluations, numbers_of
from mergefront.records import Evaluation, Split
from mergefront.rundir import with_costs
from mergefront.search import Search

MOST = 4
"""So many times `report.finalists` candidates are completed at most."""


@dataclass(frozen=True)
class Step:
    """Progress of the final stage: `done` of `total` models scored on `split`."""

    split: Split
    name: str
    done: int
    total: int


def complete_members(search: Search) -> Iterator[Step]:
    """Complete the candidates that would be members, and ask anew who is.

    Ends when all that would be members have answered everything, or after `MOST` times
    `report.finalists` candidates. Members are then chosen among those that have (`ready`).
    """
    receiver, room = search.receiver("search"), MOST * search.config.report.finalists
    while room > 0:
        found = [e for e in evaluations(search.study, search.run) if not e.failure]
        belief = believed(found, search.config, receiver)
        numbers = set(choose_finalists(found, search.config, belief)) if found else set()
        left = [e for e in found if e.number in numbers and not ready(e)][:room]
        if not left:
            return
        room -= len(left)
        for done, evaluation in enumerate(left):
            yield Step("search", str(evaluation.number), done, len(left))
            complete(search, evaluation)
            search.study.set_user_attr(ELAPSED, round(search.clock.elapsed(), 3))


def ready(evaluation: Evaluation) -> bool:
    """Whether a candidate has answered every search item."""
    return evaluation.raced.completed or not evaluation.raced.left


def complete(search: Search, evaluation: Evaluation) -> Evaluation:
    """Have a candidate that left the race answer the rest of the search items, and record it."""
    race, name, names = search.race(), str(evaluation.number), list(search.config.objectives)
    recipe = search.recipe(evaluation.point, evaluation.version)
    seconds = evaluation.seconds + search.open_engine().load(recipe)
    records = search.run.read_answers(name, "search")
    for rung in range(evaluation.raced.rungs, len(race.rungs)):
        answered, spent = answer(search.open_engine(), race.rungs[rung], "search", rung)
        records, seconds = records + answered, seconds + spent
    records.sort(key=lambda record: names.index(record.objective))
    seconds += search.keep(name, records)
    raced = replace(evaluation.raced, completed=True)
    found = race.estimate(with_costs(records, search.config.costs))
    whole = replace(evaluation, objectives=found, seconds=seconds, raced=raced)
    values = [found[objective].mean for objective in names]
    search.study.set_user_attr(f"{COMPLETED}{name}", {**numbers_of(whole, names), "values": values})
    race.correct(whole)
    return whole
