"""The end of a search: members are completed and validated, picks are made, tested and blinded.

Three rules keep the report honest. Members are chosen and picked on search items only, by what the
search believes of them (`runs.belief`). The gains that are reported come from validation items.
Test items are read once, for the picks, at the end. Every opening of validation and test items is
recorded in the study.

The model is most overconfident about the best candidates. So no candidate is chosen on part of the
search items: those that left the race, but would be members, answer the rest (`complete_members`).

Definitions (also in docs/concepts.md): the reference point of the hypervolume is (the receiver's
score on the first objective, 0.8 x the receiver's on the others, on the same split) unless
configured. A member *beats the receiver* when the 95 % interval of its paired validation gain on
the first objective lies above zero and its mean validation loss on every other objective is at
most the guard. Not here: the numbers that are reported (`runs.front`).

Reading order: `finish`, `complete_members`, `blind_items`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from mergefront.config import BLIND_ITEMS
from mergefront.engine.answering import answer_items
from mergefront.engine.inplace import model_hash
from mergefront.errors import CandidateError, EngineError, RunError
from mergefront.merging.plan import Plan
from mergefront.records import Evaluation, Item, Split
from mergefront.runs.directory import RECEIVER, blind_name, item_records, with_costs
from mergefront.runs.history import (
    evaluations,
    record_completion,
    record_elapsed,
    record_member_failure,
    record_members,
    record_model_hash,
    record_picks,
    recorded_member_failures,
    recorded_model_hash,
)
from mergefront.runs.members import choose_members, choose_picks, run_belief
from mergefront.runs.study import finished, record_opening
from mergefront.runs.summary import write_front
from mergefront.search.loop import RunningSearch
from mergefront.search.stopping import answered_everything, would_be_members
from mergefront.tasks.splits import whole_prefix

logger = logging.getLogger(__name__)

MOST_COMPLETED: Final = 4
"""At most this many times `report.finalists` candidates are completed."""


@dataclass(frozen=True)
class Step:
    """Progress of the final stage: `done` of `total` models scored on `split`."""

    split: Split
    name: str
    done: int
    total: int


def finish(search: RunningSearch) -> Iterator[Step]:
    """Score members on validation items and picks on test items, then write front.json.

    What an earlier, killed attempt has scored is not asked again. A candidate that breaks the
    engine is recorded as failed, and members are chosen again without it.

    Raises:
        RunError: no candidate was evaluated, or none is left to be a member.
        EngineError: the engine is broken; a resume asks the same again.
    """
    setup = search.setup
    history = evaluations(setup.study, setup.run)
    if all(e.failure for e in history):
        raise no_scores(setup.run.path, history)
    members = None
    while members is None:
        with suppress(_MemberError):
            members = yield from _score_members_and_picks(search)
    record_members(setup.study, members)
    write_front(setup.run, setup.study)


class _MemberError(Exception):
    """A candidate was recorded as failed: members have to be chosen again."""


def _score_members_and_picks(search: RunningSearch) -> Generator[Step, None, list[int]]:
    """Complete, validate, pick, test and blind; return the members.

    Raises:
        _MemberError: a candidate broke the engine, which is recorded.
    """
    setup, receiver = search.setup, search.receiver_estimates
    yield from complete_members(search)
    by_number = {e.number: e for e in _successful(search)}
    belief = run_belief(list(by_number.values()), setup.config, receiver)
    answered_all = [e for e in _eligible(search) if answered_everything(e)]
    if not answered_all:
        *_, reason = recorded_member_failures(setup.study).values()
        raise RunError(
            f"{setup.run.path}: no candidate is left to be a member; the last failed on its "
            f"{reason}",
            hint="log.txt has every failure; raise the budget, or start a new run",
        )
    members = choose_members(answered_all, setup.config, belief)
    yield from _score_split(search, "validation", [by_number[n] for n in members])
    picks = choose_picks(members, setup.config, receiver, belief)
    record_picks(setup.study, picks)
    picked = [by_number[n] for n in sorted(set(picks.values()))]
    yield from _score_split(search, "test", picked)
    if setup.config.report.blind:
        yield from _score_without_images(search, picked)
    return members


def _successful(search: RunningSearch) -> list[Evaluation]:
    """Return the candidates that did not fail in the search, by number, as recorded."""
    return [e for e in evaluations(search.setup.study, search.setup.run) if not e.failure]


def _eligible(search: RunningSearch) -> list[Evaluation]:
    """Return the candidates that failed neither in the search nor after it."""
    failures = recorded_member_failures(search.setup.study)
    return [e for e in _successful(search) if e.number not in failures]


def _attempt(search: RunningSearch, model: str, what: str, task: Callable[[], object]) -> None:
    """Run a task of the receiver or a candidate in the engine; `what` says what it answers.

    Raises:
        _MemberError: two engines failed on the candidate, which is recorded.
        EngineError: the engine is broken, or it fails on the receiver itself.
    """
    try:
        search.attempt(f"{model}, {what}", task)
    except CandidateError as error:
        if model == RECEIVER:
            raise EngineError(
                f"two engines failed on the receiver's {what}: {error.message}", hint=error.hint
            ) from error
        reason = f"{what}: {' '.join(error.message.split())}"
        record_member_failure(search.setup.study, int(model), reason)
        logger.warning("candidate %s is no member: two engines failed on its %s", model, reason)
        raise _MemberError from error


def no_scores(path: Path, history: Sequence[Evaluation]) -> RunError:
    """Return the error of a run in which no candidate has a score."""
    if not history:
        return RunError(f"{path}: no candidate was evaluated", hint="raise the budget")
    return RunError(
        f"{path}: all {len(history)} candidates failed, the last with: {history[-1].failure}",
        hint="mend what the message names, or narrow the space's bounds; then start a new run "
        "under another name (log.txt has every failure)",
    )


def _models(search: RunningSearch, members: Sequence[Evaluation]) -> Iterator[tuple[str, Plan]]:
    """Yield name and plan of the receiver and of some candidates."""
    yield RECEIVER, search.setup.receiver_plan()
    for evaluation in members:
        yield str(evaluation.number), search.setup.plan(evaluation.point)


def _score_split(
    search: RunningSearch, split: Split, members: Sequence[Evaluation]
) -> Iterator[Step]:
    total = 1 + len(members)
    for place, (name, plan) in enumerate(_models(search, members)):
        yield Step(split, name, place, total)
        if _is_scored(search, split, name):
            continue
        if not search.setup.run.read_with_costs(name, split):
            _record_opening(search, split, name)
        task = partial(_answer_and_hash, search, split, name, plan)
        _attempt(search, name, f"{split} items", task)
        _record_elapsed(search)
    yield Step(split, "", total, total)


def _is_scored(search: RunningSearch, split: Split, name: str) -> bool:
    """Whether a model's answers are stored and, for validation, its parameters' hash."""
    hashed = split != "validation" or recorded_model_hash(search.setup.study, name) is not None
    return hashed and bool(search.setup.run.read_with_costs(name, split))


def _answer_and_hash(search: RunningSearch, split: Split, name: str, plan: Plan) -> None:
    """Ask a model the items of a split, and record what of it is not recorded yet."""
    if search.setup.run.read_with_costs(name, split):
        search.slot.engine().load(plan)  # ended between scoring and hashing
    else:
        search.ask(name, plan, split)
    if split == "validation":
        hashes = search.slot.engine().parameter_hashes()
        record_model_hash(search.setup.study, name, model_hash(hashes))


def _score_without_images(search: RunningSearch, members: Sequence[Evaluation]) -> Iterator[Step]:
    """The blind control: receiver and picks on validation items without their images."""
    items = blind_items(search.setup.items.items["validation"])
    if not items:
        return
    total = 1 + len(members)
    for place, (model, plan) in enumerate(_models(search, members)):
        name = blind_name(model)
        yield Step("validation", name, place, total)
        if not search.setup.run.read_with_costs(name):
            _record_opening(search, "validation", name)
            task = partial(search.ask, name, plan, "validation", items)
            _attempt(search, model, "validation items without images", task)
            _record_elapsed(search)
    yield Step("validation", "", total, total)


def _record_opening(search: RunningSearch, split: Split, name: str) -> None:
    study = search.setup.study
    record_opening(study, split, name, len(finished(study)))


def _record_elapsed(search: RunningSearch) -> None:
    record_elapsed(search.setup.study, search.setup.clock.elapsed())


def blind_items(by_objective: Mapping[str, Sequence[Item]]) -> dict[str, list[Item]]:
    """Objective -> its first items that have images, at most BLIND_ITEMS, without them.

    Objectives without an image are left out.
    """
    blind = {}
    for objective, items in by_objective.items():
        prefix = whole_prefix([item for item in items if item.images], BLIND_ITEMS)
        if prefix:
            blind[objective] = [replace(item, images=()) for item in prefix]
    return blind


def complete_members(search: RunningSearch) -> Iterator[Step]:
    """Complete the candidates that would be members, and ask anew who is.

    Ends when all that would be members have answered everything, or after `MOST_COMPLETED` times
    `report.finalists` candidates. Members are then chosen among those that have
    (`answered_everything`).
    """
    config = search.setup.config
    room = MOST_COMPLETED * config.report.finalists
    while room > 0:
        history = _successful(search)
        belief = run_belief(history, config, search.receiver_estimates)
        members = would_be_members(_eligible(search), config, belief)
        incomplete = [e for e in members if not answered_everything(e)][:room]
        if not incomplete:
            return
        room -= len(incomplete)
        for place, evaluation in enumerate(incomplete):
            yield Step("search", str(evaluation.number), place, len(incomplete))
            task = partial(complete, search, evaluation)
            _attempt(search, str(evaluation.number), "search items", task)
            _record_elapsed(search)


def complete(search: RunningSearch, evaluation: Evaluation) -> Evaluation:
    """Have a candidate that left the race answer the rest of the search items, and record it."""
    setup, race, name = search.setup, search.race, str(evaluation.number)
    objectives = list(setup.config.objectives)
    engine = search.slot.engine()
    seconds = evaluation.seconds + engine.load(setup.plan(evaluation.point))
    records = list(setup.run.read_stored(name, "search"))
    for rung in range(evaluation.raced.rungs, len(race.rungs)):
        answers, spent = answer_items(engine, race.rungs[rung])
        records += item_records(answers, "search", rung)
        seconds += spent
    records.sort(key=lambda record: objectives.index(record.objective))
    seconds += search.store(name, records)
    raced = replace(evaluation.raced, completed=True)
    estimates = race.estimate(with_costs(records, setup.config.costs))
    whole = replace(evaluation, objectives=estimates, seconds=seconds, raced=raced)
    record_completion(setup.study, whole, objectives)
    race.replace_evaluation(whole)
    return whole
