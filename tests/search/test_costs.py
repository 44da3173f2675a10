"""Answer length as an objective: scored on the answers to others, from the sampler to the pick."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest

from fixtures_cli import ZOO_RUN
from fixtures_runs import simulated_run
from mergefront import stats
from mergefront.cli.display import print_front
from mergefront.config import RacingConfig, RunConfig, TokenCost, with_absolute_paths
from mergefront.engine import Engine, open_engine
from mergefront.errors import ConfigError, RunError
from mergefront.jobs.card import model_card
from mergefront.jobs.plan import make_plan
from mergefront.merging.recipe import Recipe
from mergefront.models.locate import ModelNames
from mergefront.records import Answer, Estimate, Evaluation, Item, Raced, Seconds
from mergefront.runs.directory import ItemRecord, RunDirectory, blind_name, with_costs
from mergefront.runs.front import Front, read_front
from mergefront.runs.gains import BEATS, TRADES, UNRESOLVED, WORSE, Gain, paired_gains, verdict
from mergefront.runs.history import (
    COLLAPSED,
    estimates_of,
    evaluations,
    open_study,
    reference_point,
)
from mergefront.runs.members import choose_members, choose_picks, run_belief
from mergefront.runs.plots import front_figure
from mergefront.runs.report import write_report
from mergefront.runs.status import status_of
from mergefront.runs.summary import summarise, write_front
from mergefront.sampling import Problem, noisy_gp
from mergefront.search.finish import finish
from mergefront.search.loop import start_search
from mergefront.search.race import Race, order_of_cost_items
from mergefront.search.sampler import sampler_of
from mergefront.search.setup import prepare_search
from mergefront.search.stopping import reserve
from mergefront.stats.partial import Difficulty, partial_estimate
from mergefront.tasks import item_set
from mergefront.yaml_file import dump_yaml, load_yaml, validate

pytestmark = pytest.mark.slow

BOTH = TokenCost(tokens_of=("reasoning", "perception"), limit=50)
THREE: dict[str, Any] = {
    "reasoning": ["digits_reasoning"],
    "brevity": {"tokens_of": ["reasoning"], "limit": 80},
    "perception": ["digits_perception"],
}


def config(**changes: Any) -> RunConfig:
    return validate({**ZOO_RUN, "objectives": THREE, **changes}, RunConfig, "run.yaml")


@pytest.mark.parametrize(
    ("tokens", "limit", "score"),
    [(0, 512, 1.0), (92, 512, 420 / 512), (512, 512, 0.0), (2048, 512, 0.0), (1, 1, 0.0)],
)
def test_an_answer_scores_what_is_left_of_the_limit(tokens: int, limit: int, score: float) -> None:
    cost = TokenCost(tokens_of=("r",), limit=limit)
    assert cost.score(tokens) == score
    assert cost.tokens(score) == min(tokens, limit)


def record(objective: str, index: int, tokens: int, **more: Any) -> ItemRecord:
    item = f"{objective}{index}"
    made = ItemRecord("search", objective, objective, item, f"c{index // 2}", 0, 1.0, "7", "ok",
                      tokens, "7")  # fmt: skip
    return replace(made, **more)


def test_every_answer_counts_by_itself_at_its_length() -> None:
    rows = (
        record("reasoning", 0, 10, unit="pair", score=0.0),
        record("reasoning", 1, 60, unit="pair", status="truncated"),
        record("perception", 2, 25),
        record("other", 0, 3),
    )
    found = with_costs(rows, {"brevity": BOTH})
    assert found[:4] == rows
    assert [(r.objective, r.task, r.item, r.cluster, r.unit, r.score) for r in found[4:]] == [
        ("brevity", "reasoning", "reasoning0", "c0", "", 0.8),
        ("brevity", "reasoning", "reasoning1", "c0", "", 0.0),
        ("brevity", "perception", "perception2", "c1", "", 0.5),
    ]
    expected = stats.estimate([0.8, 0.0, 0.5], ["c0", "c0", "c1"])
    assert estimates_of(found)["brevity"] == expected
    assert with_costs(rows, {}) == rows


def test_item_files_hold_each_answer_once(tmp_path: Path) -> None:
    run = RunDirectory.create_or_resume(tmp_path, config())
    rows = (record("reasoning", 0, 20), record("perception", 0, 4))
    run.add_items("3", rows)
    run.add_items(
        "3", run.read_with_costs("3")
    )  # a candidate that equals another is stored like this
    run.add_items(blind_name("3"), rows)
    assert pq.read_table(run.items_path("3")).num_rows == 2
    assert run.read_stored("3") == rows
    assert run.read_with_costs("3") == (*rows, replace(rows[0], objective="brevity", score=0.75))
    assert run.read_with_costs(blind_name("3")) == rows


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"b": {"tokens_of": ["speed"], "limit": 8}},
            "b.tokens_of names speed; the objectives",
        ),
        ({"b": {"tokens_of": ["b"], "limit": 8}}, "b.tokens_of names b; .* reasoning, perception"),
        ({"b": {"tokens_of": [], "limit": 8}}, "objectives.b.cost.tokens_of"),
        ({"b": {"tokens_of": ["reasoning"] * 2, "limit": 8}}, "names an objective twice"),
        ({"b": {"tokens_of": ["reasoning"]}}, "objectives.b.cost.limit: missing"),
        ({"b": {"tokens_of": ["reasoning"], "limit": 0}}, r"b.cost.limit: .*\(found 0\)"),
        ({"b": {"tokens_of": ["reasoning"], "limit": -3}}, r"b.cost.limit: .*\(found -3\)"),
        ({"b": 3}, r"objectives.b: expected a list of tasks, or a cost: .* \(found 3\)"),
        ({"b": {"tokens_of": ["reasoning"], "limit": 8, "per": 1}}, "b.cost.per: unknown field"),
    ],
)
def test_a_faulty_cost_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"^run.yaml: .*{words}"):
        config(objectives={**ZOO_RUN["objectives"], **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objectives": {"b": {"tokens_of": ["reasoning"], "limit": 8}, **ZOO_RUN["objectives"]}},
         "the first objective is to be gained, but 'b' is a cost"),
        ({"constraints": {"brevity": {"tokens": 80}}}, "at most 80 tokens, .* limit of 80"),
        ({"constraints": {"brevity": {"tokens": 0}}}, "constraints.brevity.cost.tokens"),
        ({"constraints": {"brevity": 90}}, "constraints.brevity.score"),
        ({"constraints": {"brevity": "few"}}, "expected the least score, 0 to 1, or of a cost"),
        ({"constraints": {"perception": {"tokens": 9}}}, "in tokens, but perception is no cost"),
        ({"report": {"reference": {"reasoning": 0.1, "perception": 0.2, "brevity": 0.3}}},
         "objectives with tasks of their own are"),
    ],
)  # fmt: skip
def test_what_costs_cannot_be_is_said(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(**changes)


def test_a_cost_is_a_price_with_a_bound_and_no_guard(tmp_path: Path) -> None:
    made = config(constraints={"brevity": {"tokens": 20}, "perception": 0.5})
    assert made.least_scores == {"brevity": 0.75, "perception": 0.5}
    assert made.guards == {"perception": 0.02}
    assert config(report={"guards": {"brevity": 0.1}}).guards == {
        "brevity": 0.1,
        "perception": 0.02,
    }
    receiver = {"reasoning": Estimate(0.5, 0.1, 9), "perception": Estimate(0.8, 0.1, 9)}
    assert list(reference_point(made, receiver).items()) == [
        ("reasoning", 0.5), ("brevity", 0.0), ("perception", pytest.approx(0.64))
    ]  # fmt: skip
    given = config(report={"reference": {"reasoning": 0.1, "perception": 0.2}})
    assert reference_point(given, {}) == {"reasoning": 0.1, "brevity": 0.0, "perception": 0.2}
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(with_absolute_paths(made)))
    assert load_yaml(path, RunConfig) == made
    RunDirectory.create_or_resume(tmp_path, made)
    other = {**THREE, "brevity": {"tokens_of": ["reasoning"], "limit": 90}}
    with pytest.raises(RunError, match=r"objectives\.brevity\.limit was 80, is 90"):
        RunDirectory.create_or_resume(
            tmp_path, config(objectives=other, constraints=made.constraints)
        )


def item(task: str, i: int, unit: str = "") -> Item:
    return Item(f"{task}{i}", task, "?", (), ("1",), f"{task}{i // 3}", unit=unit)


ITEMS = {
    "reasoning": [item("reasoning", i, f"u{i // 3}") for i in range(60)],
    "perception": [item("perception", i) for i in range(40)],
}
REFERENCE = {"reasoning": 0.3, "perception": 0.6, "brevity": 0.0}


def answered(
    race: Race, tokens: Callable[[Item], int], rungs: int, right: float = 1.0
) -> list[ItemRecord]:
    """All answers to the first rungs, objective by objective, as an item file has them."""
    rows = [
        ItemRecord("search", name, i.task, i.id, i.cluster, rung, right, "", "ok", tokens(i), "",
                   i.unit)
        for name in ITEMS
        for rung in range(rungs)
        for i in race.rungs[rung][name]
    ]  # fmt: skip
    return list(with_costs(rows, {"brevity": BOTH}))


def length(item: Item, seed: int) -> int:
    return int(np.random.default_rng([seed, *item.id.encode()]).integers(1, 70))


def raced() -> Race:
    return Race(RacingConfig(rungs=4), ITEMS, REFERENCE, seed=0, costs={"brevity": BOTH})


def test_a_cost_of_two_objectives_is_estimated_from_a_prefix_like_any_other() -> None:
    race = raced()
    told = []
    for number in range(5):
        rows = answered(race, partial(length, seed=number), len(race.rungs))
        if number == 0:  # the receiver's answers know no rungs
            rows = [replace(row, rung=0) for row in rows]
        estimates = race.estimate(rows)
        scores = {r.item: r.score for r in rows if r.objective == "brevity"}
        assert estimates["brevity"].mean == pytest.approx(np.mean([*scores.values()]))
        assert (estimates["brevity"].n, estimates["brevity"].partial) == (100, 0.0)
        race.learn(Evaluation(number, (0.5,), "x", estimates), rows)
        told.append(scores)
    for rungs in range(1, len(race.rungs)):
        rows = answered(race, lambda i: length(i, 9), rungs)
        mine = {r.item: r for r in rows if r.objective == "brevity"}
        asked = [i for rung in race.rungs for name in BOTH.tokens_of for i in rung[name]]
        assert {i.id for i in asked[: len(mine)]} == {*mine}
        difficulty = Difficulty(len(asked))
        for scores in told:
            difficulty.learn([scores[i.id] for i in asked])
        seen = [mine[i.id] for i in asked if i.id in mine]
        expected = partial_estimate(
            [r.score for r in seen], [r.cluster for r in seen], difficulty.mean(),
            difficulty.spread(),
        )  # fmt: skip
        found = race.estimate(rows)["brevity"]
        assert asdict(found) == pytest.approx(asdict(expected))
        assert found.partial > 0


def test_the_order_of_a_cost_has_items_of_two_objectives_once() -> None:
    shared = [item("t", i) for i in range(4)]
    rungs = [{"a": shared[:1], "b": shared[2:]}, {"a": shared[1:], "b": shared[:2]}]
    cost = TokenCost(tokens_of=("a", "b"), limit=9)
    assert list(order_of_cost_items(cost, rungs)) == [("t", f"t{i}") for i in (0, 2, 3, 1)]


def test_lengths_that_hardly_differ_are_known_sooner() -> None:
    """The spread that is expected of a unit is what candidates so far have had."""
    alike, wide = Difficulty(50), Difficulty(50)
    for seed in range(30):
        alike.learn(np.full(50, 0.8))
        wide.learn((np.random.default_rng(seed).random(50) < 0.5).astype(float))
    assert alike.spread() == pytest.approx(2 * 0.15 / 32)
    assert wide.spread() == pytest.approx(0.25, abs=0.02)
    seen, clusters = np.full(10, 0.8), range(10)
    known, unknown = (
        partial_estimate(seen, clusters, alike.mean(), spread) for spread in (alike.spread(), 0.15)
    )
    assert known.mean == unknown.mean == pytest.approx(0.8)
    assert known.partial < 0.3 * unknown.partial


def test_long_answers_are_dear_and_not_broken() -> None:
    race = raced()
    endless = race.estimate(answered(race, lambda _: 4000, 1))
    assert endless["brevity"].mean == 0.0
    assert race.verdict((0.5,), endless) != COLLAPSED
    assert race.verdict((0.5,), race.estimate(answered(race, lambda _: 1, 1, 0.0))) == COLLAPSED


def candidates(made: RunConfig, rows: Sequence[tuple[float, ...]]) -> list[Evaluation]:
    return [
        Evaluation(n, (n / len(rows),), "receiver" if n == 0 else "x",
                   {o: Estimate(v, 0.005, 400)
                    for o, v in zip(made.objectives, values, strict=True)})
        for n, values in enumerate(rows)
    ]  # fmt: skip


SCORES = [(0.3, 0.9, 0.9), (0.7, 0.6, 0.9), (0.6, 0.8, 0.895), (0.01, 1.0, 0.02), (0.8, 0.1, 0.91)]


def test_a_broken_model_is_not_on_the_front_for_saying_nothing() -> None:
    made = config(report={"finalists": 3})
    done = candidates(made, SCORES)
    belief = run_belief(done, made, done[0].objectives)
    assert belief.ineligible == {3}
    assert belief.front == (4, 1, 2, 0)
    assert choose_members(done, made, belief) == [1, 2, 4]
    assert choose_picks([1, 2, 4], made, done[0].objectives, belief)["best:brevity"] == 2
    broken = [replace(one, number=i) for i, one in enumerate(done[3:4] * 3)]
    nobody = run_belief(broken, made, done[0].objectives)
    assert choose_members(broken, made, nobody) == [0]  # better than nothing to report


@pytest.mark.parametrize(
    ("changes", "guarded"),
    [
        ({}, 4),
        ({"constraints": {"brevity": {"tokens": 40}}}, 1),
        ({"constraints": {"brevity": {"tokens": 20}}}, 2),
        ({"constraints": {"brevity": 0.75}}, 2),
        ({"report": {"guards": {"brevity": 0.2}}}, 2),
        ({"constraints": {"brevity": {"tokens": 16}}}, None),  # 0.8: an even chance is too little
    ],
)
def test_the_guarded_pick_keeps_to_its_tokens(changes: dict[str, Any], guarded: int | None) -> None:
    made = config(**changes)
    done = candidates(made, SCORES)
    belief = run_belief(done, made, done[0].objectives)
    assert choose_picks([1, 2, 4], made, done[0].objectives, belief).get("guarded") == guarded


def test_the_sampler_is_given_the_bound_as_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is proposed under a bound in tokens is what is proposed under the same in score."""
    given = []
    original = noisy_gp.NoisyGpProposer.__init__

    def noting(self: Any, problem: Problem) -> None:
        given.append((problem.reference, problem.constraints))
        original(self, problem)

    monkeypatch.setattr(noisy_gp.NoisyGpProposer, "__init__", noting)

    class Line:
        dimension = 1

        def start_point(self) -> list[float]:
            return [0.5]

    made = config(constraints={"brevity": {"tokens": 60}})
    space: Any = Line()
    sampler_of("noisy-gp", made, space, {"perception": 0.6, "brevity": 0.0, "reasoning": 0.3})
    assert [list(one or ()) for one in given[0]] == [[0.3, 0.0, 0.6], [None, 0.25, None]]


