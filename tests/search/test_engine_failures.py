"""Engines that fail in the middle of a search: whose fault it is, and how the run goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from fixtures_cli import ZOO_RUN
from mergefront.config import RunConfig
from mergefront.engine import Engine, open_engine
from mergefront.errors import EngineError
from mergefront.merging.plan import Plan
from mergefront.records import Answer, Item, Seconds, Split
from mergefront.runs.directory import RECEIVER, RunDirectory
from mergefront.runs.front import read_front
from mergefront.runs.history import (
    evaluations,
    open_study,
    recorded_member_failures,
    recorded_picks,
)
from mergefront.search import engine_slot
from mergefront.search.finish import finish
from mergefront.search.loop import RunningSearch, start_search
from mergefront.search.setup import prepare_search
from mergefront.yaml_file import validate

pytestmark = pytest.mark.slow

CONFIG: dict[str, Any] = {
    **ZOO_RUN,
    "items": {"search": 16, "validation": 12, "test": 12},
    "budget": {"candidates": 8},
    "search": {"sampler": "random"},
    "report": {"finalists": 3},
    "engine": {"kind": "transformers", "dtype": "float32", "threads": 1},
    "tracking": {"enabled": False},
}


class FragileEngine:
    """The real engine, which dies of some recipes where they are asked some questions.

    `breaks` has pairs of a recipe's hash and a question's id; None stands for any. A dead engine
    answers nothing any more.
    """

    def __init__(self, engine: Engine, breaks: set[tuple[str | None, str | None]]) -> None:
        self.engine, self.breaks, self.recipe, self.dead = engine, breaks, "", False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def load(self, plan: Plan) -> Seconds:
        if self.dead:
            raise EngineError("the engine is dead")
        self.recipe = plan.recipe.hash()
        return self.engine.load(plan)

    def generate(self, items: Sequence[Item], *more: Any) -> list[Answer]:
        self.dead |= any(
            {(self.recipe, item.id), (self.recipe, None), (None, item.id), (None, None)}
            & self.breaks
            for item in items
        )
        if self.dead:
            raise EngineError("a kernel failed")
        return self.engine.generate(items, *more)

    def close(self) -> None:
        """The real engine is shared by all starts."""


class Machine:
    """Starts engines on one run, and counts them."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.starts, self.failing_starts = engine, 0, 0
        self.breaks: set[tuple[str | None, str | None]] = set()

    def start(self) -> Engine:
        self.starts += 1
        if self.failing_starts:
            self.failing_starts -= 1
            raise EngineError("no memory on the device")
        return cast("Engine", FragileEngine(self.engine, self.breaks))

    def open(self, runs: Path) -> RunningSearch:
        return start_search(prepare_search(validate(CONFIG, RunConfig, "x"), runs), self.start)

    def search(self, runs: Path) -> RunDirectory:
        """Search and finish, or go on with it."""
        with self.open(runs) as search, search.setup:
            for _ in search.candidates():
                pass
            for _ in finish(search):
                pass
        return search.setup.run


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, RunDirectory]]:
    """A real engine, and a run that nothing disturbed."""
    runs = tmp_path_factory.mktemp("undisturbed")
    prepared = prepare_search(validate(CONFIG, RunConfig, "x"), runs)
    prepared.close()
    engine = open_engine(prepared.config.engine, prepared.sources.folders)
    yield engine, Machine(engine).search(runs)
    engine.close()


