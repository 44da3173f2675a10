"""The main loop of a run, readable in one sitting: propose, build, ask, mark, record.

`start_search` makes a `RunningSearch` of what `setup.prepare_search` has checked; no field of it is
filled in later. Not here: what happens after the last candidate (`finish`).

Reading order: `RunningSearch.candidates` (the loop), `RunningSearch.evaluate` (one candidate),
`start_search`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import optuna

from mergefront.engine import Engine, open_engine
from mergefront.engine.answering import answer_items
from mergefront.errors import CandidateError, EngineError
from mergefront.merging.plan import Plan
from mergefront.records import (
    RESULT_ATTRIBUTE,
    SPLITS,
    Estimate,
    Evaluation,
    Item,
    Raced,
    Seconds,
    Split,
)
from mergefront.runs.directory import RECEIVER, ItemRecord, item_records, with_costs
from mergefront.runs.history import CandidateRecord, estimates_of, evaluations, reference_point
from mergefront.sampling import ReplaySampler, pending
from mergefront.search.engine_slot import EngineSlot, Result
from mergefront.search.race import Race
from mergefront.search.sampler import sampler_name, sampler_of
from mergefront.search.setup import PreparedSearch
from mergefront.search.stopping import Patience, reserve

logger = logging.getLogger(__name__)

BATCH = "batch"
"""Attribute of the study: the engine's batch, on which the race's rungs depend."""


@dataclass(frozen=True)
class RunningSearch:
    """A search with its engine, sampler and race; a context manager that closes the engine.

    `receiver_records` are the receiver's answers to the search items, costs included.
    """

    setup: PreparedSearch
    slot: EngineSlot
    receiver_records: Sequence[ItemRecord]
    receiver_estimates: Mapping[str, Estimate]
    reference: Mapping[str, float]
    race: Race
    sampler: ReplaySampler
    sampler_name: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.slot.drop()

    def candidates(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Evaluation]:
        """Evaluate candidates until the budget is spent or `stop()`; yields each when recorded.

        Trials in flight when a run was killed come first, with their number and point; then warm
        starts, then the sampler's proposals.

        Raises:
            EngineError: the engine is broken (`EngineSlot.attempt`); the trial stays in flight, so
                that a resume asks it again.
        """
        began = time.perf_counter()
        for trial in self._trials(stop):
            point = self.point(trial)
            proposed = time.perf_counter() - began
            origin = str(trial.user_attrs.get("origin", self.sampler_name))
            self.sampler.compute_next_ahead(self.setup.study)
            records: Sequence[ItemRecord] = ()
            try:
                task = partial(self.evaluate, trial.number, point, origin)
                evaluation, records = self.attempt(f"candidate {trial.number}", task)
                seconds = replace(evaluation.seconds, propose=proposed)
                evaluation = replace(evaluation, seconds=seconds)
            except CandidateError as error:
                if isinstance(error.__cause__, EngineError) and stop():
                    raise error.__cause__ from None  # Ctrl-C may have ended the engine
                logger.warning("candidate %d failed: %s", trial.number, error.message)
                evaluation = Evaluation(trial.number, point, origin, {}, failure=error.message)
            self._tell(trial, evaluation)
            self.race.learn(evaluation, records)
            yield evaluation
            began = time.perf_counter()

    def _trials(self, stop: Callable[[], bool]) -> Iterator[optuna.Trial]:
        study, config = self.setup.study, self.setup.config
        for trial in pending(study):
            if stop():
                return
            yield trial
        reference_M = [self.reference[objective] for objective in config.objectives]
        patience = Patience(config.budget.min_gain, reference_M, config.search.seed)
        names = [knob.name for knob in self.setup.space.knobs]
        while len(study.get_trials(deepcopy=False)) < self._trial_limit() and not stop():
            kept = reserve(config, self.setup.items, self.race, self.slot.start_seconds)
            if self.setup.clock.left() < kept:
                logger.warning(
                    "the time budget leaves no room for another candidate: %.0f s are left, and "
                    "what comes after the search needs about as much",
                    self.setup.clock.left(),
                )
                return
            if patience.ended(self.race.belief, self.race.evaluations):
                return
            yield self.sampler.ask(study, names)

    def _trial_limit(self) -> int:
        """Most trials allowed; queued warm starts are added, since Optuna counts them."""
        states = [t.state.name for t in self.setup.study.get_trials(deepcopy=False)]
        return self.setup.config.budget.candidates + states.count("WAITING")

    def point(self, trial: optuna.Trial) -> tuple[float, ...]:
        """Return the trial's point; the sampler is asked if a kill came before it had one."""
        return tuple(trial.suggest_float(knob.name, 0.0, 1.0) for knob in self.setup.space.knobs)

    def attempt(self, name: str, task: Callable[[], Result]) -> Result:
        """Run a task of the model `name` in the engine, and judge its failures: see `EngineSlot`.

        The control is the receiver with the first rung, which fills the engine's batch.
        """

        def control() -> None:
            engine = self.slot.engine()
            engine.load(self.setup.receiver_plan())
            answer_items(engine, self.race.rungs[0])

        return self.slot.attempt(name, task, control)

    def evaluate(
        self, number: int, point: Sequence[float], origin: str
    ) -> tuple[Evaluation, Sequence[ItemRecord]]:
        """Build one candidate in the engine, ask the search items, mark and store the answers.

        Rung by rung: a candidate that is behind, broken or known well enough leaves early. Some
        candidates answer every item, to measure the errors of that rule.

        Returns:
            What was scored, and the records of the answers, costs included.
        """
        plan = self.setup.plan(point)
        if plan.untouched:
            self.setup.run.add_items(str(number), self.receiver_records)
            evaluation = Evaluation(number, tuple(point), origin, self.receiver_estimates)
            return evaluation, self.receiver_records
        race, costs = self.race, self.setup.config.costs
        objectives = list(self.setup.config.objectives)
        answers_everything = origin != self.sampler_name or race.answers_all(number)
        engine = self.slot.engine()
        seconds = engine.load(plan)
        records: list[ItemRecord] = []
        verdict = ""
        for rung, items in enumerate(race.rungs):
            answers, spent = answer_items(engine, items)
            records += item_records(answers, "search", rung)
            seconds += spent
            estimates = race.estimate(with_costs(records, costs))
            if rung < len(race.rungs) - 1 and not verdict:
                verdict = race.verdict(point, estimates)
            if verdict and not answers_everything:
                break
        records.sort(key=lambda record: objectives.index(record.objective))
        seconds += self.store(str(number), records)
        reason, spared = ("", verdict) if answers_everything else (verdict, "")
        raced = Raced(rung + 1, reason, spared)
        evaluation = Evaluation(number, tuple(point), origin, estimates, seconds, raced=raced)
        return evaluation, with_costs(records, costs)

    def ask(
        self,
        name: str,
        plan: Plan,
        split: Split,
        by_objective: Mapping[str, Sequence[Item]] | None = None,
    ) -> None:
        """Load a plan, answer a split's items, mark them, store them under `name`.

        `by_objective` stands for the split's own items where they are asked in another form.
        """
        items = self.setup.items.items[split] if by_objective is None else by_objective
        self.store(name, _answer_and_mark(self.slot.engine(), plan, split, items))

    def store(self, name: str, records: Sequence[ItemRecord]) -> Seconds:
        """Store marked answers under `name`."""
        start = time.perf_counter()
        self.setup.run.add_items(name, records)
        return Seconds(record=time.perf_counter() - start)

    def _tell(self, trial: optuna.Trial, evaluation: Evaluation) -> None:
        """Record a finished candidate; a resume reads only what was told.

        One attribute holds all but the values, since every write to the journal waits for the disk.
        """
        objectives, setup = evaluation.objectives, self.setup
        knobs = setup.space.knob_values(evaluation.point)
        names, elapsed = list(setup.config.objectives), setup.clock.elapsed()
        result = CandidateRecord.of(evaluation, names, knobs, elapsed).to_dict()
        trial.set_user_attr(RESULT_ATTRIBUTE, result)
        scores = {name: (round(e.mean, 4), round(e.se, 4)) for name, e in objectives.items()}
        logger.info("candidate %d, %s: %s", trial.number, evaluation.origin, scores or result)
        if evaluation.failure:
            setup.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            setup.study.tell(trial, [objectives[name].mean for name in setup.config.objectives])


