"""A search whose space gets more knots on the way: versions, one trajectory, recipes as scored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml

from fixtures_cli import ZOO_RUN, Command, runner
from fixtures_recipes import receiver_groups
from fixtures_search import OBJECTIVES, REFERENCE, simulated_search
from fixtures_space import DONORS, space
from mergefront.config import RunConfig, validate
from mergefront.errors import SpaceError
from mergefront.jobs import conclude
from mergefront.merging.recipe import Recipe
from mergefront.records import REFINEMENT, Evaluation
from mergefront.runs import compare
from mergefront.runs.belief import believe
from mergefront.runs.directory import RunDirectory
from mergefront.runs.earlier import read_earlier
from mergefront.runs.history import evaluations, open_study
from mergefront.runs.reopen import models_of, run_space
from mergefront.runs.status import status_of
from mergefront.runs.versions import Versions, check_refinable, refine
from mergefront.sampling import SAMPLERS, ReplaySampler, make_sampler
from mergefront.sampling.gp import posterior
from mergefront.sampling.replay import carried_points
from mergefront.search import finish, stopping
from mergefront.search.loop import Search
from mergefront.search.setup import assemble
from mergefront.search.stopping import EVERY, Exhaustion
from mergefront.space.space import Space, SpaceSpec

SPACE = {
    "method": "task_arithmetic",
    "knobs": [
        {
            "donors": "each",
            "parts": ["attention", "mlp"],
            "layers": {"knots": 2},
            "low": 0,
            "high": 1,
        },
        {"donors": "tied", "parts": ["norm"], "low": 0.0, "high": 1.0},
    ],
    "frozen": ["embedding", "head"],
}
LAST = 18
CONFIG: dict[str, Any] = {
    **ZOO_RUN,
    "items": {"search": 16, "validation": 16, "test": 16},
    "budget": {"candidates": LAST},
    "search": {"sampler": "noisy-gp", "refine": "exhausted"},
    "report": {"finalists": 12, "blind": False},
    "engine": {"kind": "transformers", "dtype": "float32", "threads": 1},
}


class Killed(BaseException):
    """What nothing but the test catches."""


def begin(folder: Path) -> Search:
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    config = {**CONFIG, "space": str(folder / "space.yaml")}
    return assemble(validate(config, RunConfig, "run.yaml"), folder)


def end(opened: Search) -> RunDirectory:
    opened.receiver("search")
    tracker = conclude.open_tracker(opened.run, lambda: opened.versions, [])
    for _ in opened.candidates():
        pass
    for _ in finish.finish(opened):
        pass
    opened.close_engine()
    list(conclude.conclude(opened.run, opened.study, tracker, print))
    opened.close()
    return opened.run


@contextmanager
def eagerly() -> Iterator[pytest.MonkeyPatch]:
    """Any model of six candidates is trusted, and every knot is exhausted at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posterior, "TRUSTED_FROM", 6)
        patch.setattr(posterior.Posterior, "misfits", (False, False))
        patch.setattr(stopping, "EXHAUSTED", 1e9)
        patch.setattr(stopping, "EVERY", 2)
        yield patch


@pytest.fixture
def eager() -> Iterator[pytest.MonkeyPatch]:
    with eagerly() as patch:
        yield patch


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run that was refined after some of its LAST candidates."""
    with eagerly():
        return end(begin(tmp_path_factory.mktemp("refined")))


def found_in(run: RunDirectory) -> list[Evaluation]:
    return evaluations(open_study(run), run)


def trajectory(run: RunDirectory) -> list[tuple[object, ...]]:
    """What a search did; that members were completed afterwards is no part of it."""
    trials = open_study(run).get_trials(deepcopy=False)
    return [
        (e.number, e.version, e.point, e.place, e.raced.left, trials[e.number].values)
        for e in found_in(run)
    ]


def refined_after(run: RunDirectory) -> int:
    return int(open_study(run).user_attrs[REFINEMENT]["after"])


def versions_of(run: RunDirectory) -> Versions:
    return Versions.read(run_space(run)[0], open_study(run))


def test_a_run_is_refined_once_and_each_trial_says_its_version(run: RunDirectory) -> None:
    versions, found, after = versions_of(run), found_in(run), refined_after(run)
    assert 10 <= after <= 13
    assert [e.version for e in found] == [0] * after + [1] * (LAST - after)
    assert [one.dimension for one in versions.spaces] == [5, 7]
    trials = open_study(run).get_trials(deepcopy=False)
    for trial, e in zip(trials, found, strict=True):
        assert list(trial.params) == versions.names(e.version)
        assert all(name.startswith("v1.") == bool(e.version) for name in trial.params)
        assert len(e.place) == 7
    new = [e.place for e in found if e.version]
    old = [e.place for e in found if not e.version]
    assert len({*new, *old}) == LAST
    coarse = np.array([versions.spaces[0].embed(e.point, versions.finest) for e in found[:after]])
    np.testing.assert_array_equal(coarse, old)
    line = np.array([[p[0] + p[2] - 2 * p[1], p[3] + p[5] - 2 * p[4]] for p in new])
    assert (np.abs(line) > 1e-3).any(axis=1).sum() >= len(new) - 1  # no straight lines


def test_killed_again_and_again_it_ends_as_if_undisturbed(
    run: RunDirectory, eager: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In mid-candidate before and after the refinement, and just as it has been written down."""
    after = refined_after(run)
    moments = [("keep", 7, 0), ("refine", 0, 1), ("keep", after + 1, 1)]
    for what, number, refined in moments:
        opened = begin(tmp_path)
        with eager.context() as patch:
            kill(patch, what, number)
            with pytest.raises(Killed):
                list(opened.candidates())
        assert (REFINEMENT in opened.study.user_attrs) == bool(refined)
        opened.close()
    last = begin(tmp_path)
    list(last.candidates())
    last.close()
    assert trajectory(last.run) == trajectory(run)


