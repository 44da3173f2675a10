"""Laws 6 and 7: a contract that every sampler inherits, and what is special to como-cma."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergefront.errors import RunError, UserError
from mergefront.ledger import finished, open_study
from mergefront.pareto import hypervolume
from mergefront.propose import SAMPLERS, make_sampler, pending
from mergefront.propose.como_cma import ComoCmaProposer, uncrowded_improvement
from mergefront.propose.kernel import Kernel
from mergefront.propose.noisy_gp import NoisyGpProposer, improvements, pool
from mergefront.propose.replay import TELLS, Tell, compact, expand, standard_errors
from mergefront.records import RESULT
from mergefront.surrogate import DEFAULT_ERROR

REFERENCE = (0.2, 0.3)
WARM = (0.0, 0.3, 0.6)


def objectives(point: Sequence[float]) -> list[float]:
    """Two concave quadratics that pull apart: one peaks at 0.7 everywhere, one at 0.1."""
    x = np.asarray(point)
    weights = np.linspace(0.5, 1.5, len(x)) / len(x)
    return [float(0.9 - weights @ (x - 0.7) ** 2), float(0.9 - weights @ (x - 0.1) ** 2)]


def suggest(trial: optuna.Trial, dimension: int) -> list[float]:
    return [trial.suggest_float(f"k{i}", 0.0, 1.0) for i in range(dimension)]


def tell(study: optuna.Study, trial: optuna.Trial, point: Sequence[float]) -> None:
    """Trials 4, 9 and every 10th after fail, as real ones now and then do."""
    if trial.number % 10 == 9 or trial.number == 4:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial, objectives(point))


def run(study: optuna.Study, dimension: int, until: int) -> None:
    while len(study.get_trials(deepcopy=False)) < until or waiting(study):
        trial = study.ask()
        tell(study, trial, suggest(trial, dimension))


def waiting(study: optuna.Study) -> bool:
    states = (optuna.trial.TrialState.WAITING,)
    return bool(study.get_trials(deepcopy=False, states=states))


def points(study: optuna.Study) -> list[tuple[float, ...]]:
    return [tuple(t.params.values()) for t in study.get_trials(deepcopy=False)]


class SamplerContract:
    """What DESIGN.md promises of every sampler; a subclass says which."""

    name: str
    dimension = 5
    trials = 30

    def new(self, seed: int = 7, dimension: int | None = None) -> optuna.samplers.BaseSampler:
        dimension = dimension or self.dimension
        return make_sampler(
            self.name,
            dimension=dimension,
            seed=seed,
            start=[0.5] * dimension,
            n_objectives=2,
            reference=REFERENCE,
        )

    def open(self, path: Path, seed: int = 7, *, create: bool = True) -> optuna.Study:
        study = open_study(path, name="s", n_objectives=2, create=create)
        study.sampler = self.new(seed)
        return study

    def begin(self, path: Path, seed: int = 7) -> optuna.Study:
        study = self.open(path, seed)
        for value in WARM:
            study.enqueue_trial({f"k{i}": value for i in range(self.dimension)})
        return study

    def test_proposals_lie_in_the_box_and_warm_starts_come_first(self, tmp_path: Path) -> None:
        study = self.begin(tmp_path / "j")
        run(study, self.dimension, self.trials)
        found = np.array(points(study))
        assert found.shape == (self.trials, self.dimension)
        assert (found >= 0).all()
        assert (found <= 1).all()
        assert found[: len(WARM)].tolist() == [[value] * self.dimension for value in WARM]

    def test_a_reloaded_study_proposes_the_same_at_every_cut(self, tmp_path: Path) -> None:
        undisturbed = self.begin(tmp_path / "whole")
        run(undisturbed, self.dimension, self.trials)
        study = self.begin(tmp_path / "cut")
        for cut in range(1, self.trials + 1):
            study = self.open(tmp_path / "cut", create=False)
            trial = study.ask()
            tell(study, trial, suggest(trial, self.dimension))
            assert points(study)[:cut] == points(undisturbed)[:cut], f"cut at {cut}"

    def test_asking_in_one_write_gives_the_same_trials(self, tmp_path: Path) -> None:
        undisturbed = self.begin(tmp_path / "whole")
        run(undisturbed, self.dimension, self.trials)
        study = self.begin(tmp_path / "at-once")
        names = [f"k{i}" for i in range(self.dimension)]
        for _ in range(self.trials):
            trial = study.sampler.ask(study, names)
            tell(study, trial, suggest(trial, self.dimension))
        assert points(study) == points(undisturbed)
        seen = [[t.system_attrs[TELLS] for t in s.trials] for s in (study, undisturbed)]
        assert seen[0] == seen[1]

    def test_a_trial_in_flight_keeps_number_point_and_what_it_saw(self, tmp_path: Path) -> None:
        undisturbed = self.begin(tmp_path / "whole")
        run(undisturbed, self.dimension, self.trials)
        study = self.begin(tmp_path / "killed")
        for number in range(self.trials):
            trial = study.ask()
            for i in range(number % (self.dimension + 1)):  # killed between two suggestions
                trial.suggest_float(f"k{i}", 0.0, 1.0)
            study = self.open(tmp_path / "killed", create=False)
            (resumed,) = pending(study)
            assert resumed.number == number
            tell(study, resumed, suggest(resumed, self.dimension))
            assert not pending(study)
        assert points(study) == points(undisturbed)

    def test_the_order_of_tells_is_seen_and_kept_on_reload(self, tmp_path: Path) -> None:
        study = self.begin(tmp_path / "j")
        run(study, self.dimension, 12)
        batch = [study.ask() for _ in range(6)]
        asked = [suggest(trial, self.dimension) for trial in batch]
        for index in (3, 0, 5, 1):
            tell(study, batch[index], asked[index])
        shutil.copy(tmp_path / "j", tmp_path / "copy")
        trial = study.ask()
        again = self.open(tmp_path / "copy", create=False)
        other = again.ask()
        assert suggest(other, self.dimension) == suggest(trial, self.dimension)
        seen = expand(study.trials[trial.number].system_attrs[TELLS])
        assert seen == [t.number for t in finished(again)][: len(seen)]
        assert seen == [*range(12), 15, 12, 17, 13]
        assert [t.number for t in pending(again)] == [14, 16, 18]

    def test_a_proposal_depends_on_the_run_seed(self, tmp_path: Path) -> None:
        first, second = self.begin(tmp_path / "a", seed=1), self.begin(tmp_path / "b", seed=2)
        for study in (first, second):
            run(study, self.dimension, len(WARM) + 1)
        assert points(first)[-1] != points(second)[-1]

    def test_numpys_global_generator_is_left_alone(self, tmp_path: Path) -> None:
        np.random.seed(3)
        before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
        run(self.begin(tmp_path / "j"), self.dimension, 14)
        after = np.random.get_state()[1]  # type: ignore[index]
        assert (before == after).all()

    @pytest.mark.parametrize("dimension", [1, 2, 60])
    def test_any_dimension(self, dimension: int) -> None:
        study = optuna.create_study(
            directions=["maximize"] * 2, sampler=self.new(dimension=dimension)
        )
        run(study, dimension, 18)
        found = np.array(points(study))
        assert found.shape == (18, dimension)
        assert ((found >= 0) & (found <= 1)).all()

    def test_only_unit_floats_and_no_more_than_the_space_has(self) -> None:
        study = optuna.create_study(directions=["maximize"] * 2, sampler=self.new(dimension=1))
        trial = study.ask()
        with pytest.raises(RunError, match="parameter bad has FloatDistribution"):
            trial.suggest_float("bad", 0.0, 2.0)
        trial.suggest_float("k0", 0.0, 1.0)
        with pytest.raises(RunError, match="k1, number 2 of a space with 1 knobs"):
            trial.suggest_float("k1", 0.0, 1.0)


class TestComoCma(SamplerContract):
    name = "como-cma"
    trials = 45  # some generations of each kernel

    def test_all_failures_and_no_reference_are_survived(self) -> None:
        sampler = make_sampler(
            self.name, dimension=3, seed=0, start=[0.5] * 3, n_objectives=2, reference=None
        )
        study = optuna.create_study(directions=["maximize"] * 2, sampler=sampler)
        for number in range(90):
            trial = study.ask()
            point = suggest(trial, 3)
            if number < 50:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, objectives(point))
        assert np.isfinite(points(study)).all()

    @pytest.mark.parametrize("n_objectives", [1, 3, 4])
    def test_other_numbers_of_objectives(self, n_objectives: int) -> None:
        sampler = make_sampler(
            self.name, dimension=4, seed=0, start=[0.5] * 4, n_objectives=n_objectives
        )
        study = optuna.create_study(directions=["maximize"] * n_objectives, sampler=sampler)
        for _ in range(80):
            trial = study.ask()
            x = np.array(suggest(trial, 4))
            study.tell(trial, [float(1 - ((x - m / 4) ** 2).sum()) for m in range(n_objectives)])
        values = np.array([t.values for t in study.trials])
        assert values[40:].max(axis=0).min() >= values[:20].max(axis=0).min()

    def test_it_learns_in_five_hundred_dimensions(self) -> None:
        proposer = ComoCmaProposer(
            dimension=500, seed=0, start=[0.5] * 500, n_objectives=2, reference=(0.3, 0.3)
        )
        tells: list[Tell] = []
        for number in range(400):
            point = tuple(proposer.propose(tells, number).tolist())
            tells.append(Tell(number, point, tuple(objectives(point)), True))
        values = np.array([tell.values for tell in tells])
        assert hypervolume(values, (0.6, 0.6)) > 1.08 * hypervolume(values[:24], (0.6, 0.6))

    def test_it_writes_no_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        study = optuna.create_study(directions=["maximize"] * 2, sampler=self.new())
        run(study, self.dimension, 40)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("dimension", [6, 14])
    def test_it_covers_more_than_random_search_and_nsga2(self, dimension: int) -> None:
        def covered(name: str, seed: int) -> float:
            sampler = make_sampler(
                name, dimension=dimension, seed=seed, start=[0.5] * dimension, n_objectives=2
            )
            study = optuna.create_study(directions=["maximize"] * 2, sampler=sampler)
            for value in WARM:
                study.enqueue_trial({f"k{i}": value for i in range(dimension)})
            run(study, dimension, 120)
            values = [t.values for t in study.get_trials(deepcopy=False) if t.values is not None]
            return hypervolume(values, (0.5, 0.5))

        found = {n: [covered(n, s) for s in range(3)] for n in ("como-cma", "nsga2", "random")}
        assert min(found["como-cma"]) > max(found["random"])
        assert np.mean(found["como-cma"]) > np.mean(found["nsga2"])


class TestNoisyGp(SamplerContract):
    name = "noisy-gp"
    trials = 23  # 15 of the design, then the model

    def proposer(self, dimension: int = 4, **change: object) -> NoisyGpProposer:
        legal = {"dimension": dimension, "seed": 0, "n_objectives": 2, "reference": REFERENCE}
        return NoisyGpProposer(**{**legal, **change})  # type: ignore[arg-type]

    def tells(self, n: int, dimension: int = 4, error: float = 0.03, shift: int = 0) -> list[Tell]:
        random = np.random.default_rng(5)
        found = []
        for i in range(n):
            point = tuple(random.random(dimension).tolist())
            noise = error * random.standard_normal(2)
            values = tuple((np.array(objectives(point)) + noise).tolist())
            found.append(Tell(i + shift, point, values, True, (error, error)))
        return found

    def test_the_design_fills_the_box_evenly(self) -> None:
        proposer = self.proposer(dimension=12)
        design = np.array([proposer.propose([], number) for number in range(16)])
        halves = (design < 0.5).sum(axis=0)
        assert (halves == 8).all()  # Sobol: each half of each knob equally often

    def test_failures_alone_continue_the_design(self) -> None:
        failed = [Tell(i, (0.1 * i, 0.5), None, True) for i in range(9)]
        found = self.proposer(dimension=2).propose(failed, 9)
        assert found.tolist() == self.proposer(dimension=2).propose([], 9).tolist()
        found = self.proposer(dimension=2, reference=None).propose(failed, 40)
        assert ((found >= 0) & (found <= 1)).all()

    def test_trials_in_flight_get_points_of_their_own(self) -> None:
        proposer, tells = self.proposer(), self.tells(30)
        batch = np.array([proposer.propose(tells, 30 + i) for i in range(6)])
        assert len(np.unique(batch, axis=0)) == 6
        anew = [self.proposer().propose(tells, 30 + i) for i in reversed(range(6))]
        assert (batch == np.array(anew[::-1])).all()

    def test_standard_errors_are_read_and_matter(self) -> None:
        proposals = []
        for errors in ((0.002, 0.004), (0.2, 0.2), (DEFAULT_ERROR,) * 2, None):
            study = optuna.create_study(directions=["maximize"] * 2, sampler=self.new(dimension=2))
            for number in range(10):
                trial = study.ask()
                point = suggest(trial, 2)
                if errors is not None:
                    se = dict(zip(("reasoning", "perception"), errors, strict=True))
                    trial.set_user_attr(RESULT, {"se": se})
                study.tell(trial, objectives(point))
                assert standard_errors(study.trials[number]) == errors
            proposals.append(suggest(study.ask(), 2))
        assert proposals[0] != proposals[1]
        assert proposals[2] == proposals[3]

    def test_two_hundred_knobs(self) -> None:
        found = np.array([self.proposer(200).propose(self.tells(60, 200), 60 + i) for i in (0, 0)])
        assert found.shape == (2, 200)
        assert ((found >= 0) & (found <= 1)).all()
        assert (found[0] == found[1]).all()

    @pytest.mark.parametrize("n_objectives", [1, 3, 4])
    def test_other_numbers_of_objectives(self, n_objectives: int) -> None:
        def values(x: np.ndarray) -> tuple[float, ...]:  # type: ignore[type-arg]
            return tuple(float(1 - ((x - m / 4) ** 2).mean()) for m in range(n_objectives))

        proposer = self.proposer(n_objectives=n_objectives, reference=None)
        tells: list[Tell] = []
        for number in range(30):
            x = proposer.propose(tells, number)
            tells.append(Tell(number, tuple(x.tolist()), values(x), True, (0.01,) * n_objectives))
        found = [tell.values for tell in tells]
        design = [values(proposer.propose([], number)) for number in range(30)]
        low = [0.7] * n_objectives
        assert found[:13] == design[:13]
        assert hypervolume(found, low) > 1.1 * hypervolume(design, low)

    def test_it_covers_more_than_random_search_under_noise(self) -> None:
        def covered(name: str, seed: int) -> float:
            random = np.random.default_rng(seed)
            study = optuna.create_study(directions=["maximize"] * 2)
            study.sampler = make_sampler(
                name, dimension=6, seed=seed, start=[0.5] * 6, n_objectives=2, reference=(0.5, 0.5)
            )
            true = []
            for _ in range(40):
                trial = study.ask()
                true.append(objectives(suggest(trial, 6)))
                trial.set_user_attr(RESULT, {"se": {"a": 0.03, "b": 0.03}})
                study.tell(trial, (np.array(true[-1]) + random.normal(0, 0.03, 2)).tolist())
            return hypervolume(true, (0.5, 0.5))

        found = {n: [covered(n, s) for s in range(3)] for n in ("noisy-gp", "random")}
        assert min(found["noisy-gp"]) > max(found["random"])

    def test_it_leaves_a_cliff_alone(self) -> None:
        fell: list[list[bool]] = []
        for seed in range(2):
            proposer, tells = self.proposer(dimension=3, seed=seed), list[Tell]()
            for number in range(41):
                x = proposer.propose(tells, number)
                values = (0.02, 0.05) if x.mean() > 0.5 else tuple(objectives(x.tolist()))
                tells.append(Tell(number, tuple(x.tolist()), values, True, (0.01, 0.01)))
            fell.append([tell.values == (0.02, 0.05) for tell in tells])
        design, later = np.array(fell)[:, :11], np.array(fell)[:, 21:]
        assert design.mean() > 0.4
        assert later.mean() < 0.5 * design.mean()  # the front ends at the cliff's edge

    def test_the_kernel_sees_the_features(self) -> None:
        seen: list[tuple[int, ...]] = []

        def profile(points_ND: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
            seen.append(points_ND.shape)
            return points_ND @ np.ones((4, 9)) / 4

        tells = self.tells(20)
        plain = self.proposer().propose(tells, 20)
        same = self.proposer(features=lambda points_ND: points_ND).propose(tells, 20)
        other = self.proposer(features=profile).propose(tells, 20)
        assert plain.tolist() == same.tolist() != other.tolist()
        assert {shape[1] for shape in seen} == {4}

    def test_what_was_told_is_not_proposed_again(self) -> None:
        front = np.zeros((1, 2))  # most steps from a corner end in the corner
        corner = (pool(front, np.random.default_rng(0)) == 0).all(axis=1)
        assert corner.sum() > 20
        peak = lambda x: (0.9 - x[0] - x[1], 0.9 - 2 * x[0] - x[1])  # noqa: E731
        points = [(0.0, 0.0), (0.5, 0.5), (0.0, 1.0), (1.0, 0.0), (0.3, 0.1), (0.1, 0.3)]
        tells = [Tell(i, p, peak(p), True, (0.002, 0.002)) for i, p in enumerate(points)]
        proposer = self.proposer(dimension=2, reference=(-3.0, -3.0))
        found = [proposer.propose(tells, number).tolist() for number in range(9, 29)]
        assert [0.0, 0.0] not in found
        assert min(max(point) for point in found) < 0.1


class TestNsga2(SamplerContract):
    name = "nsga2"
    trials = 45  # three generations


class TestTpe(SamplerContract):
    name = "tpe"
    trials = 20  # Optuna starts to model after 10


class TestRandom(SamplerContract):
    name = "random"

    def test_it_fills_the_box_evenly(self) -> None:
        study = optuna.create_study(directions=["maximize"] * 2, sampler=self.new())
        run(study, self.dimension, 400)
        low, middle, high = np.quantile(np.array(points(study)), [0.05, 0.5, 0.95])
        assert low == pytest.approx(0.05, abs=0.02)
        assert middle == pytest.approx(0.5, abs=0.03)
        assert high == pytest.approx(0.95, abs=0.02)


def test_every_sampler_has_a_contract() -> None:
    assert {c.name for c in SamplerContract.__subclasses__()} == set(SAMPLERS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "cmaes"}, "no sampler 'cmaes'\nhint: samplers are como-cma, nsga2, tpe, random"),
        ({"dimension": 0}, "0 knobs, 2 objectives"),
        ({"n_objectives": 5}, "2 knobs, 5 objectives"),
        ({"seed": -1}, "seed -1"),
        ({"start": [0.5]}, r"the start is no point in \[0, 1\]\^2"),
        ({"start": [0.5, 1.1]}, r"the start is no point in \[0, 1\]\^2"),
        ({"reference": [0.1]}, "a reference of 1 values for 2 objectives"),
    ],
)
def test_what_a_sampler_refuses(change: dict[str, object], message: str) -> None:
    legal = {"name": "tpe", "dimension": 2, "seed": 0, "start": [0.5, 0.5], "n_objectives": 2}
    with pytest.raises(UserError, match=message):
        make_sampler(**{**legal, **change})  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), unique=True))
def test_recorded_tells_can_be_read_back(numbers: list[int]) -> None:
    assert expand(compact(numbers)) == numbers


def test_recorded_tells_are_short() -> None:
    assert compact([*range(200), 201, 200, *range(202, 400)]) == "0-199,201,200,202-399"


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_uncrowded_improvement_is_volume_added_or_distance_to_adding(
    front: list[tuple[float, float]], point: tuple[float, float]
) -> None:
    reference = (0.25, 0.25)
    added = hypervolume([*front, point], reference) - hypervolume(front, reference)
    found = uncrowded_improvement(point, front, reference)
    if found > 0:
        assert found == pytest.approx(added, abs=1e-9)
    else:
        assert added == pytest.approx(0, abs=1e-9)
        if found < 0:  # moving up by the distance in both objectives must be enough to add
            moved = [value - found + 1e-6 for value in point]
            assert uncrowded_improvement(moved, front, reference) > 0


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 4), st.integers(1, 6), st.integers(0, 10_000))
def test_improvements_are_volume_added_or_distance_to_adding(m: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    front, points, reference = random.random((k, m)), random.random((7, m)), np.full(m, 0.25)
    found = improvements(points, front, reference)
    volume = hypervolume(front, reference)
    for point, worth in zip(points, found, strict=True):
        added = hypervolume(np.vstack([front, point]), reference) - volume
        assert max(worth, 0.0) == pytest.approx(added, abs=1e-12)
        if worth < 0:  # raised by so much and a little more, it adds; by a little less, it does not
            assert improvements(point[None] - worth + 1e-9, front, reference)[0] > 0
            assert improvements(point[None] - worth - 1e-9, front, reference)[0] < 0


def test_improvement_of_one_objective_is_the_rise() -> None:
    found = improvements(np.array([[0.5], [0.7], [0.1]]), np.array([[0.6], [0.3]]), np.array([0.2]))
    assert found == pytest.approx([-0.1, 0.1, -0.5])


def test_a_kernel_draws_without_changing_and_learns_towards_the_better() -> None:
    rng = np.random.default_rng
    kernel = Kernel([0.5, 0.5, 0.5], 0.2, population=6)
    first = kernel.draw(rng(1))
    assert (kernel.draw(rng(2)) != first).all()
    assert (kernel.draw(rng(1)) == first).all()
    target = np.array([0.8, 0.1, 0.6])
    for generation in range(30):
        batch = [kernel.draw(rng([generation, i])) for i in range(6)]
        kernel.tell([b.tolist() for b in batch], [-float(((b - target) ** 2).sum()) for b in batch])
    assert np.mean([kernel.draw(rng(i)) for i in range(50)], axis=0) == pytest.approx(
        target, abs=0.05
    )
