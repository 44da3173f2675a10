"""Every sampler by name: the contract, constraints, what is refused, and how `auto` chooses."""

from __future__ import annotations

from typing import get_args

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergefront.config import SamplerName
from mergefront.errors import UserError
from mergefront.sampling import AUTO, SAMPLERS, Problem, choose_sampler, make_sampler
from mergefront.sampling.replay import compact, expand
from sampler_contract import SamplerContract, objectives, points, run, suggest


class TestComoCma(SamplerContract):
    name = "como-cma"
    trials = 45  # some generations of each kernel


class TestScalarCma(SamplerContract):
    name = "cma"
    trials = 45


class TestNoisyGp(SamplerContract):
    name = "noisy-gp"
    trials = 20  # 10 of the design, then the model


class TestNsga2(SamplerContract):
    name = "nsga2"
    trials = 45  # three generations


class TestNsga3(SamplerContract):
    name = "nsga3"
    trials = 45


@pytest.mark.slow
class TestTpe(SamplerContract):
    name = "tpe"
    trials = 20  # Optuna starts to model after 10


@pytest.mark.slow
class TestGp(SamplerContract):
    name = "gp"
    dimension = 1  # more are slow, and so are trials in flight
    together = 4
    trials = 14  # Optuna starts to model after 10 that did not fail


class TestQmc(SamplerContract):
    name = "qmc"

    def test_it_fills_the_box_evenly(self) -> None:
        study = optuna.create_study(directions=["maximize"] * 2, sampler=self.new())
        run(study, self.dimension, 64)
        eighths = np.floor(8 * np.array(points(study))).astype(int)
        for of_knob in eighths.T:
            assert np.bincount(of_knob, minlength=8).tolist() == [8] * 8


class TestRandom(SamplerContract):
    name = "random"

    def test_it_fills_the_box_evenly(self) -> None:
        study = optuna.create_study(directions=["maximize"] * 2, sampler=self.new())
        run(study, self.dimension, 400)
        low, middle, high = np.quantile(np.array(points(study)), [0.05, 0.5, 0.95])
        assert low == pytest.approx(0.05, abs=0.02)
        assert middle == pytest.approx(0.5, abs=0.03)
        assert high == pytest.approx(0.95, abs=0.02)


def test_every_sampler_has_a_contract_and_a_name_in_the_configuration() -> None:
    assert {c.name for c in SamplerContract.__subclasses__()} == set(SAMPLERS)
    assert set(get_args(SamplerName)) == {*SAMPLERS, AUTO}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dimension", "trials"),
    [
        ("noisy-gp", 3, 36),
        ("como-cma", 3, 120),
        ("cma", 3, 120),
        ("nsga2", 3, 120),
        ("nsga3", 3, 120),
        ("tpe", 3, 60),
        ("gp", 1, 18),
    ],
)
def test_constraints_draw_proposals_to_what_meets_them(
    name: str, dimension: int, trials: int
) -> None:
    least = 0.86  # of perception: within 0.2 of 0.1 in every knob
    met: list[float] = []
    for constraints in ([None, least], None):
        study = optuna.create_study(directions=["maximize"] * 2)
        study.sampler = make_sampler(
            name, Problem(dimension=dimension, seed=0, start=[0.5] * dimension, n_objectives=2,
            reference=(0.5, 0.5), constraints=constraints,
        ))  # fmt: skip
        for _ in range(trials):
            trial = study.ask()
            study.tell(trial, objectives(suggest(trial, dimension)))
        late = [trial.values[1] for trial in study.trials[trials // 2 :]]
        met.append(float(np.mean(np.array(late) >= least)))
    assert met[0] > met[1] + 0.15


@pytest.mark.parametrize("name", ["qmc", "random"])
def test_samplers_that_know_no_scores_ignore_constraints(name: str) -> None:
    found = []
    for constraints in ([0.9, None], None):
        study = optuna.create_study(directions=["maximize"] * 2)
        study.sampler = make_sampler(
            name,
            Problem(dimension=3, seed=1, start=[0.5] * 3, n_objectives=2, constraints=constraints),
        )
        run(study, 3, 12)
        found.append(points(study))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"name": "cmaes"},
            "no sampler 'cmaes'\nhint: samplers are noisy-gp, como-cma, cma, nsga2",
        ),
        ({"name": "auto"}, "sampler 'auto' is a choice to be made, not a sampler\nhint: ask "),
        ({"dimension": 0}, "0 knobs, 2 objectives"),
        ({"n_objectives": 5}, "2 knobs, 5 objectives"),
        ({"seed": -1}, "seed -1"),
        ({"start": [0.5]}, r"the start is no point in \[0, 1\]\^2"),
        ({"start": [0.5, 1.1]}, r"the start is no point in \[0, 1\]\^2"),
        ({"reference": [0.1]}, "a reference of 1 values for 2 objectives"),
        ({"constraints": [0.1]}, "1 constraints for 2 objectives\nhint: one least value for each"),
        ({"constraints": [None, np.nan]}, "the least value of objective 2 is nan"),
    ],
)
def test_what_a_sampler_refuses(change: dict[str, object], message: str) -> None:
    legal = {"dimension": 2, "seed": 0, "start": [0.5, 0.5], "n_objectives": 2}
    fields = {**legal, **change}
    name = str(fields.pop("name", "tpe"))
    with pytest.raises(UserError, match=message):
        make_sampler(name, Problem(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dimension", "candidates", "n_objectives", "name", "reason"),
    [
        (4, 9, 2, "qmc", "9 candidates are too few"),  # 9 of the design, then the model
        (4, 10, 2, "noisy-gp", "with 4 and 8 knobs"),
        (8, 100, 3, "noisy-gp", "with 3 objectives its lead was within noise"),
        (200, 16, 2, "qmc", "16 candidates are too few"),
        (64, 100, 2, "noisy-gp", "fewer than your 64 knobs would"),
        (4, 100, 4, "noisy-gp", "4 objectives were not measured"),
    ],
)
def test_auto_chooses_by_what_was_measured(
    dimension: int, candidates: int, n_objectives: int, name: str, reason: str
) -> None:
    found = choose_sampler(dimension, candidates, n_objectives)
    assert found.name == name
    assert reason in found.reason
    sampler = make_sampler(
        found.name,
        Problem(dimension=dimension, seed=0, start=[0.5] * dimension, n_objectives=n_objectives),
    )
    study = optuna.create_study(directions=["maximize"] * n_objectives, sampler=sampler)
    assert len(suggest(study.ask(), dimension)) == dimension


@pytest.mark.parametrize("wrong", [(0, 10, 2), (4, 0, 2), (4, 10, 5)])
def test_auto_refuses_what_no_sampler_can_do(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(
        UserError, match=r"sampler auto: \d+ knobs, .* objectives\nhint: at least 1"
    ):
        choose_sampler(*wrong)


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), unique=True))
def test_recorded_tells_can_be_read_back(numbers: list[int]) -> None:
    assert expand(compact(numbers)) == numbers


def test_recorded_tells_are_short() -> None:
    assert compact([*range(200), 201, 200, *range(202, 400)]) == "0-199,201,200,202-399"
