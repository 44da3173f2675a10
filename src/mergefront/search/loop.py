"""The main loop of a run, readable in one sitting: assemble, propose, build, ask, mark, record.

Reading order: `Search.candidates` (the loop), `Search.evaluate` (one candidate), `assemble`
(everything that can go wrong goes wrong here, before an engine starts). What happens after the
last candidate (validation, test, the reported front) is `select`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import optuna

from mergefront.config import RunConfig
from mergefront.engine import Engine, open_engine
from mergefront.engine.asking import answer
from mergefront.errors import CandidateError, EngineError
from mergefront.merging.plan import plan_of
from mergefront.merging.recipe import Recipe
from mergefront.models.locate import ModelNames
from mergefront.models.sources import Sources
from mergefront.records import RESULT, SPLITS, Estimate, Evaluation, Item, Raced, Seconds, Split
from mergefront.runs.directory import (
    RECEIVER,
    ItemRecord,
    RunDirectory,
    item_records,
    with_costs,
)
from mergefront.runs.history import ELAPSED, estimates_of, evaluations, numbers_of, reference_point
from mergefront.sampling import ReplaySampler, pending
from mergefront.search.race import Race
from mergefront.search.sampler import sampler_name, sampler_of
from mergefront.search.stopping import Clock, Patience, reserve
from mergefront.space.space import Space
from mergefront.tasks import ItemSet

logger = logging.getLogger(__name__)

BATCH = "batch"
"""Attribute of the study: the engine's batch, on which the race's rungs depend."""

MAX_FAILURES = 3
"""Candidates that may fail in a row before the engine is taken for broken."""


@dataclass
class Search:
    """A run with everything open that it needs."""

    run: RunDirectory
    models: ModelNames
    space: Space
    items: ItemSet
    sources: Sources
    study: optuna.Study
    clock: Clock
    release: Callable[[], None] = lambda: None
    engine: Engine | None = None
    _race: Race | None = None
    _sampler: ReplaySampler | None = None

    @property
    def config(self) -> RunConfig:
        return self.run.config

    def open_engine(self) -> Engine:
        """Start the engine, or return the one that runs.

        Raises:
            EngineError: it does not start, or a question of any split cannot be asked: better
                now than after a night.
        """
        if self.engine is None:
            self.engine = open_engine(self.config.engine, self.sources.folders)
            self.engine.check([item for split in SPLITS for item in self.items.flat(split)])
        return self.engine

    def close_engine(self) -> None:
        """Close the engine; it is opened again when it is needed."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None

    def close(self) -> None:
        """Close the engine and let other processes have the run."""
        self.close_engine()
        self.release()
        self.release = lambda: None

    def recipe(self, point: Sequence[float]) -> Recipe:
        """The recipe of a point in [0, 1]^D."""
        return self.space.recipe(self.models, point)

    def receiver_recipe(self) -> Recipe:
        """The receiver itself: every coefficient at identity."""
        spec = self.space.spec
        return Recipe(spec.method, self.models, {}, spec.opening)

    def candidates(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Evaluation]:
        """Evaluate candidates until the budget is spent or `stop()`; yields each when recorded.

        Trials in flight when a run was killed come first, with their number and point; then warm
        starts, then the sampler's proposals.

        Raises:
            EngineError: the engine failed MAX_FAILURES times in a row.
        """
        failures = 0
        self.race()
        began = time.perf_counter()
        for trial in self._trials(stop):
            point = self.point(trial)
            proposed = time.perf_counter() - began
            origin = str(trial.user_attrs.get("origin", self.sampler_name()))
            self.sampler().ahead(self.study)
            try:
                evaluation = self._evaluate_twice(trial.number, point, origin)
                seconds = replace(evaluation.seconds, propose=proposed)
                evaluation = replace(evaluation, seconds=seconds)
                failures = 0
            except (CandidateError, EngineError) as error:
                failures += isinstance(error, EngineError)
                if isinstance(error, EngineError) and (failures >= MAX_FAILURES or stop()):
                    raise  # the trial stays in flight: a resume asks it again
                logger.warning("candidate %d failed: %s", trial.number, error.message)
                evaluation = Evaluation(trial.number, point, origin, {}, failure=error.message)
            told = self._tell(trial, evaluation)
            self.race().learn(told, self.run.read_items(str(told.number), "search"))
            yield told
            began = time.perf_counter()

    def sampler_name(self) -> str:
        """The sampler of this run; `auto` is decided once, by what the run was started with."""
        return sampler_name(self.config, self.study, self.space)

    def sampler(self) -> ReplaySampler:
        """The sampler of the run, which also becomes the study's."""
        if self._sampler is None:
            reference = reference_point(self.config, self.receiver("search"))
            self._sampler = sampler_of(self.sampler_name(), self.config, self.space, reference)
            self.study.sampler = self._sampler
        return self._sampler

    def _evaluate_twice(self, number: int, point: Sequence[float], origin: str) -> Evaluation:
        """Evaluate; if the engine fails (and not the candidate), once more in a fresh one."""
        try:
            return self.evaluate(number, point, origin)
        except EngineError as error:
            logger.warning("candidate %d: %s; trying a fresh engine", number, error.message)
            self.close_engine()
            return self.evaluate(number, point, origin)

    def _trials(self, stop: Callable[[], bool]) -> Iterator[optuna.Trial]:
        self.sampler()  # trials in flight may ask it for what they lack
        for trial in pending(self.study):
            if stop():
                return
            yield trial
        reference = reference_point(self.config, self.receiver("search"))
        least, seed = self.config.budget.min_gain, self.config.search.seed
        patience = Patience(least, list(reference.values()), seed)
        while len(self.study.get_trials(deepcopy=False)) < self._trial_limit() and not stop():
            if self.clock.left() < reserve(self.config, self.items, self.race().found):
                logger.warning("the time budget leaves no room for another candidate")
                return
            if patience.ended(self.race().belief, self.race().found):
                return
            yield self.sampler().ask(self.study, [knob.name for knob in self.space.knobs])

    def _trial_limit(self) -> int:
        """WAITING warm starts count as trials already, so they are added back while they wait."""
        states = [t.state.name for t in self.study.get_trials(deepcopy=False)]
        return self.config.budget.candidates + states.count("WAITING")

    def point(self, trial: optuna.Trial) -> tuple[float, ...]:
        """The trial's point, asking the sampler if it was killed before it had one."""
        return tuple(trial.suggest_float(knob.name, 0.0, 1.0) for knob in self.space.knobs)

    def evaluate(self, number: int, point: Sequence[float], origin: str) -> Evaluation:
        """Build one candidate in the engine, ask the search items, mark and store the answers.

        Rung by rung: a candidate without a chance to be on the front leaves early, unless it is one
        of those that answer every item to keep that rule honest.
        """
        plan = plan_of(self.recipe(point), self.sources)
        if plan.untouched:
            estimates = self.receiver("search")
            self.run.add_items(str(number), self.run.read_items(RECEIVER, "search"))
            return Evaluation(number, tuple(point), origin, estimates)
        race = self.race()
        to_the_end = origin != self.sampler_name() or race.answers_all(number)
        seconds = self.open_engine().load(plan)
        records: list[ItemRecord] = []
        verdict = ""
        for rung, asked in enumerate(race.rungs):
            answered, spent = answer(self.open_engine(), asked)
            records += item_records(answered, "search", rung)
            seconds += spent
            estimates = race.estimate(with_costs(records, self.config.costs))
            if rung < len(race.rungs) - 1 and not verdict:
                verdict = race.verdict(point, estimates)
            if verdict and not to_the_end:
                break
        records.sort(key=lambda record: list(self.config.objectives).index(record.objective))
        seconds += self.keep(str(number), records)
        left, spared = ("", verdict) if to_the_end else (verdict, "")
        raced = Raced(rung + 1, left, spared)
        return Evaluation(number, tuple(point), origin, estimates, seconds, raced=raced)

    def race(self) -> Race:
        """The race that this run's candidates are in, as far as it has got."""
        if self._race is None:
            reference = reference_point(self.config, self.receiver("search"))
            settings, seed = self.config.search.racing, self.config.search.seed
            if BATCH not in self.study.user_attrs:  # a resume elsewhere keeps the rungs
                self.study.set_user_attr(BATCH, self.open_engine().batch)
            asked, batch = self.items.items["search"], int(self.study.user_attrs[BATCH])
            self._race = Race(settings, asked, reference, seed, batch, self.config.costs)
            for evaluation in evaluations(self.study, self.run):
                self._race.learn(evaluation, self.run.read_items(str(evaluation.number), "search"))
        return self._race

    def receiver(self, split: Split) -> dict[str, Estimate]:
        """The receiver's own estimates, asked once a run and split."""
        if self.run.read_items(RECEIVER, split):
            return estimates_of(self.run.read_items(RECEIVER, split))
        return self.ask(RECEIVER, self.receiver_recipe(), split)[0]

    def ask(
        self,
        name: str,
        recipe: Recipe,
        split: Split,
        by_objective: Mapping[str, Sequence[Item]] | None = None,
    ) -> tuple[dict[str, Estimate], Seconds]:
        """Load `recipe`, answer a split's items, mark them, store them under `name`.

        `by_objective` stands for the split's own items where they are asked in another form.
        """
        asked = self.items.items[split] if by_objective is None else by_objective
        built = self.load(recipe)
        answered, spent = answer(self.open_engine(), asked)
        kept = self.keep(name, item_records(answered, split))
        return estimates_of(self.run.read_items(name, split)), built + spent + kept

    def load(self, recipe: Recipe) -> Seconds:
        """Plan a recipe and build it in the engine."""
        return self.open_engine().load(plan_of(recipe, self.sources))

    def keep(self, name: str, records: Sequence[ItemRecord]) -> Seconds:
        """Store marked answers under `name`."""
        start = time.perf_counter()
        self.run.add_items(name, records)
        return Seconds(record=time.perf_counter() - start)

    def _tell(self, trial: optuna.Trial, evaluation: Evaluation) -> Evaluation:
        """Record a finished candidate; what is told is what a resume will find.

        One attribute holds all but the values, since every write to the journal waits for the disk.
        """
        objectives = evaluation.objectives
        result = {
            "origin": evaluation.origin,
            ELAPSED: round(self.clock.elapsed(), 3),
            "knobs": self.space.knob_values(evaluation.point),
            "failure": evaluation.failure,
            **numbers_of(evaluation, list(self.config.objectives)),
        }
        trial.set_user_attr(RESULT, result)
        scores = {name: (round(e.mean, 4), round(e.se, 4)) for name, e in objectives.items()}
        logger.info("candidate %d, %s: %s", trial.number, evaluation.origin, scores or result)
        if evaluation.failure:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(trial, [objectives[name].mean for name in self.config.objectives])
        return evaluation
