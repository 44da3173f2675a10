"""MLflow's projection, against a real SQLite store and a server that is not there."""

from __future__ import annotations

import logging
import math
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures_science import (
    KNOBS,
    OBJECTIVES,
    REFERENCE,
    candidates,
    front_json,
    raced_candidates,
)
from mergefront.config import TokenCost
from mergefront.errors import UserError
from mergefront.records import Evaluation
from mergefront.runs.front import Front
from mergefront.runs.tracking import (
    CANDIDATE_TAG,
    RUN_TAG,
    Ending,
    MlflowCard,
    Tracker,
    ending_of,
    rebuild,
)
from mergefront.stats.pareto import hypervolume

pytestmark = pytest.mark.slow

FOUND = candidates(12)


def knobs(one: Evaluation) -> dict[str, float]:
    names = [name.replace(".m.", ".mlp+norm.") for name in KNOBS]
    return {name: 1.5 * x for name, x in zip(names, one.point, strict=True)}


CARD = MlflowCard(
    run_id="run-1",
    name="digits",
    objectives=OBJECTIVES,
    reference=list(REFERENCE.values()),
    knobs=knobs,
    params={"search": {"seed": 0, "sampler": "como-cma"}, "receiver": "zoo:vlm", "x": "y" * 9000},
    tags={"purpose": "test"},
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty MLflow database: making the tables takes MLflow seconds, so it is done once."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    rebuild(f"sqlite:///{path}", "other", replace(CARD, run_id="other"), [], Ending())
    return path.read_bytes()


@pytest.fixture
def uri(tmp_path: Path, template: bytes) -> str:
    path = tmp_path / "runs" / "mlflow.db"
    path.parent.mkdir()
    path.write_bytes(template)
    return f"sqlite:///{path}"


class Store:
    """What MLflow's own client finds in the store."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        experiment = self.client.get_experiment_by_name("mergefront")
        assert experiment is not None
        runs = self.client.search_runs([experiment.experiment_id])
        self.parents = [r for r in runs if CANDIDATE_TAG not in r.data.tags]
        self.children = {
            int(r.data.tags[CANDIDATE_TAG]): r for r in runs if CANDIDATE_TAG in r.data.tags
        }
        assert len(runs) == len(self.parents) + len(self.children)
        (self.parent,) = self.parents

    def series(self, key: str) -> dict[int, float]:
        history = self.client.get_metric_history(self.parent.info.run_id, key)
        steps = {m.step: m.value for m in history}
        assert len(steps) == len(history), "a step was logged twice"
        return steps


def check_whole(store: Store, found: list[Evaluation]) -> None:
    done = [e for e in found if not e.failure]
    assert store.parent.info.status == "FINISHED"
    assert set(store.children) == {e.number for e in found}
    for e in found:
        child = store.children[e.number]
        assert child.data.tags["mlflow.parentRunId"] == store.parent.info.run_id
        assert child.data.tags["origin"] == e.origin
        assert child.info.status == ("FAILED" if e.failure else "FINISHED")
        named = {name.replace("+", "-"): value for name, value in knobs(e).items()}
        told = {name: float(value) for name, value in child.data.params.items()}
        assert told == pytest.approx(named, rel=1e-5)  # MLflow takes no +
        for name, one in e.objectives.items():
            assert child.data.metrics[name] == one.mean
            assert child.data.metrics[f"{name}.se"] == one.se
            assert child.data.metrics[f"{name}.items"] == one.n
            assert child.data.metrics[f"{name}.partial"] == one.partial
        assert child.data.metrics["rungs"] == e.raced.rungs
        assert child.data.tags.get("left", "") == e.raced.left
        assert child.data.tags.get("spared", "") == e.raced.spared
    assert store.children[7].data.tags["failure"] == "engine said no"
    volumes = store.series("hypervolume")
    assert set(volumes) == {e.number for e in done}
    values = [[e.objectives[name].mean for name in OBJECTIVES] for e in done]
    for index, e in enumerate(done):
        expected = hypervolume(values[: index + 1], list(REFERENCE.values()))
        assert volumes[e.number] == pytest.approx(expected)
    assert store.series("reasoning") == {e.number: e.objectives["reasoning"].mean for e in done}
    assert set(store.series("seconds.generate")) == {e.number for e in found}
    assert max(store.series("front_size").values()) >= 2


def test_a_cost_is_told_in_tokens_too(uri: str) -> None:
    card = replace(CARD, costs={"perception": TokenCost(tokens_of=("reasoning",), limit=50)})
    front = Front.from_dict(front_json(list(FOUND)))
    picked = next(member for member in front.members if "knee" in member.picks)
    assert picked.test is not None
    tested = {**picked.test, "perception": replace(picked.test["perception"], tokens=12.5)}
    front = replace(front, members=(replace(picked, test=tested),))
    rebuild(uri, "mergefront", card, FOUND[:3], ending_of(front))
    store = Store(uri)
    for e in FOUND[:3]:
        tokens = 50 * (1 - e.objectives["perception"].mean)
        metrics = store.children[e.number].data.metrics
        assert metrics["perception.tokens"] == pytest.approx(tokens)
        assert "reasoning.tokens" not in metrics
    assert store.parent.data.metrics["test.knee.perception.tokens"] == 12.5


def test_a_tracked_search_is_whole_in_mlflow(uri: str, tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "front.svg").write_text("<svg/>")
    (tmp_path / "front.json").write_text("{}")
    tracker = Tracker(uri, "mergefront", CARD, FOUND[:3])
    for evaluation in FOUND[3:]:
        tracker.candidate(evaluation)
    artifacts = [tmp_path / "front.json", tmp_path / "plots", tmp_path / "missing"]
    assert tracker.finish(Ending({"validation.hypervolume": 0.07}, artifacts))
    store = Store(uri)
    check_whole(store, FOUND)
    parent = store.parent
    assert parent.data.tags["purpose"] == "test"
    assert parent.data.params["search.sampler"] == "como-cma"
    assert len(parent.data.params["x"]) == 6000
    assert parent.data.metrics["validation.hypervolume"] == 0.07
    files = [f.path for f in store.client.list_artifacts(parent.info.run_id)]
    assert files == ["front.json", "plots"]
    assert (tmp_path / "runs" / "mlartifacts").is_dir()


def test_race_and_belief_are_in_mlflow_at_the_end(uri: str) -> None:
    found = raced_candidates()
    front = Front.from_dict(front_json(found))
    assert front.race is not None
    early = [e.number for e in found if e.raced.left][:3]
    kept = [7, *early, *(m.number for m in front.members)]
    some = [e for e in found if e.number in {*kept, *front.race.spared}]
    for _ in range(2):  # a second rebuild says nothing twice
        rebuild(uri, "mergefront", CARD, some, ending_of(front))
    store = Store(uri)
    check_whole(store, some)
    told = store.parent.data.metrics
    assert told["race.items"] == front.race.items < 1
    assert told["race.seconds"] == front.race.seconds
    assert told["race.left.behind"] == sum(e.raced.left == "behind" for e in found)
    assert told["belief.by_model"] == 1
    for name, check in front.belief.calibration.items():
        for key in ("n", "mean_square", "within_95", "excess"):
            assert told[f"calibration.{name}.{key}"] == getattr(check, key)
    assert told["validation.hypervolume.low"] == 0.06
    members = {m.number: m.believed for m in front.members}
    for number, child in store.children.items():
        metrics = child.data.metrics
        for name in OBJECTIVES:
            keys = (f"{name}.believed", f"{name}.believed.sd")
            if number in members:
                expected = [members[number][name].mean, members[number][name].se]
                assert [metrics[key] for key in keys] == expected
                history = store.client.get_metric_history(child.info.run_id, keys[0])
                assert len(history) == 1
            else:
                assert not set(keys) & set(metrics)


def test_a_stopped_search_goes_on_in_the_same_run(uri: str) -> None:
    first = Tracker(uri, "mergefront", CARD)
    for evaluation in FOUND[:5]:
        first.candidate(evaluation)
    first.close()
    store = Store(uri)
    assert store.parent.info.status == "KILLED"
    # what a kill leaves: a child without an end, and one that never was
    store.client.update_run(store.children[4].info.run_id, status="RUNNING")
    store.client.delete_run(store.children[3].info.run_id)
    more = replace(CARD, params={**CARD.params, "search": {"seed": 0, "sampler": "changed"}})
    second = Tracker(uri, "mergefront", more, FOUND[:5])
    for evaluation in FOUND[5:]:
        second.candidate(evaluation)
    assert second.finish(Ending())
    store = Store(uri)
    check_whole(store, FOUND)
    assert store.parent.data.params["search.sampler"] == "como-cma"
    assert store.parent.data.tags["resumed.search.sampler"] == "changed"


def test_rebuilding_adds_only_what_is_missing(uri: str) -> None:
    parent = rebuild(uri, "mergefront", CARD, FOUND, Ending())
    before = Store(uri)
    check_whole(before, FOUND)
    assert rebuild(uri, "mergefront", CARD, FOUND, Ending()) == parent
    after = Store(uri)
    check_whole(after, FOUND)
    same = {n: r.info.run_id for n, r in before.children.items()}
    assert {n: r.info.run_id for n, r in after.children.items()} == same


def test_a_deleted_run_or_experiment_is_made_anew(uri: str) -> None:
    parent = rebuild(uri, "mergefront", CARD, FOUND, Ending())
    client = Store(uri).client
    client.delete_experiment(client.get_run(parent).info.experiment_id)
    again = rebuild(uri, "mergefront", CARD, FOUND, Ending())
    check_whole(Store(uri), FOUND)
    client.delete_run(again)
    for child in children(client, again):
        client.delete_run(child)
    assert rebuild(uri, "mergefront", CARD, FOUND, Ending()) != again
    check_whole(Store(uri), FOUND)


def children(client: object, parent: str) -> list[str]:
    experiment = client.get_experiment_by_name("mergefront")  # type: ignore[attr-defined]
    runs = client.search_runs(  # type: ignore[attr-defined]
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'"
    )
    return [r.info.run_id for r in runs]


def test_two_runs_do_not_mix(uri: str) -> None:
    first = rebuild(uri, "mergefront", CARD, FOUND[:3], Ending())
    second = rebuild(uri, "mergefront", replace(CARD, run_id="run-2"), FOUND[:2], Ending())
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    assert client.get_run(first).data.tags[RUN_TAG] == "run-1"
    assert (len(children(client, first)), len(children(client, second))) == (3, 2)


def test_many_knobs_and_unknown_errors_are_stored(uri: str) -> None:
    wide = replace(CARD, knobs=lambda one: {f"k{i}": i / 7 for i in range(250)})
    e = FOUND[2]
    one = {name: replace(v, se=math.nan) for name, v in e.objectives.items()}
    rebuild(uri, "mergefront", wide, [replace(e, objectives=one)], Ending())
    child = Store(uri).children[2]
    assert len(child.data.params) == 250
    assert math.isnan(child.data.metrics["reasoning.se"])


@pytest.mark.parametrize("bad", ["http://127.0.0.1:1", "sqlite:////proc/nowhere/mlflow.db"])
def test_a_store_that_is_not_there_warns_once_and_stops_nothing(
    bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="mergefront"):
        tracker = Tracker(bad, "mergefront", CARD, patience=60)
        for evaluation in FOUND:
            tracker.candidate(evaluation)
        tracker.close()
    warnings = [r.getMessage() for r in caplog.records if r.name.startswith("mergefront")]
    assert len(warnings) == 1
    assert f"MLflow at {bad} cannot be used" in warnings[0]
    with pytest.raises(UserError, match="cannot be used"):
        rebuild(bad, "mergefront", CARD, FOUND, Ending())


def test_a_store_that_comes_back_gets_everything_at_the_end(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = tmp_path / "runs" / "mlflow.db"
    hidden = tmp_path / "hidden.db"
    database.rename(hidden)
    database.mkdir()  # a folder cannot be opened as a database
    tracker = Tracker(uri, "mergefront", CARD)
    tracker.candidate(FOUND[0])
    while not any("cannot be used" in r.getMessage() for r in caplog.records):
        time.sleep(0.02)
    database.rmdir()
    hidden.rename(database)
    for evaluation in FOUND[1:]:
        tracker.candidate(evaluation)
    assert tracker.finish(Ending())
    check_whole(Store(uri), FOUND)


def test_nothing_is_printed(tmp_path: Path) -> None:
    script = (
        "from mergefront.runs.tracking import MlflowCard, Ending, rebuild\n"
        "card = MlflowCard('r', 'n', ['a'], [0.0], lambda p: {})\n"
        f"rebuild('sqlite:///{tmp_path}/new/mlflow.db', 'mergefront', card, [], Ending())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new"]


def test_neither_secrets_nor_paths_of_others_reach_the_store(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_pa55word")
    failed = replace(FOUND[0], failure="no login with hf_pa55word", objectives={})
    card = replace(CARD, params={"uri": "https://me:hf_pa55word@host", "x": "hf_pa55word"})
    parent = rebuild(uri, "../../../evil", card, [failed], Ending())
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("../../../evil")
    assert experiment is not None
    assert "evil" in experiment.artifact_location
    assert "/.." not in experiment.artifact_location
    assert client.get_run(parent).data.params == {"uri": "https://***@host", "x": "***"}
    (child,) = client.search_runs(
        [experiment.experiment_id], f"tags.`{CANDIDATE_TAG}` = '{failed.number}'"
    )
    assert child.data.tags["failure"] == "no login with ***"


CREATE = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
left = [int(sys.argv[2])]
@event.listens_for(Engine, "before_cursor_execute")
def kill(*arguments):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
from mergefront.runs.tracking import MlflowCard, Ending, rebuild
card = MlflowCard("r", "n", ["a"], [0.0], lambda p: {})
rebuild("sqlite:///" + sys.argv[1], "mergefront", card, [], Ending())
"""


@pytest.mark.parametrize("statements", [40, 400])
def test_a_kill_while_mlflow_makes_its_tables_leaves_no_broken_database(
    tmp_path: Path, statements: int
) -> None:
    path = tmp_path / "mlflow.db"
    command = [sys.executable, "-c", CREATE, str(path), str(statements)]
    assert subprocess.run(command, check=False).returncode == -9
    assert not path.exists()
    rebuild(f"sqlite:///{path}", "mergefront", CARD, FOUND[:2], Ending())
    assert set(Store(f"sqlite:///{path}").children) == {0, 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


def half_made(template: bytes, path: Path) -> None:
    """Leave what a kill between two migrations leaves."""
    path.write_bytes(template)
    with closing(sqlite3.connect(path)) as database, database:
        for table in ("latest_metrics", "metrics", "params", "tags", "runs"):
            database.execute(f"DELETE FROM {table}")
        database.execute("UPDATE alembic_version SET version_num = 'c48cb773bb87'")


def garbage(template: bytes, path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)


def damaged(template: bytes, path: Path) -> None:
    path.write_bytes(template[:4096] + bytes(len(template) - 8192) + template[-4096:])


@pytest.mark.parametrize("breakage", [half_made, garbage, damaged])
def test_a_broken_database_is_moved_away_and_made_anew(
    template: bytes,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    breakage: Callable[[bytes, Path], None],
) -> None:
    path = tmp_path / "mlflow.db"
    breakage(template, path)
    broken = path.read_bytes()
    rebuild(f"sqlite:///{path}", "mergefront", CARD, FOUND[:2], Ending())
    assert set(Store(f"sqlite:///{path}").children) == {0, 1}
    (aside,) = tmp_path.glob("mlflow.db.broken-*")
    assert aside.read_bytes() == broken
    (warning,) = [r.getMessage() for r in caplog.records if "is broken" in r.getMessage()]
    assert str(path) in warning
    assert str(aside) in warning


def test_a_database_of_another_release_with_runs_stays(
    template: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(template)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'c48cb773bb87'")
    before = path.read_bytes()
    with pytest.raises(UserError, match="out-of-date database schema"):
        rebuild(f"sqlite:///{path}", "mergefront", CARD, FOUND[:2], Ending())
    assert path.read_bytes() == before