def kill(patch: pytest.MonkeyPatch, what: str, number: int) -> None:
    """Have a search die when it stores candidate `number`'s answers, or has just refined."""
    keep, write = Search.keep, refine

    def kept(self: Search, name: str, *rest: Any) -> Any:
        if what == "keep" and name == str(number):
            raise Killed
        return keep(self, name, *rest)

    def written(*given: Any) -> Versions:
        made = write(*given)
        if what == "refine":
            raise Killed
        return made

    patch.setattr(Search, "keep", kept)
    patch.setattr("mergefront.search.loop.refine", written)


def test_recipes_are_those_that_were_scored(run: RunDirectory) -> None:
    """By the attribute and the trials' parameters alone, for candidates of both versions."""
    study = open_study(run)
    specs = [SpaceSpec.model_validate(run.manifest()["space"])]
    specs.append(SpaceSpec.model_validate(study.user_attrs[REFINEMENT]["spec"]))
    groups = run_space(run)[1].groups
    for e in found_in(run):
        own = Space.build(specs[e.version], list(run.config.donors), groups)
        table = own.table(list(study.get_trials(deepcopy=False)[e.number].params.values()))
        expected = Recipe("task_arithmetic", models_of(run.config), table, own.spec.opening)
        assert compare.candidate(run, str(e.number)).recipe.hash() == expected.hash()


def test_front_status_report_and_mlflow_know_both_versions(
    run: RunDirectory,
    eager: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    from mlflow import MlflowClient

    front, versions = finish.read_front(run), versions_of(run)
    by_number = {e.number: e for e in found_in(run)}
    assert {by_number[m["number"]].version for m in front["members"]} == {0, 1}
    for member in front["members"]:
        assert member["knobs"] == versions.knobs(by_number[member["number"]])
    assert any(
        f"refined after {refined_after(run)} candidates" in words for words in front["messages"]
    )
    assert status_of(run.path.parent, "x")["state"] == "finished"
    report = run.report.read_text()
    assert all(name in report for version in (0, 1) for name in versions.names(version))
    command: Command = runner(eager, capsys)
    copy = RunDirectory.open(Path(shutil.copytree(run.path, tmp_path / "x")))
    shutil.copy(run.path.parent / "mlflow.db", tmp_path)  # making its tables takes seconds
    for path in (copy.front, copy.report):
        path.unlink()
    assert command("rebuild", "x", "--runs", tmp_path)[0] == 0
    assert copy.front.read_text() == run.front.read_text()
    assert copy.report.read_text() == report
    client = MlflowClient(conclude.default_uri(copy))
    experiment = client.get_experiment_by_name("mergefront")
    assert experiment is not None
    children = client.search_runs([experiment.experiment_id], "tags.`mergefront.candidate` != ''")
    told = {int(c.data.tags["mergefront.candidate"]): set(c.data.params) for c in children}
    knobs = {n: {k.replace("+", "-") for k in versions.knobs(e)} for n, e in by_number.items()}
    assert told == knobs


@pytest.mark.parametrize("version", [0, 1])
def test_candidates_of_both_versions_export_as_scored(
    run: RunDirectory, tmp_path: Path, version: int
) -> None:
    by_number = {e.number: e for e in found_in(run)}
    numbers = [m["number"] for m in finish.read_front(run)["members"]]
    number = next(n for n in numbers if by_number[n].version == version)
    conclude.export_pick(run, str(number), tmp_path / "out", say=print)
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["verified"]["engine"]["same_as_scored"]
    assert provenance["recipe"] == compare.candidate(run, str(number)).recipe.hash()


def test_both_versions_are_carried_over_to_another_run(run: RunDirectory) -> None:
    versions, sources = versions_of(run), run_space(run)[1]
    earlier = read_earlier([str(run.path)], versions.spaces[0], sources)
    by_origin = {f"earlier x {e.number}": e for e in found_in(run)}
    assert {by_origin[one.origin].version for one in earlier} == {0, 1}
    for one in earlier:
        assert one.table == versions.table(by_origin[one.origin])


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ("all", "no line of this space has knots"),
        ({"blocks": 2}, "no line of this space has knots"),
        ({"knots": 6}, "a knot for every layer already"),
        ({"knots": 3}, ""),
    ],
)
def test_a_space_that_cannot_be_refined_is_refused(layers: Any, words: str) -> None:
    found = space({"layers": layers})
    if not words:
        check_refinable(found)
        return
    with pytest.raises(SpaceError, match=words) as caught:
        check_refinable(found)
    assert caught.value.message.startswith("search.refine: exhausted, but")
    assert "search.refine: never" in str(caught.value.hint)