def gain(mean: float, half: float = 0.01) -> Gain:
    return Gain(mean, mean - half, mean + half, p=0.5, test="clustered t", discordance=0.1)


@pytest.mark.parametrize(
    ("reasoning", "brevity", "guards", "said"),
    [
        (0.1, -0.3, {}, BEATS),
        (0.1, -0.3, {"brevity": 0.2}, TRADES),
        (0.0, -0.3, {}, UNRESOLVED),
        (0.0, -0.3, {"brevity": 0.2}, WORSE),
        (-0.1, 0.0, {}, WORSE),
        (-0.1, 0.3, {}, WORSE),
        (-0.1, 0.3, {"brevity": 0.2}, UNRESOLVED),
    ],
)
def test_verdicts_mind_a_cost_where_it_has_a_guard(
    reasoning: float, brevity: float, guards: dict[str, float], said: str
) -> None:
    gains = {"reasoning": gain(reasoning), "brevity": gain(brevity), "perception": gain(0.0)}
    assert verdict(gains, config(report={"guards": guards})) == said


def test_front_report_and_card_say_it_in_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, study = simulated_run(tmp_path, objectives=THREE)
    for factor, name in ((0.5, "1"), (2.0, "2")):  # the others' answers have 0 to 119 tokens
        rows = [replace(r, tokens=int(factor * r.tokens)) for r in run.read_stored(name)]
        run.add_items(name, rows)
    front = write_front(run, study)
    assert front == summarise(run, study)
    assert front.costs == {"brevity": TokenCost(tokens_of=("reasoning",), limit=80)}
    assert front.guards == {"perception": 0.02}
    base = np.minimum(np.arange(120), 80)
    assert front.receiver["validation"]["brevity"].tokens == pytest.approx(base.mean())
    for member, factor in zip(front.members, (0.5, 2.0, 1.0), strict=True):
        mine = np.minimum((factor * np.arange(120)).astype(int), 80)
        for split in ("validation", "test"):
            estimates = getattr(member, split)
            if estimates:
                assert estimates["brevity"].mean == pytest.approx(1 - mine.mean() / 80)
                assert estimates["brevity"].tokens == pytest.approx(mine.mean())
        assert member.gain["brevity"].tokens == pytest.approx((mine - base).mean())
        assert member.validation["reasoning"].tokens is None
        assert {*member.answers} == {"reasoning", "perception"}
    blind = front.members[0].blind
    assert blind is not None
    assert "brevity" not in blind.scores
    assert {*(front.receiver_blind or {})} == {"reasoning", "perception"}
    assert not any("brevity" in words for words in front.warnings)
    print_front(front)
    shown = capsys.readouterr().out  # in cells that may be wrapped
    assert f"({base.mean():.2f}" in shown
    assert "tokens)" in shown
    page = write_report(
        tmp_path / "report.html", Front.from_dict(json.loads(json.dumps(front.to_dict())))
    ).read_text()
    assert f"; {base.mean():.2f} tokens</span>" in page
    assert "scores 1 - min(t / 80, 1): 0 % is 80 tokens or more" in page
    assert "loss of perception is at most 2 points" in page
    assert "loss of brevity" not in page
    recipe = Recipe("task_arithmetic", ModelNames(receiver="zoo:vlm", donors={}), {}, {})
    card = model_card(recipe, {}, front, front.members[0])
    mine = front.members[0].validation["brevity"].tokens
    assert f"({mine:.2f} tokens)" in card
    assert "scores 1 - min(t / 80, 1)." in card
    labels = [axis.get_ylabel() for axis in front_figure(front, []).axes]
    assert labels == ["brevity (% of 80 tokens not used)", "perception (% of items)"]