@pytest.fixture
def machine(shared: tuple[Engine, RunDirectory], monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(engine_slot, "RESTART_SECONDS", (0.0, 0.0, 0.0))
    return Machine(shared[0])


def trajectory(run: RunDirectory) -> list[tuple[object, ...]]:
    return [(e.number, e.point, e.objectives) for e in evaluations(open_study(run), run)]


@pytest.mark.parametrize("stage", ["validation", "test", "blind"])
def test_a_finalist_that_breaks_engines_is_replaced_by_the_next(
    shared: tuple[Engine, RunDirectory], machine: Machine, tmp_path: Path, stage: str
) -> None:
    undisturbed = shared[1]
    number = recorded_picks(open_study(undisturbed))["knee"]
    split: Split = "test" if stage == "test" else "validation"
    with machine.open(tmp_path) as search, search.setup:
        for _ in search.candidates():
            pass
        point = next(e.point for e in evaluations(search.setup.study, search.setup.run)
                     if e.number == number)  # fmt: skip
        recipe = search.setup.recipe(point).hash()
    items = search.setup.items.items[split]
    question = items["reasoning" if stage != "blind" else "perception"][0]
    if stage == "blind":  # only the items without images break it
        engine_generate = FragileEngine.generate

        def generate(self: FragileEngine, asked: Sequence[Item], *more: Any) -> list[Answer]:
            blind = [item for item in asked if item.id == question.id and not item.images]
            self.breaks = {(recipe, question.id)} if blind else set()
            return engine_generate(self, asked, *more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FragileEngine, "generate", generate)
            run = machine.search(tmp_path)
    else:
        machine.breaks.add((recipe, question.id))
        run = machine.search(tmp_path)
    what = "validation items without images" if stage == "blind" else f"{split} items"
    reasons = {number: f"{what}: a kernel failed"}
    assert recorded_member_failures(open_study(run)) == reasons
    front, expected = read_front(run), read_front(undisturbed)
    assert number not in {member.number for member in front.members}
    assert len(front.members) == len(expected.members)
    assert number not in recorded_picks(open_study(run)).values()
    message = f"Candidate {number} is left out of the members: two engines failed on its {what}"
    assert f"{message}: a kernel failed" in front.messages
    assert trajectory(run) == trajectory(undisturbed)
    # A resume tries it no more, and starts no second engine.
    starts = machine.starts
    run.front.unlink()
    assert read_front(machine.search(tmp_path)) == front
    assert machine.starts == starts + 1


def test_a_candidate_that_breaks_two_engines_fails_and_the_search_goes_on(
    machine: Machine, tmp_path: Path
) -> None:
    with machine.open(tmp_path) as search, search.setup:
        candidates = search.candidates()
        for _ in range(3):
            next(candidates)
        waiting = search.setup.study.get_trials(deepcopy=False)[3]
        point = tuple(waiting.system_attrs["fixed_params"].values())
        machine.breaks.add((search.setup.recipe(point).hash(), None))
        found = list(candidates)
    assert [(e.number, e.failure) for e in found if e.failure] == [(3, "a kernel failed")]
    assert machine.starts == 3  # the second try, and the receiver's control with all that follows
    assert len(found) == 5


def test_failures_of_the_engine_are_booked_on_no_candidate(
    shared: tuple[Engine, RunDirectory], machine: Machine, tmp_path: Path
) -> None:
    """The device fails in the search, and once more in validation: nothing is lost."""
    words = r"3 engines in a row failed, the last with: a kernel failed"
    with machine.open(tmp_path) as search, search.setup:
        candidates = search.candidates()
        for _ in range(3):
            next(candidates)
        machine.breaks.add((None, None))
        with pytest.raises(EngineError, match=words) as error:
            next(candidates)
        assert "the same command again: it goes on from here" in error.value.hint
        assert len(evaluations(search.setup.study, search.setup.run)) == 3
    machine.breaks.clear()
    with machine.open(tmp_path) as search, search.setup:
        for _ in search.candidates():
            pass
        steps = finish(search)
        while next(steps).name in ("", RECEIVER):
            pass
        machine.breaks.add((None, None))
        with pytest.raises(EngineError, match=words):
            list(steps)
    machine.breaks.clear()
    run = machine.search(tmp_path)
    assert recorded_member_failures(open_study(run)) == {}
    assert trajectory(run) == trajectory(shared[1])
    ours, theirs = (json.loads(r.front.read_text()) for r in (run, shared[1]))
    for key in ("members", "hypervolume", "belief", "messages", "failed"):
        assert ours[key] == theirs[key]


def test_an_engine_that_does_not_start_again_ends_the_run(machine: Machine, tmp_path: Path) -> None:
    machine.failing_starts = 1
    with pytest.raises(EngineError, match=r"^no memory on the device"):
        machine.open(tmp_path)  # the first start is not tried twice: somebody waits for it
    shutil.rmtree(tmp_path / "x")
    with machine.open(tmp_path) as search, search.setup:
        candidates = search.candidates()
        next(candidates)
        machine.breaks.add((None, None))
        machine.failing_starts = 3
        with pytest.raises(EngineError, match=r"3 engines .* the last with: no memory on"):
            next(candidates)
        assert len(evaluations(search.setup.study, search.setup.run)) == 1
    machine.breaks.clear()
    machine.failing_starts = 0
    machine.starts = 0
    assert len(evaluations(open_study(machine.search(tmp_path)), search.setup.run)) == 8
