"""The main job, whole, through the command line and a real engine, on the zoo."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fixtures_cli import ZOO_RUN, Command, runner
from mergefront.cli import main
from mergefront.config import EngineConfig, ItemCounts, RunConfig
from mergefront.errors import EngineError, RunError
from mergefront.jobs import artifacts
from mergefront.jobs.export import export_candidate
from mergefront.jobs.verify import ScoredCandidate
from mergefront.records import Split
from mergefront.runs.directory import RECEIVER, RunDirectory
from mergefront.runs.front import read_front
from mergefront.runs.history import estimates_of, evaluations, open_study, recorded_picks
from mergefront.runs.reopen import reopen_candidate, run_space
from mergefront.sampling import SAMPLERS
from mergefront.search.loop import start_search
from mergefront.search.race import Race
from mergefront.search.setup import prepare_search
from mergefront.tasks import item_set
from mergefront.yaml_file import validate

pytestmark = [pytest.mark.slow, pytest.mark.engine]

KIND = "vllm" if importlib.util.find_spec("vllm") else "transformers"
CONFIG: dict[str, Any] = {
    **ZOO_RUN,
    "items": {"search": 60, "validation": 120, "test": 120},
    "budget": {"candidates": 16, "hours": 1},
    "report": {"finalists": 6},
    "engine": {"kind": KIND, "dtype": "float32", "threads": 1},
    "export": "knee",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run: 16 candidates, validated, tested, exported, tracked."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["mergefront", "search", str(folder / "run.yaml"), "--runs", str(folder)]
        )
        with pytest.raises(SystemExit, match="0"):
            main()
    return RunDirectory.open(folder / "x")


@pytest.fixture
def command(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    run_it = runner(monkeypatch, capsys)
    return lambda *words: run_it(*words, "--runs", run.path.parent)


def test_the_budget_is_kept_and_warm_starts_come_first(run: RunDirectory) -> None:
    found = evaluations(open_study(run), run)
    assert [e.number for e in found] == list(range(16))
    assert found[0].origin == "receiver"
    assert [e.origin for e in found[1:5]] == [f"uniform {c:g}" for c in (0.25, 0.5, 0.75, 1.0)]
    assert {e.origin for e in found[5:]} == {read_front(run).sampler} <= {*SAMPLERS}
    assert all(0 <= u <= 1 for e in found for u in e.point)


def test_the_race_can_be_run_again_from_what_was_recorded(run: RunDirectory) -> None:
    """Estimates and verdicts follow from points and item files alone."""
    found = evaluations(open_study(run), run)
    items = item_set(run.config.objective_tasks, run.config.items, Path()).items["search"]
    reference = read_front(run).reference
    race = Race(run.config.search.racing, items, reference, run.config.search.seed)
    assert any(e.raced.left for e in found)
    for e in found:
        records = run.read_with_costs(str(e.number), "search")
        upto = len(race.rungs) if e.raced.completed else e.raced.rungs
        assert {r.rung for r in records} == set(range(upto)) or e.origin == "receiver"
        asked = {(r.task, r.item) for r in records}
        left = e.raced.left and not e.raced.completed
        rungs = race.rungs[: e.raced.rungs] if left else race.rungs
        assert asked == {(i.task, i.id) for rung in rungs for mine in rung.values() for i in mine}
        assert race.estimate(records) == e.objectives
        then, by_then = e, records
        if e.raced.left:
            by_then = tuple(r for r in records if r.rung < e.raced.rungs)
            then = replace(e, objectives=race.estimate(by_then))
            assert race.verdict(e.point, then.objectives) == e.raced.left
        race.learn(then, by_then)
    members = {m.number for m in read_front(run).members}
    assert all(e.raced.completed or not e.raced.left for e in found if e.number in members)


def test_every_reported_number_follows_from_the_item_files(run: RunDirectory) -> None:
    front = read_front(run)
    assert len(front.members) == 6
    for member in front.members:
        splits: list[Split] = ["validation", "test"] if member.test else ["validation"]
        for split in splits:
            records = run.read_with_costs(str(member.number), split)
            for objective, estimate in estimates_of(records).items():
                assert getattr(member, split)[objective].mean == estimate.mean
                rows = [r.score for r in records if r.objective == objective]
                assert estimate.mean == pytest.approx(sum(rows) / len(rows))
        base = {r.item: r.score for r in run.read_with_costs(RECEIVER, "validation")}
        mine = run.read_with_costs(str(member.number), "validation")
        gains = [r.score - base[r.item] for r in mine if r.objective == "reasoning"]
        assert member.gain["reasoning"].mean == pytest.approx(sum(gains) / len(gains))
    receiver = front.receiver["search"]
    assert front.test_rounds == 1
    validated = front.receiver["validation"]["reasoning"].mean
    assert front.hypervolume.validation.reference["reasoning"] == validated
    assert front.reference == {
        "reasoning": receiver["reasoning"].mean,
        "perception": 0.8 * receiver["perception"].mean,
    }


def test_splits_are_opened_for_members_and_picks_only_and_recorded(run: RunDirectory) -> None:
    front = read_front(run)
    opened = {(o.split, o.model) for o in front.openings}
    members = {str(m.number) for m in front.members}
    picked = {str(m.number) for m in front.members if m.picks}
    blind = {f"{m}.blind" for m in picked | {RECEIVER}}
    assert opened == {("validation", m) for m in members | {RECEIVER} | blind} | {
        ("test", m) for m in picked | {RECEIVER}
    }
    for path in (run.path / "items").glob("[0-9]*.parquet"):
        number, _, form = path.stem.partition(".")
        name = f"{int(number)}.{form}" if form else str(int(number))
        splits = {r.split for r in run.read_with_costs(name)}
        expected = {split for split, model in opened if model == name}
        expected |= set() if form else {"search"}
        assert splits == expected


def test_without_images_perception_is_gone(run: RunDirectory) -> None:
    front = read_front(run)
    picked = [m for m in front.members if m.picks]
    assert [m.blind is not None for m in front.members] == [bool(m.picks) for m in front.members]
    for name in (RECEIVER, *(str(m.number) for m in picked)):
        seen, unseen = run.read_with_costs(name, "validation"), run.read_with_costs(f"{name}.blind")
        assert [r.item for r in seen] == [r.item for r in unseen]
        assert [r.text for r in seen] != [r.text for r in unseen]
    blind, sighted = front.receiver_blind, front.receiver["validation"]
    assert blind is not None
    assert blind["perception"].mean < 0.5 < sighted["perception"].mean
    for member in picked:
        assert member.blind is not None
        scores, gain = member.blind.scores, member.blind.gain
        for name in ("reasoning", "perception"):
            assert gain[name].mean == pytest.approx(scores[name].mean - blind[name].mean)


def test_the_export_is_complete_and_verified(run: RunDirectory) -> None:
    folder = run.path / "best"
    provenance = json.loads((folder / "provenance.json").read_text())
    checks = provenance["verified"]
    assert checks["engine"]["same_as_scored"]
    assert checks["answers"]["same"] == checks["answers"]["asked"] == 240
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "recipe.json"):
        assert (folder / name).is_file()
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["base_model"][0] == "zoo:vlm"
    assert "Scores (test items)" in card
    total = len(provenance["tensors"]["merged"]) + len(provenance["tensors"]["copied"])
    assert total == len(reopen_candidate(run, "knee").sources.receiver.headers)


def test_an_export_that_is_not_what_was_scored_leaves_nothing(
    run: RunDirectory, tmp_path: Path
) -> None:
    named = reopen_candidate(run, "knee")
    with pytest.raises(EngineError, match="exported parameters hash to"):
        export_candidate(
            named.recipe,
            named.sources,
            tmp_path / "out",
            settings=EngineConfig(kind="transformers", dtype="float32", threads=1),
            items=item_set(
                run.config.objective_tasks, ItemCounts(search=4, validation=4, test=4), Path()
            ),
            scored=ScoredCandidate("0" * 64, []),
            front=read_front(run),
            member=named.report,
        )
    assert list(tmp_path.iterdir()) == []


def test_front_status_and_compare_print_data(command: Command, run: RunDirectory) -> None:
    code, out, err = command("front", "x")
    assert (code, err) == (0, "")
    assert "receiver" in out
    assert "knee" in out
    assert json.loads(command("front", "x", "--json")[1]) == json.loads(run.front.read_text())
    status = json.loads(command("status", "x", "--json")[1])
    assert (status["state"], status["candidates"]) == ("finished", 16)
    code, out, _ = command("compare", "x:0", "x:1", "--json")
    found = json.loads(out)
    assert found["profiles"]["x:1"]["layers"]["arithmetic"]["mlp"] == pytest.approx([0.25] * 6)
    assert found["distances"][0]["rms"] > 0


def test_compare_draws_and_reads_recipe_files(
    command: Command, run: RunDirectory, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.json"
    shutil.copy(run.path / "best" / "recipe.json", recipe)
    code, out, _ = command("compare", "x:knee", recipe, "--out", tmp_path / "drawn")
    assert code == 0
    assert "0.000" in out  # the same recipe: no distance
    assert (tmp_path / "drawn" / "profiles.png").stat().st_size > 5000
    assert (tmp_path / "drawn" / "profiles.svg").is_file()


def test_a_candidate_that_was_not_validated_exports_and_says_so(
    command: Command, run: RunDirectory, tmp_path: Path
) -> None:
    members = {m.number for m in read_front(run).members}
    other = next(n for n in range(1, 16) if n not in members)
    code, _, err = command("export", "x", "--pick", other, "--out", tmp_path / "out")
    assert code == 0
    assert "not compared: the candidate was not validated" in err
    card = (tmp_path / "out" / "README.md").read_text()
    assert "such numbers are optimistic" in card
    run_again = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    assert list(run_again["objectives"]) == list(CONFIG["objectives"])


def test_an_export_in_another_type_says_what_it_could_not_compare(
    command: Command, run: RunDirectory, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, printed, err = command("export", "x", "--out", out, "--dtype", "bfloat16")
    assert code == 0
    assert printed.strip() == str(out)
    assert "verified: loads in transformers in bfloat16" in err
    assert "not compared: parameter hashes, for it is written in bfloat16 and was scored in" in err
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["dtype"] == {"written": "bfloat16", "receiver": ["float32"]}
    checks = provenance["verified"]
    assert checks["dtype"] == {"written": "bfloat16", "scored": "float32"}
    assert not checks["engine"]["same_as_scored"]
    asked, same = checks["answers"]["asked"], checks["answers"]["same"]
    assert asked == 240
    counted = "all 240 answers in bfloat16 are" if same == asked else f"{asked - same} of 240 "
    assert counted in err
    card = (out / "README.md").read_text()
    assert "of the same merge in another type (float32)" in card
    assert "--dtype bfloat16" in card


def test_unknown_picks_name_the_legal_ones(command: Command) -> None:
    code, _, err = command("export", "x", "--pick", "best:speed", "--out", "nowhere")
    assert code == 2
    assert "best:reasoning" in err
    assert not Path("nowhere").exists()


def test_front_plots_report_and_mlflow_can_be_deleted_and_rebuilt(
    command: Command, run: RunDirectory
) -> None:
    from mlflow import MlflowClient

    before = run.front.read_text()
    client = MlflowClient(artifacts.tracking_uri(run))

    def tracked() -> tuple[int, int]:
        experiment = client.get_experiment_by_name("mergefront")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
        return len(parents), len(runs) - len(parents)

    assert tracked() == (1, 16)
    for path in (run.front, run.report, run.path.parent / "mlflow.db"):
        path.unlink()
    shutil.rmtree(run.plots)
    assert command("rebuild", "x")[0] == 0
    assert run.front.read_text() == before
    drawn = {"front", "calibration", "race", "history", "profiles"}
    assert {p.stem for p in run.plots.iterdir()} == drawn
    assert "<svg" in run.report.read_text()
    assert tracked() == (1, 16)


def test_more_candidates_may_be_asked_for_later(command: Command, run: RunDirectory) -> None:
    first = evaluations(open_study(run), run)
    code, _, err = command("search", run.path.parent / "run.yaml", "--candidates", 18)
    assert code == 0
    assert "resuming after 16 finished candidates" in err
    found = evaluations(open_study(run), run)
    assert found[:16] == first
    assert len(found) == 18
    knee = reopen_candidate(run, "knee").recipe.hash()
    assert json.loads((run.path / "best" / "provenance.json").read_text())["recipe"] == knee


def test_no_candidate_is_started_that_the_hours_have_no_room_for(run: RunDirectory) -> None:
    shutil.copytree(run.path, run.path.parent / "copies" / "x")
    budgets = {"room": {"candidates": 99, "hours": 10}, "none": {"candidates": 99, "hours": 0.001}}
    started = {}
    for name, budget in budgets.items():
        config = validate({**CONFIG, "budget": budget}, RunConfig, name)
        prepared = prepare_search(config, run.path.parent / "copies")
        with prepared, start_search(prepared) as search:
            started[name] = next(search.candidates(), None)
    assert started["none"] is None
    assert started["room"] is not None


def test_sources_that_changed_are_refused(run: RunDirectory) -> None:
    with pytest.raises(RunError, match=r"started with other sources: .*sha|sources"):
        run.check_manifest({"sources": {"receiver": {"model.safetensors": "other"}}})
    path = run.path.parent / "copies" / "older"
    shutil.copytree(run.path, path)
    manifest = json.loads((path / "manifest.json").read_text())
    older = {**manifest, "sources": {"receiver": {"model.safetensors": "xxh3:" + "0" * 32}}}
    (path / "manifest.json").write_text(json.dumps(older))
    with pytest.raises(RunError, match="started with other sources"):
        run_space(RunDirectory.open(path))


def test_a_run_of_an_old_version_is_refused(run: RunDirectory) -> None:
    """Runs up to 0.2 recorded SHA-256 without a prefix."""
    path = run.path.parent / "copies" / "sha256"
    shutil.copytree(run.path, path)
    manifest = json.loads((path / "manifest.json").read_text())
    old = {**manifest, "sources": {"receiver": {"model.safetensors": "0" * 64}}}
    (path / "manifest.json").write_text(json.dumps(old))
    with pytest.raises(RunError, match=r"0\.2 or an older version started this run"):
        run_space(RunDirectory.open(path))


def test_picks_are_those_that_were_tested(run: RunDirectory) -> None:
    front = read_front(run)
    picked = {pick: m.number for m in front.members for pick in m.picks}
    assert picked == recorded_picks(open_study(run))
    assert all(run.read_stored(str(number), "test") for number in picked.values())
