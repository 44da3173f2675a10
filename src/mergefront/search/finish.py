"""From the search's scores to the final word: finalists, validation, picks, test, blind control.

Three rules keep the report honest. Members are chosen and picked on search items only, by what the
search believes of them (`belief`); the gains
that are reported come from validation items; test items are read once, for the picks, at the end.
Every opening of validation and test items is recorded in the study.

Definitions (also in docs/concepts.md): the reference point of the hypervolume is (the receiver's
score on the first objective, 0.8 x the receiver's on the others, on the same split) unless
configured. A member *beats the receiver* when the 95 % interval of its paired validation gain on
the first objective lies above zero and its mean validation loss on every other objective is at
most the guard. What is reported is computed in `front`.

Before members are chosen: those that left the race, but would be members, answer the rest.

A model is surest of itself where it hopes most, so that nobody is chosen on part of the search
items and its word alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergefront.config import BLIND_ITEMS
from mergefront.engine.asking import answer
from mergefront.engine.inplace import model_hash
from mergefront.errors import RunError
from mergefront.records import Evaluation, Item, Split
from mergefront.runs import study
from mergefront.runs.directory import RECEIVER, blind_name, item_records, with_costs
from mergefront.runs.front import read_front
from mergefront.runs.history import COMPLETED, ELAPSED, PICKS, evaluations, numbers_of
from mergefront.runs.members import believed, choose_finalists, picks, resolve_pick
from mergefront.runs.study import record_opening
from mergefront.runs.summary import write_front
from mergefront.search.loop import Search
from mergefront.tasks.splits import whole_prefix

__all__ = ["Step", "finish", "model_hash", "read_front", "record_opening", "resolve_pick"]
__all__ += ["blind_items", "write_front"]


def finish(search: Search) -> Iterator[Step]:
    """Score finalists on validation items and picks on test items, then write front.json.

    What an earlier, killed attempt has scored is not asked again.

    Raises:
        RunError: no candidate was evaluated.
    """
    receiver = search.receiver("search")
    everything = evaluations(search.study, search.run)
    if all(e.failure for e in everything):
        raise nobody(search.run.path, everything)
    yield from complete_members(search)
    finished = [e for e in evaluations(search.study, search.run) if not e.failure]
    belief = believed(finished, search.config, receiver)
    finalists = choose_finalists([e for e in finished if ready(e)], search.config, belief)
    by_number = {e.number: e for e in finished}
    yield from _score(search, "validation", [by_number[n] for n in finalists])
    chosen = picks(finalists, search.config, receiver, belief)
    search.study.set_user_attr(PICKS, chosen)
    picked = sorted(set(chosen.values()))
    yield from _score(search, "test", [by_number[n] for n in picked])
    if search.config.report.blind:
        yield from _score_blind(search, [by_number[n] for n in picked])
    search.study.set_user_attr("finalists", finalists)
    write_front(search.run, search.study)


def nobody(path: Path, found: Sequence[Evaluation]) -> RunError:
    """The error of a run in which no candidate has a score."""
    if not found:
        return RunError(f"{path}: no candidate was evaluated", hint="raise the budget")
    return RunError(
        f"{path}: all {len(found)} candidates failed, the last with: {found[-1].failure}",
        hint="mend what the message names, or narrow the space's bounds; then start a new run "
        "under another name (log.txt has every failure)",
    )


def _models(search: Search, chosen: Sequence[Evaluation]) -> list[tuple[str, Any]]:
    """Name and recipe of the receiver and of the chosen candidates."""
    models: list[tuple[str, Any]] = [(RECEIVER, search.receiver_recipe())]
    return models + [(str(e.number), search.recipe(e.point)) for e in chosen]


def _score(search: Search, split: Split, chosen: Sequence[Evaluation]) -> Iterator[Step]:
    asked = len(study.finished(search.study))
    models = _models(search, chosen)
    for done, (name, recipe) in enumerate(models):
        yield Step(split, name, done, len(models))
        if not search.run.read_items(name, split):
            record_opening(search.study, split, name, asked)
            search.ask(name, recipe, split)
        elif split == "validation" and f"hashes:{name}" not in search.study.user_attrs:
            search.load(recipe)  # killed between scoring and hashing
        else:
            continue
        if split == "validation":
            hashes = search.open_engine().parameter_hashes()
            search.study.set_user_attr(f"hashes:{name}", model_hash(hashes))
        search.study.set_user_attr(ELAPSED, round(search.clock.elapsed(), 3))
    yield Step(split, "", len(models), len(models))


def _score_blind(search: Search, chosen: Sequence[Evaluation]) -> Iterator[Step]:
    """The blind control: receiver and picks on validation items without their images."""
    unseen = blind_items(search.items.items["validation"])
    if not unseen:
        return
    asked = len(study.finished(search.study))
    models = _models(search, chosen)
    for done, (model, recipe) in enumerate(models):
        name = blind_name(model)
        yield Step("validation", name, done, len(models))
        if not search.run.read_items(name):
            record_opening(search.study, "validation", name, asked)
            search.ask(name, recipe, "validation", unseen)
            search.study.set_user_attr(ELAPSED, round(search.clock.elapsed(), 3))
    yield Step("validation", "", len(models), len(models))


def blind_items(by_objective: Mapping[str, Sequence[Item]]) -> dict[str, list[Item]]:
    """Objective -> its first items that have images, at most BLIND_ITEMS, without them.

    Objectives without an image are left out.
    """
    found = {}
    for objective, items in by_objective.items():
        seen = whole_prefix([item for item in items if item.images], BLIND_ITEMS)
        if seen:
            found[objective] = [replace(item, images=()) for item in seen]
    return found


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
    recipe = search.recipe(evaluation.point)
    seconds = evaluation.seconds + search.load(recipe)
    records = search.run.read_answers(name, "search")
    for rung in range(evaluation.raced.rungs, len(race.rungs)):
        answered, spent = answer(search.open_engine(), race.rungs[rung])
        records += item_records(answered, "search", rung)
        seconds += spent
    records.sort(key=lambda record: names.index(record.objective))
    seconds += search.keep(name, records)
    raced = replace(evaluation.raced, completed=True)
    found = race.estimate(with_costs(records, search.config.costs))
    whole = replace(evaluation, objectives=found, seconds=seconds, raced=raced)
    values = [found[objective].mean for objective in names]
    search.study.set_user_attr(f"{COMPLETED}{name}", {**numbers_of(whole, names), "values": values})
    race.correct(whole)
    return whole