def test_no_loss_is_never_told_as_minus_nothing() -> None:
    rows = [record("reasoning", index, 9) for index in range(4)]
    gains = paired_gains(rows, rows, ["reasoning"], {"reasoning": BOTH})
    assert f"{gains['reasoning'].tokens:+.2f}" == "+0.00"


def test_a_cost_adds_no_question_to_the_plan(tmp_path: Path) -> None:
    plans = {}
    for name, limit in (("without", 0), ("with", 4), ("short", 2)):
        cost = {"brevity": {"tokens_of": ["reasoning", "perception"], "limit": limit}}
        objectives = {**ZOO_RUN["objectives"], **(cost if limit else {})}
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps({**ZOO_RUN, "objectives": objectives}))
        plans[name] = make_plan(str(path), hub=None, seconds_per_1000=36.0)
    a, b = plans["without"], plans["with"]
    for split in ("search", "validation"):
        assert [q for q in a.questions if q.split == split] == [
            q for q in b.questions if q.split == split
        ]
    assert a.duration is not None
    assert b.duration is not None
    assert a.duration.candidate_seconds == b.duration.candidate_seconds
    assert [r.subject for r in b.remarks] == [r.subject for r in a.remarks]
    notes = [r for r in plans["short"].remarks if r.subject == "objectives.brevity"]
    assert [note.level for note in notes] == ["note"]
    assert "may have 4 tokens, but count as 2" in notes[0].message


