"""front.json from item records alone: units, paired tests, Holm, blind control, shared items."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures_cli import ZOO_RUN
from fixtures_runs import N, record, records, scores, simulated_run
from mergefront import stats
from mergefront.cli.display import print_front
from mergefront.config import BLIND_ITEMS, RunConfig
from mergefront.errors import ConfigError, RunError, UserError
from mergefront.jobs.card import model_card
from mergefront.merging.recipe import Recipe
from mergefront.models.locate import ModelNames
from mergefront.records import Estimate, Evaluation, Item
from mergefront.runs.directory import RECEIVER
from mergefront.runs.front import read_front
from mergefront.runs.gains import (
    ALONE,
    BEATS,
    OVER_THE_FRONT,
    TRADES,
    SharedItems,
    overlap,
    paired_gains,
)
from mergefront.runs.history import estimates_of, evaluations, record_completion
from mergefront.runs.members import choose_members, choose_picks, run_belief
from mergefront.runs.reference import resolve_pick
from mergefront.runs.report import write_report
from mergefront.runs.summary import summarise, write_front
from mergefront.runs.units import paired_units, units_of
from mergefront.search.finish import blind_items, no_scores
from mergefront.yaml_file import validate

WITH_COST = {**ZOO_RUN["objectives"], "brevity": {"tokens_of": ["reasoning"], "limit": 80}}
GROUPS = st.lists(
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=3), min_size=2, max_size=8
)


@given(GROUPS, st.randoms(use_true_random=False))
def test_a_unit_counts_once_with_its_lowest_score(groups: list[list[float]], random: Any) -> None:
    rows = [
        record(f"{g}.{i}", value, unit=f"u{g}" if len(group) > 1 else "", cluster=f"c{g // 2}")
        for g, group in enumerate(groups)
        for i, value in enumerate(group)
    ]
    found = estimates_of(rows)["reasoning"]
    lowest = [min(group) for group in groups]
    assert found.mean == pytest.approx(np.mean(lowest))
    assert found == stats.estimate(lowest, [g // 2 for g in range(len(groups))])
    random.shuffle(rows)
    assert sorted(units_of(rows).scores) == sorted(lowest)


def test_units_of_two_tasks_and_an_item_of_that_name_are_kept_apart() -> None:
    rows = [
        record("1", 1.0, unit="u"),
        record("1", 0.0, unit="u", task="other"),
        record("u", 0.5, stratum="s"),
    ]
    assert units_of(rows) == ([1.0, 0.0, 0.5], ["1", "1", "u"], ["", "", "s"])


def test_models_are_paired_on_the_items_that_both_answered() -> None:
    mine = [record(str(i), 1.0) for i in range(4)]
    base = [record(str(i), 0.0) for i in (3, 2, 9)]
    assert paired_units(mine, base) == ([1.0, 1.0], [0.0, 0.0], ["2", "3"])
    with pytest.raises(ValueError, match="no item in common"):
        paired_units(mine, base[2:])


def test_gains_are_tested_as_their_items_allow_and_adjusted_over_the_front(tmp_path: Path) -> None:
    front = summarise(*simulated_run(tmp_path))
    chances = []
    for member in front.members:
        mine, base = (scores(n, "validation", 0) for n in (str(member.number), RECEIVER))
        gain = member.gain["reasoning"]
        assert gain.test == "mcnemar"
        assert gain.p == stats.mcnemar(mine, base)
        assert gain.discordance == np.mean(mine != base)
        assert gain.mean == pytest.approx(np.mean(mine - base))
        chances.append(gain.p)
        pairs = [scores(n, "validation", 1).reshape(-1, 2).min(axis=1)
                 for n in (str(member.number), RECEIVER)]  # fmt: skip
        gain = member.gain["perception"]
        assert gain.mean == pytest.approx(np.mean(pairs[0] - pairs[1]))
        assert member.validation["perception"].n == N // 2
    found = [m.gain["reasoning"].p_holm for m in front.members]
    assert found == stats.holm(chances)
    assert [m.verdict for m in front.members][:2] == [BEATS, TRADES]
    assert front.members[0].holds == OVER_THE_FRONT
    winners = [m.holds for m in front.members if m.verdict == BEATS]
    assert front.messages[0].startswith(f"{len(winners)} of 3 members beat the receiver")
    assert f"{winners.count(OVER_THE_FRONT)} of them hold over" in front.messages[0]


def test_a_front_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    run, study = simulated_run(tmp_path, objectives=WITH_COST)
    assert write_front(run, study) == read_front(run)
    written = run.front.read_text()
    assert json.dumps(read_front(run).to_dict(), indent=1) == written
    values = json.loads(written)
    newer = {**values, "colour": 1, "belief": {**values["belief"], "colour": 1}}
    run.front.write_text(json.dumps(newer))
    assert json.dumps(read_front(run).to_dict(), indent=1) == written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "mergefront/front@2"}, "has the format 'mergefront/front@2'"),
        ({"belief": None}, "belief: "),
    ],
)
def test_a_front_that_cannot_be_read_is_to_be_rebuilt(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    run, study = simulated_run(tmp_path)
    write_front(run, study)
    run.front.write_text(json.dumps({**json.loads(run.front.read_text()), **change}))
    with pytest.raises(RunError, match=message) as caught:
        read_front(run)
    assert "mergefront rebuild" in caught.value.hint
    run.front.write_text("{")
    with pytest.raises(RunError, match=r"front\.json cannot be read"):
        read_front(run)


def test_a_gain_may_hold_for_the_member_alone(tmp_path: Path) -> None:
    run, study = simulated_run(tmp_path)
    base = records(RECEIVER, "validation")
    luck = [  # six more right and none wrong: p 0.031 alone, 0.062 after Holm's first two
        replace(r, score=1.0) if r.score == 0 and r.objective == "reasoning" and i in flips else r
        for flips in [[i for i, r in enumerate(base[:N]) if r.score == 0][:6]]
        for i, r in enumerate(base)
    ]
    run.add_items("3", luck)
    run.add_items("2", luck)
    front = summarise(run, study)
    two, three = front.members[1:]
    assert two.gain["reasoning"].p == pytest.approx(2 * 0.5**6)
    assert two.gain["reasoning"].p_holm == pytest.approx(4 * 0.5**6)
    assert two.holds == three.holds == ALONE
    assert "1 of them hold over the whole front" in front.messages[0]
    assert "2 for the member alone" in front.messages[0]


def test_an_objective_that_never_changed_is_said(tmp_path: Path) -> None:
    run, study = simulated_run(tmp_path)
    assert not [one for one in summarise(run, study).messages if "scored the same" in one]
    first, *others = evaluations(study, run)
    for evaluation in others:
        estimates = {**evaluation.objectives, "perception": first.objectives["perception"]}
        whole = replace(evaluation, objectives=estimates)
        record_completion(study, whole, ["reasoning", "perception"])
    (words,) = [one for one in summarise(run, study).messages if "scored the same" in one]
    assert words.startswith("perception scored the same for every candidate")


def test_how_models_answered_is_told(tmp_path: Path) -> None:
    front = summarise(*simulated_run(tmp_path))
    for answered in (front.receiver_answers, *(m.answers for m in front.members)):
        for objective in ("reasoning", "perception"):
            assert asdict(answered[objective]) == {
                "no_answer": pytest.approx(0.1),
                "truncated": pytest.approx(0.1),
                "tokens": pytest.approx((N - 1) / 2),
            }
    assert not [one for one in front.messages if "log-probability" in one]
    by_label = summarise(*simulated_run(tmp_path / "labels", mode="labels")).messages[-1]
    assert by_label == "Answers by label log-probability, not generated: digits_perception."


def test_a_gain_that_is_there_blind_is_said(tmp_path: Path) -> None:
    front = summarise(*simulated_run(tmp_path))
    one, two, _ = front.members
    assert two.blind is None
    assert one.blind is not None
    mine, base = (scores(n, "validation", 0, blind=True) for n in ("1", RECEIVER))
    assert one.blind.scores["reasoning"].mean == pytest.approx(mine.mean())
    assert one.blind.gain["reasoning"].mean == pytest.approx((mine - base).mean())
    (words,) = front.messages[1:]
    assert words.startswith(f"Member 1 gains {100 * (mine - base).mean():+.1f} points")
    assert "of reasoning without images too" in words


def items(count: int, images: int = 1, unit: int = 1) -> list[Item]:
    return [
        Item(f"t/{i}", "t", "?", (b"x",) * images, ("1",), "c", unit=f"u{i // unit}" * (unit > 1))
        for i in range(count)
    ]


def test_the_blind_control_asks_the_same_questions_without_images() -> None:
    seen: dict[str, Sequence[Item]] = {"a": items(7, 2), "text": items(9, 0), "b": items(900)}
    found = blind_items(seen)
    assert list(found) == ["a", "b"]
    assert found["a"] == [replace(one, images=()) for one in seen["a"]]
    assert [one.id for one in found["b"]] == [one.id for one in seen["b"]][:BLIND_ITEMS]
    assert len(blind_items({"a": items(900, unit=3)})["a"]) == BLIND_ITEMS - BLIND_ITEMS % 3


def test_guards_may_differ_by_objective(tmp_path: Path) -> None:
    changed: dict[str, Any] = {"report": {"guards": {"perception": 0.9}}}
    front = summarise(*simulated_run(tmp_path, **changed))
    assert front.guards == {"perception": 0.9}
    assert [m.verdict for m in front.members][:2] == [BEATS, BEATS]
    with pytest.raises(ConfigError, match=r"report\.guards names reasoning; .* are perception"):
        validate({**ZOO_RUN, "report": {"guards": {"reasoning": 0.1}}}, RunConfig, "x.yaml")


def test_items_of_another_split_are_counted_whatever_the_objective() -> None:
    searched = [record(str(i), 1.0, objective="b") for i in range(5)]
    reported = [record(str(i), 1.0, objective="a") for i in range(3, 9)]
    assert overlap(searched, reported) == {"a": SharedItems(shared=2, n=6)}
    assert overlap(searched, [record("1", 1.0, objective="a", task="other")]) == {}


def test_shared_items_are_told_before_any_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, study = simulated_run(tmp_path)
    assert write_front(run, study).warnings == ()
    again = [replace(r, split="validation") for r in records(RECEIVER, "search")[: N // 4]]
    kept = records(RECEIVER, "validation")
    run.add_items(RECEIVER, [*again, *kept[N // 4 :]])
    for name in ("1", "2", "3"):
        mine = [replace(r, split="validation") for r in records(name, "search")[: N // 4]]
        run.add_items(name, [*mine, *records(name, "validation")[N // 4 :]])
    tested = [replace(r, split="test") for r in records(RECEIVER, "validation")[-8:]]
    run.add_items(RECEIVER, [*tested, *records(RECEIVER, "test")])
    front = write_front(run, study)
    words = "NOT INDEPENDENT: 30 of 120 validation items of reasoning were also searched on"
    warning, twice = front.warnings
    assert warning.startswith(words)
    assert "8 of 128 test items of perception are validation items too" in twice
    page = write_report(tmp_path / "report.html", front).read_text()
    body = page[page.index("<body>") :]
    assert body.index("</h1>") < body.index(words) < body.index("candidates (")
    assert "OVERLAP" in body
    recipe = Recipe("task_arithmetic", ModelNames(receiver="zoo:vlm", donors={}), {}, {})
    card = model_card(recipe, {}, front, front.members[1])
    assert card.index(words) < card.index("| objective |")
    print_front(front)
    assert capsys.readouterr().out.startswith(words)


def test_a_comparison_needs_common_items() -> None:
    with pytest.raises(ValueError, match="no item in common"):
        paired_gains([record("1", 1.0)], [record("2", 1.0)], ["reasoning"])


def test_looking_at_a_run_needs_neither_engine_nor_torch() -> None:
    script = (
        "import sys, mergefront.runs.front, mergefront.runs.status; "
        "print({'torch', 'mergefront.engine', 'mergefront.search.loop'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


SCORES = {0: (0.3, 0.9), 1: (0.7, 0.9), 2: (0.75, 0.6), 3: (0.8, 0.2)}


def found(
    config: RunConfig, scores: Mapping[int, tuple[float, ...]], se: float
) -> list[Evaluation]:
    return [
        Evaluation(
            number, (number / len(scores),), "receiver" if number == 0 else "x",
            {o: Estimate(s, se, 400) for o, s in zip(config.objectives, pair, strict=True)},
        )
        for number, pair in scores.items()
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "se", "guarded"),
    [
        ({}, 0.01, 1),
        ({"report": {"guards": {"perception": 0.5}}}, 0.01, 2),
        ({"report": {"guards": {"perception": 0.0}}}, 0.0, 1),
        ({"report": {"guards": {"perception": 0.0}}}, 0.01, None),  # an even chance is too little
        ({"constraints": {"perception": 0.85}, "report": {"guard": 0.9}}, 0.01, 1),
        ({"constraints": {"reasoning": 0.72}, "report": {"guard": 0.9}}, 0.01, 3),
        ({"constraints": {"reasoning": 0.72}, "report": {"guard": 0.31}}, 0.01, 2),
        ({"constraints": {"reasoning": 0.9}}, 0.01, None),
    ],
)
def test_the_guarded_pick_is_the_best_that_keeps_the_others(
    changes: dict[str, Any], se: float, guarded: int | None
) -> None:
    """Within its guard of the receiver and every constraint; none if nobody keeps them."""
    config = validate({**ZOO_RUN, **changes}, RunConfig, "x.yaml")
    done = found(config, SCORES, se)
    belief = run_belief(done, config, done[0].objectives)
    chosen = choose_picks([1, 2, 3], config, done[0].objectives, belief)
    assert chosen.get("guarded") == guarded
    assert (chosen["best:reasoning"], chosen["best:perception"]) == (3, 1)


def test_finalists_are_whole_fronts_of_what_is_believed_without_the_receiver() -> None:
    config = validate({**ZOO_RUN, "report": {"finalists": 4}}, RunConfig, "x.yaml")
    scores = {**SCORES, 4: (0.69, 0.89), 5: (0.74, 0.59), 6: (0.1, 0.1)}
    done = found(config, scores, 0.01)
    assert choose_members(done, config, run_belief(done, config, done[0].objectives)) == [
        1,
        2,
        3,
        5,
    ]


def test_a_lucky_score_is_not_believed_by_the_model() -> None:
    """Forty candidates on a line; the lucky one's score dominates all, its belief does not."""
    config = validate({**ZOO_RUN, "report": {"finalists": 5}}, RunConfig, "x.yaml")
    line = {i: (0.4 + 0.008 * i, 0.9 - 0.004 * i) for i in range(40)}
    lucky = {**line, 20: (0.75, 0.92)}
    done = found(config, lucky, 0.05)
    belief = run_belief(done, config, done[0].objectives)
    assert belief.by_model
    assert choose_picks(range(1, 40), config, done[0].objectives, belief)["best:reasoning"] != 20
    scored = found(config, lucky, 0.05)[:23]
    raw = run_belief(scored, config, done[0].objectives)
    assert "23 of 24 candidates" in raw.why_scores_choose
    assert choose_picks(range(1, 23), config, done[0].objectives, raw)["best:reasoning"] == 20