def start_search(
    setup: PreparedSearch, start_engine: Callable[[], Engine] | None = None
) -> RunningSearch:
    """Start the engine, ask the receiver the search items unless that was done, resume the race.

    `start_engine` stands for the run's own engine; it has to check the items itself.

    Raises:
        EngineError: the engine does not start, or a question of any split cannot be asked: better
            now than after a night.
    """
    config, run, study = setup.config, setup.run, setup.study
    slot = EngineSlot(start_engine or partial(_checked_engine, setup))
    try:
        receiver_records = run.read_with_costs(RECEIVER, "search")
        if not receiver_records:
            items = setup.items.items["search"]
            records = _answer_and_mark(slot.engine(), setup.receiver_plan(), "search", items)
            run.add_items(RECEIVER, records)
            receiver_records = with_costs(records, config.costs)
        receiver = estimates_of(receiver_records)
        reference = reference_point(config, receiver)
        if BATCH not in study.user_attrs:  # a resume elsewhere keeps the rungs
            study.set_user_attr(BATCH, slot.engine().batch)
        race = Race(
            config.search.racing,
            setup.items.items["search"],
            reference,
            config.search.seed,
            int(study.user_attrs[BATCH]),
            config.costs,
        )
        race.learn_all(
            (evaluation, run.read_with_costs(str(evaluation.number), "search"))
            for evaluation in evaluations(study, run)
        )
        name = sampler_name(config, study, setup.space)
        study.sampler = sampler = sampler_of(name, config, setup.space, reference)
    except BaseException:
        slot.drop()
        raise
    return RunningSearch(setup, slot, receiver_records, receiver, reference, race, sampler, name)


def _checked_engine(setup: PreparedSearch) -> Engine:
    """Start the run's engine and check that every item of every split can be asked."""
    engine = open_engine(setup.config.engine, setup.sources.folders)
    try:
        engine.check([item for split in SPLITS for item in setup.items.flat(split)])
    except EngineError:
        engine.close()
        raise
    return engine


def _answer_and_mark(
    engine: Engine, plan: Plan, split: Split, items: Mapping[str, Sequence[Item]]
) -> list[ItemRecord]:
    """Load a plan, have its model answer items, and mark the answers."""
    engine.load(plan)
    answers, _ = answer_items(engine, items)
    return item_records(answers, split)