RUN: dict[str, Any] = {
    **ZOO_RUN,
    "objectives": {
        "reasoning": ["digits_reasoning"],
        "brevity": {"tokens_of": ["reasoning", "perception"], "limit": 4},
        "perception": ["digits_perception"],
    },
    "constraints": {"brevity": {"tokens": 2.5}},
    "items": {"search": 32, "validation": 24, "test": 24},
    "search": {"sampler": "noisy-gp", "racing": {"full_first": 2, "rungs": 3}},
    "budget": {"candidates": 26},
    "report": {"finalists": 4},
    "engine": {"kind": "transformers", "dtype": "float32", "threads": 1},
    "tracking": {"enabled": False},
}


class Watched:
    """The real engine, which copies the run's directory before some of its answers: what a kill at
    that instant leaves on disk."""

    def __init__(self, engine: Engine, run: Path, copies: Path, moments: Sequence[int]) -> None:
        self.engine, self.run, self.copies = engine, run, copies
        self.moments, self.calls, self.asked = moments, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def generate(self, items: Sequence[Item], *more: Any) -> list[Answer]:
        self.calls += 1
        self.asked += len(items)
        if self.calls in self.moments:
            shutil.copytree(self.run, self.copies / f"at {self.calls}" / self.run.name)
        return self.engine.generate(items, *more)


