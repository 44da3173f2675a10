"""The main loop of a run, readable in one sitting: assemble, propose, build, ask, mark, record.

Reading order: `Search.candidates` (the loop), `Search.evaluate` (one candidate), `assemble`
(everything that can go wrong goes wrong here, before an engine starts). What happens after the
last candidate (validation, test, the reported front) is `select`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import optuna

from mergefront import ledger
from mergefront.config import BLIND_ITEMS, RunConfig
from mergefront.engine import Engine, open_engine
from mergefront.errors import EngineError
from mergefront.merging.plan import UNTOUCHED, plan_of
from mergefront.merging.sources import Sources
from mergefront.propose import ReplaySampler, make_sampler, pending
from mergefront.recipe import Models, Recipe
from mergefront.recorded import ELAPSED, RESULT, estimates_of, reference_point
from mergefront.records import SPLITS, Estimate, Evaluation, Item, Seconds, Split
from mergefront.rundir import RECEIVER, ItemRecord, RunDirectory, item_records
from mergefront.scoring import Beside
from mergefront.space import Space
from mergefront.tasks import ItemSet

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Candidates that may fail in a row before the engine is taken for broken."""


@dataclass
class Clock:
    """Wall seconds that a run has used, over all its sessions, against its budget of hours."""

    hours: float | None
    before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        return self.before + time.monotonic() - self.started

    def left(self) -> float:
        """Seconds left; infinite without a budget in hours."""
        return float("inf") if self.hours is None else self.hours * 3600 - self.elapsed()