def test_a_run_in_which_all_failed_says_with_what() -> None:
    failed = [Evaluation(n, (0.5,), "x", {}, failure=f"overflow {n}") for n in range(3)]
    error = no_scores(Path("runs/x"), failed)
    assert error.message == "runs/x: all 3 candidates failed, the last with: overflow 2"
    assert "log.txt" in error.hint
    assert no_scores(Path("runs/x"), []).hint == "raise the budget"


def test_weighted_picks_and_those_that_are_none(tmp_path: Path) -> None:
    front = summarise(*simulated_run(tmp_path))
    first, second, _ = front.members
    first = replace(first, believed={"a": Estimate(0.9, 0.0, 0), "b": Estimate(0.1, 0.0, 0)})
    second = replace(second, believed={"a": Estimate(0.6, 0.0, 0), "b": Estimate(0.5, 0.0, 0)})
    front = replace(front, members=(first, second), objectives=("a", "b"), candidates=9)
    path = Path("x")
    assert resolve_pick(front, "weighted:a=3,b=1", path) == 1
    assert resolve_pick(front, "weighted:a=1,b=1", path) == 2
    assert resolve_pick(front, "8", path) == 8
    for wrong in ("weighted:a", "weighted:c=1", "weighted:a=-1", "weighted:a=inf", "weighted:"):
        with pytest.raises(UserError, match="is no weight of an objective"):
            resolve_pick(front, wrong, path)
    with pytest.raises(RunError, match="there is no pick '9'"):
        resolve_pick(front, "9", path)