def searched(runs: Path, copies: Path | None = None) -> tuple[RunDirectory, int]:
    prepared = prepare_search(with_absolute_paths(validate(RUN, RunConfig, "run.yaml")), runs)
    moments = () if copies is None else (25, 45)
    engine = open_engine(prepared.config.engine, prepared.sources.folders)
    watched = Watched(engine, prepared.run.path, copies or runs, moments)
    with prepared, start_search(prepared, lambda: cast("Engine", watched)) as search:
        for _ in search.candidates():
            pass
        asked = watched.asked
        for _ in finish(search):
            pass
    return prepared.run, asked


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, Path, int]:
    folder = tmp_path_factory.mktemp("costs")
    run, asked = searched(folder / "runs", folder / "copies")
    return run, folder / "copies", asked


def trajectory(run: RunDirectory) -> list[tuple[object, ...]]:
    return [
        (e.number, e.point, e.origin, dict(e.objectives), e.raced)
        for e in evaluations(open_study(run), run)
    ]


def test_a_search_asks_nothing_for_its_cost(run: tuple[RunDirectory, Path, int]) -> None:
    made, _, asked = run
    found = evaluations(open_study(made), made)
    assert len(found) == 26
    assert any(e.raced.left for e in found)
    names = ["receiver", *(str(e.number) for e in found if e.origin != "receiver")]
    stored = {name: made.read_stored(name, "search") for name in names}
    assert {r.objective for rows in stored.values() for r in rows} == {"reasoning", "perception"}
    later = [e for e in found if e.raced.completed]
    before = {str(e.number): e.raced.rungs for e in later}
    first = sum(r.rung < before.get(n, 99) for n, rows in stored.items() for r in rows)
    assert asked == first
    items = item_set(made.config.objective_tasks, made.config.items, Path()).items["search"]
    costs = made.config.costs
    race = Race(made.config.search.racing, items, read_front(made).reference, 0, costs=costs)
    for e in found:
        rows = made.read_with_costs(str(e.number), "search")
        tokens = [r.tokens for r in made.read_stored(str(e.number), "search")]
        score = np.mean([1 - min(t / 4, 1) for t in tokens])
        assert race.estimate(rows) == e.objectives
        one = e.objectives["brevity"]
        assert one.n == len(tokens)
        if len(tokens) == 64:
            assert one.mean == pytest.approx(score)
        then = [r for r in rows if r.rung < e.raced.rungs] if e.raced.left else rows
        race.learn(replace(e, objectives=race.estimate(then)), then)
    assert len({e.objectives["brevity"].mean for e in found}) > 3  # lengths do differ