@dataclass
class Search:
    """A run with everything open that it needs."""

    run: RunDirectory
    models: Models
    space: Space
    items: ItemSet
    sources: Sources
    study: optuna.Study
    clock: Clock
    release: Callable[[], None] = lambda: None
    engine: Engine | None = None

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
            spec = self.space.spec
            self.engine = open_engine(
                self.config.engine, self.sources.refs, spec.method, spec.opening
            )
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
        return recipe_of(self.space, self.models, point)

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
        sampler = make_sampler(
            self.config.search.sampler,
            dimension=self.space.dimension,
            seed=self.config.search.seed,
            start=self.space.start_point(),
            n_objectives=len(self.config.objectives),
            reference=list(reference_point(self.config, self.receiver("search")).values()),
        )
        self.study.sampler = sampler
        failures = 0
        began = time.perf_counter()
        for trial in self._trials(sampler, stop):
            point = self.point(trial)
            proposed = time.perf_counter() - began
            origin = str(trial.user_attrs.get("origin", self.config.search.sampler))
            try:
                evaluation = self._evaluate_twice(trial.number, point, origin)
                seconds = replace(evaluation.seconds, propose=proposed)
                evaluation = replace(evaluation, seconds=seconds)
                failures = 0
            except EngineError as error:
                failures += 1
                if failures >= MAX_FAILURES or stop():
                    raise  # the trial stays in flight: a resume asks it again
                logger.warning("candidate %d failed: %s", trial.number, error.message)
                evaluation = Evaluation(trial.number, point, origin, {}, failure=error.message)
            told = self._tell(trial, evaluation)
            yield told
            began = time.perf_counter()

    def _evaluate_twice(self, number: int, point: Sequence[float], origin: str) -> Evaluation:
        """Evaluate; if the engine fails, once more in a fresh one."""
        try:
            return self.evaluate(number, point, origin)
        except EngineError as error:
            logger.warning("candidate %d: %s; trying a fresh engine", number, error.message)
            self.close_engine()
            return self.evaluate(number, point, origin)

    def _trials(self, sampler: ReplaySampler, stop: Callable[[], bool]) -> Iterator[optuna.Trial]:
        for trial in pending(self.study):
            if stop():
                return
            yield trial
        while len(self.study.get_trials(deepcopy=False)) < self._trial_limit() and not stop():
            if self.clock.left() < self._reserve():
                logger.warning("the time budget leaves no room for another candidate")
                return
            yield sampler.ask(self.study, [knob.name for knob in self.space.knobs])

    def _trial_limit(self) -> int:
        """WAITING warm starts count as trials already, so they are added back while they wait."""
        states = [t.state.name for t in self.study.get_trials(deepcopy=False)]
        return self.config.budget.candidates + states.count("WAITING")

    def _reserve(self) -> float:
        """Seconds to keep for one more candidate, validation, test and export."""
        done = [
            t
            for t in ledger.finished(self.study)
            if RESULT in t.user_attrs and not t.user_attrs[RESULT]["failure"]
        ]
        if not done or self.config.budget.hours is None:
            return 0.0
        per_candidate = max(sum(t.user_attrs[RESULT]["seconds"].values()) for t in done[-5:])
        per_item = per_candidate / max(1, len(self.items.flat("search")))
        validated = (self.config.report.finalists + 1) * len(self.items.flat("validation"))
        pickable = 3 + len(self.config.objectives)  # knee, guarded, the receiver
        tested = pickable * len(self.items.flat("test"))
        unseen = min(len(self.items.flat("validation")), BLIND_ITEMS * len(self.config.objectives))
        blind = pickable * unseen if self.config.report.blind else 0
        export = 120.0 if self.config.export else 10.0
        return float(1.2 * (per_candidate + per_item * (validated + tested + blind)) + export)

    def point(self, trial: optuna.Trial) -> tuple[float, ...]:
        """The trial's point, asking the sampler if it was killed before it had one."""
        return tuple(trial.suggest_float(knob.name, 0.0, 1.0) for knob in self.space.knobs)

    def evaluate(self, number: int, point: Sequence[float], origin: str) -> Evaluation:
        """Build one candidate in the engine, ask the search items, mark and store the answers."""
        recipe = self.recipe(point)
        plan = plan_of(recipe, self.sources.groups)
        if all(choice == UNTOUCHED for choice in plan.values()):
            estimates = self.receiver("search")
            self.run.add_items(str(number), self.run.read_items(RECEIVER, "search"))
            return Evaluation(number, tuple(point), origin, estimates)
        estimates, seconds = self.ask(str(number), recipe, "search")
        return Evaluation(number, tuple(point), origin, estimates, seconds)

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
        engine = self.open_engine()
        built = engine.load(recipe)
        start = time.perf_counter()
        flat = [item for items in asked.values() for item in items]
        marking = Beside(flat)
        try:
            answers = engine.generate(flat, marking.take)
            generated = time.perf_counter()
        finally:
            marking.stop()
        said, marks = iter(answers), iter(marking.scores(answers))
        records: list[ItemRecord] = []
        for objective, items in asked.items():
            mine = [next(said) for _ in items], [next(marks) for _ in items]
            records += item_records(split, objective, items, *mine)
        scored = time.perf_counter()
        self.run.add_items(name, records)
        estimates = estimates_of(records)
        seconds = replace(
            built,
            generate=generated - start,
            score=scored - generated,
            record=time.perf_counter() - scored,
        )
        return estimates, seconds

    def _tell(self, trial: optuna.Trial, evaluation: Evaluation) -> Evaluation:
        """Record a finished candidate; what is told is what a resume will find.

        One attribute holds all but the values, since every write to the journal waits for the disk.
        """
        objectives = evaluation.objectives
        knobs = zip(self.space.knobs, evaluation.point, strict=True)
        result = {
            "origin": evaluation.origin,
            ELAPSED: round(self.clock.elapsed(), 3),
            "knobs": {knob.name: knob.value(u) for knob, u in knobs},
            "se": {o: objectives[o].se for o in self.config.objectives if o in objectives},
            "n": {name: e.n for name, e in objectives.items()},
            "seconds": dict(vars(evaluation.seconds)),
            "failure": evaluation.failure,
        }
        trial.set_user_attr(RESULT, result)
        scores = {name: (round(e.mean, 4), round(e.se, 4)) for name, e in objectives.items()}
        logger.info("candidate %d, %s: %s", trial.number, evaluation.origin, scores or result)
        if evaluation.failure:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(trial, [objectives[name].mean for name in self.config.objectives])
        return evaluation


def recipe_of(space: Space, models: Models, point: Sequence[float]) -> Recipe:
    """The recipe of a point in [0, 1]^D."""
    return Recipe(space.spec.method, models, space.table(point), space.parameters(point))