def test_knots_are_exhausted_after_three_small_looks_in_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And whoever asks at any later look alone is told the same: nothing is remembered."""
    found = simulated_search(50, 1.0)
    monkeypatch.setattr(stopping, "EXHAUSTED", 0.045)
    exhaustion = Exhaustion(REFERENCE, seed=0)
    said = [n for n in range(51) if exhaustion.reached(found[:n], 1000)]
    assert said == [n for n in range(51) if Exhaustion(REFERENCE, 0).reached(found[:n], 1000)]
    shares = {n: share(found[:n]) for n in range(0, 51, EVERY)}
    small = [n for n, one in shares.items() if one is not None and one < stopping.EXHAUSTED]
    assert said == [n for n in small if {n - EVERY, n - 2 * EVERY} <= {*small}] != []
    assert not Exhaustion(REFERENCE, 0).reached(found[: said[0]], said[0] * 5 // 4)
    assert Exhaustion(REFERENCE, 0).reached(found[: said[0]], said[0] * 4 // 3 + 1)
    monkeypatch.setattr(stopping, "EXHAUSTED", 0.0)
    assert not Exhaustion(REFERENCE, 0).reached(found[: said[0]], 1000)


def share(found: list[Evaluation]) -> float | None:
    """Expected gain as a share of the front's area above the reference point."""
    belief = believe(found, OBJECTIVES, REFERENCE)
    gain = stopping.expected_gain(belief, found, list(REFERENCE.values()), 0)
    area, right = 0.0, REFERENCE["reasoning"]
    for x, y in sorted(belief.front_KM.tolist()):
        area += max(0.0, x - right) * max(0.0, y - REFERENCE["perception"])
        right = max(right, x)
    return None if gain is None else gain / area


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_goes_on_in_the_finer_space(name: str) -> None:
    """From points of the space before, which it did not choose, and again the same."""
    coarse = Space.build(space({"layers": {"knots": 3}}).spec, DONORS, receiver_groups(6))
    versions = Versions((coarse,))

    def sampler(of: Space) -> ReplaySampler:
        start = of.start_point()
        return make_sampler(name, dimension=of.dimension, seed=3, start=start, n_objectives=2)

    study = optuna.create_study(directions=["maximize"] * 2)
    study.sampler = sampler(coarse)
    evaluated = [go_on(study, versions) for _ in range(12)]
    versions = refine(versions, study, evaluated)
    assert carried_points(study.user_attrs).keys() == set(range(12))
    study.sampler = sampler(versions.finest)
    finer = [go_on(study, versions).point for _ in range(4)]
    assert {len(point) for point in finer} == {versions.finest.dimension} == {10}
    assert len({*finer, *carried_points(study.user_attrs).values()}) == 16
    trial = study.ask()
    study.sampler = sampler(versions.finest)  # as in a process that resumes
    resumed = optuna.Trial(study, trial._trial_id)
    first = versions.names(1)[0]
    expected = resumed.suggest_float(first, 0.0, 1.0)
    assert trial.suggest_float(first, 0.0, 1.0) == expected


def go_on(study: optuna.Study, versions: Versions) -> Evaluation:
    trial = study.ask()
    names = versions.names(versions.latest)
    point = tuple(trial.suggest_float(name, 0.0, 1.0) for name in names)
    study.tell(trial, [sum(point), -sum(u * u for u in point)])
    return Evaluation(trial.number, point, "x", {}, version=versions.latest)