def test_a_search_with_a_cost_reports_it_and_keeps_its_bound(
    run: tuple[RunDirectory, Path, int],
) -> None:
    made, _, _ = run
    front = read_front(made)
    assert front.objectives == ("reasoning", "brevity", "perception")
    assert front.reference["brevity"] == 0.0
    for member in front.members:
        answers = made.read_stored(str(member.number), "validation")
        mean = np.mean([min(r.tokens, 4) for r in answers])
        assert member.validation["brevity"].tokens == pytest.approx(mean)
        if "guarded" in member.picks:
            assert (member.believed["brevity"].tokens or 9.0) <= 2.5
        if member.blind:
            assert "brevity" not in member.blind.scores
    status = status_of(made.path.parent, made.path.name)
    assert all(0 < (row.believed["brevity"].tokens or 0.0) < 4 for row in status.front)
    assert status.race is not None
    assert status.race.items < 1


def test_killed_with_a_cost_a_run_goes_on_to_the_same_trajectory(
    run: tuple[RunDirectory, Path, int],
) -> None:
    made, copies, _ = run
    places = sorted(copies.iterdir())
    assert len(places) == 2
    for place in places:
        left = RunDirectory.open(place / "x")
        done = len(evaluations(open_study(left), left))
        assert done < 26
        resumed, _ = searched(place)
        assert trajectory(resumed) == trajectory(made)
        ours, theirs = read_front(resumed), read_front(made)
        for key in ("members", "hypervolume", "belief", "receiver"):
            assert getattr(ours, key) == getattr(theirs, key)


