"""Laws 6 and 7 of a sampler, as a suite that every one of them inherits.

A subclass says which sampler it is and how many trials it takes until all of its code has run.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest

from mergefront.errors import RunError
from mergefront.runs.study import finished, open_study
from mergefront.sampling import Problem, ReplaySampler, make_sampler, pending
from mergefront.sampling.replay import TELLS, expand

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
    """What every sampler promises; a subclass says which sampler it is."""

    name: str
    dimension = 5
    trials = 30
    together = 8  # trials asked at once after some were told

    def new(
        self,
        seed: int = 7,
        dimension: int | None = None,
        n_objectives: int = 2,
        constraints: Sequence[float | None] | None = None,
    ) -> ReplaySampler:
        dimension = dimension or self.dimension
        return make_sampler(
            self.name,
            Problem(
                dimension=dimension,
                seed=seed,
                start=[0.5] * dimension,
                n_objectives=n_objectives,
                reference=REFERENCE if n_objectives == 2 else None,
                constraints=constraints,
            ),
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
            assert isinstance(study.sampler, ReplaySampler)
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

    def test_working_ahead_changes_no_proposal(self, tmp_path: Path) -> None:
        plain = self.begin(tmp_path / "plain")
        run(plain, self.dimension, 14)
        early = self.begin(tmp_path / "early")
        while len(early.get_trials(deepcopy=False)) < 14 or waiting(early):
            trial = early.ask()
            point = suggest(trial, self.dimension)
            assert isinstance(early.sampler, ReplaySampler)
            early.sampler.compute_next_ahead(early)
            tell(early, trial, point)
        assert points(early) == points(plain)

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
        told = [*range(12), 15, 12, 17, 13]
        assert [t.number for t in finished(again)][: len(told)] == told
        late = trial.number - 1 if self.new()._proposer.beside else trial.number
        assert seen == [number for number in told if number < late]
        assert [t.number for t in pending(again)] == [14, 16, 18]

    def test_a_proposal_depends_on_the_run_seed(self, tmp_path: Path) -> None:
        first, second = self.begin(tmp_path / "a", seed=1), self.begin(tmp_path / "b", seed=2)
        for study in (first, second):
            run(study, self.dimension, len(WARM) + 1)
        assert points(first)[-1] != points(second)[-1]

    def test_numpys_global_generator_is_left_alone(self, tmp_path: Path) -> None:
        np.random.seed(3)
        before = np.random.get_state()[1].copy()  # type: ignore[index]
        run(self.begin(tmp_path / "j"), self.dimension, 14)
        after = np.random.get_state()[1]  # type: ignore[index]
        assert (before == after).all()

    @pytest.mark.parametrize("dimension", [1, 2, 60])
    def test_any_dimension(self, dimension: int) -> None:
        study = optuna.create_study(
            directions=["maximize"] * 2, sampler=self.new(dimension=dimension)
        )
        trials = min(18, self.trials)
        run(study, dimension, trials)
        found = np.array(points(study))
        assert found.shape == (trials, dimension)
        assert ((found >= 0) & (found <= 1)).all()

    @pytest.mark.parametrize("n_objectives", [1, 3, 4])
    def test_other_numbers_of_objectives(self, n_objectives: int) -> None:
        study = optuna.create_study(directions=["maximize"] * n_objectives)
        study.sampler = self.new(n_objectives=n_objectives)
        trials = self.trials - 2  # two fewer, since none fails
        for _ in range(trials):
            trial = study.ask()
            x = np.array(suggest(trial, self.dimension))
            study.tell(trial, [float(1 - ((x - m / 4) ** 2).sum()) for m in range(n_objectives)])
        found = np.array(points(study))
        assert found.shape == (trials, self.dimension)
        assert ((found >= 0) & (found <= 1)).all()
        assert len(np.unique(found, axis=0)) > 0.8 * trials  # evolution may breed a twin

    @pytest.mark.parametrize("told", [0, 13])
    def test_trials_asked_together_get_points_of_their_own(self, told: int) -> None:
        study = optuna.create_study(directions=["maximize"] * 2, sampler=self.new())
        run(study, self.dimension, told)
        together = self.together if told else 8
        batch = np.array([suggest(study.ask(), self.dimension) for _ in range(together)])
        apart = np.abs(batch[:, None] - batch[None]).max(axis=2) + np.eye(together)
        assert apart.min() > 1e-3

    def test_only_unit_floats_and_no_more_than_the_space_has(self) -> None:
        study = optuna.create_study(directions=["maximize"] * 2, sampler=self.new(dimension=1))
        trial = study.ask()
        with pytest.raises(RunError, match="parameter bad has FloatDistribution"):
            trial.suggest_float("bad", 0.0, 2.0)
        trial.suggest_float("k0", 0.0, 1.0)
        with pytest.raises(RunError, match="k1, number 2 of a space with 1 knobs"):
            trial.suggest_float("k1", 0.0, 1.0)