def test_the_time_kept_for_the_end_counts_questions_and_no_cost() -> None:
    """A candidate's seconds are of the questions that it was asked."""
    sizes = {"search": 4, "validation": 600, "test": 40}
    given = {"budget": {"candidates": 9, "hours": 1}, "items": sizes}
    made, plain = config(**given), validate({**ZOO_RUN, **given}, RunConfig, "run.yaml")
    items = item_set(made.objective_tasks, made.items, Path())
    kept = {}
    for run in (made, plain):
        names = list(run.objectives)
        reference = dict.fromkeys(names, 0.5)
        race = Race(run.search.racing, items.items["search"], reference, 0, costs=run.costs)
        scored = Estimate(0.5, 0.01, 400)
        history = [
            Evaluation(n, (n / 9,), "x", dict.fromkeys(names, scored), Seconds(build=1, generate=2),
                       raced=Raced(rungs=len(race.rungs)))
            for n in range(8)
        ]  # fmt: skip
        race.evaluations.extend(history)
        race.replace_evaluation(history[0])
        assert sum(len(part) for rung in race.rungs for part in rung.values()) == 8
        kept[run is made] = reserve(run, items, race, 30.0)
    of_a_pick = 500 * len(plain.objectives) + len(items.flat("test"))  # blind, and test
    assert kept[True] - kept[False] == pytest.approx(1.1 * (0.25 * of_a_pick + 2))
