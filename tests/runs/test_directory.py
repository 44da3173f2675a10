"""The run directory: refuses what does not belong to it, loses nothing."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fixtures_runs import simulated_run
from mergefront.config import RunConfig
from mergefront.errors import RunError
from mergefront.runs.directory import ItemRecord, RunDirectory
from mergefront.yaml_file import validate

BASE = {
    "name": "x",
    "receiver": "zoo:vlm",
    "donors": {"a": {"model": "zoo:arithmetic"}},
    "space": "uniform",
    "objectives": {"r": ["digits_reasoning"], "p": ["digits_perception"]},
}


def config(**changes: object) -> RunConfig:
    return validate({**BASE, **changes}, RunConfig, "x.yaml")


def record(item: str, split: str, value: float = 1.0) -> ItemRecord:
    return ItemRecord(split, "r", "t", item, "c", 0, value, "7", "ok", 2, "7")


def test_a_resume_may_change_the_budget_and_nothing_else(tmp_path: Path) -> None:
    RunDirectory.create_or_resume(tmp_path, config())
    longer = config(budget={"candidates": 999})
    resumed = RunDirectory.create_or_resume(tmp_path, longer)
    assert RunDirectory.open(tmp_path / "x").config == config()  # it may yet be refused
    resumed.keep_config()
    assert resumed.config == longer
    other = config(search={"seed": 7})
    with pytest.raises(RunError, match=r"search\.seed was 0, is 7"):
        RunDirectory.create_or_resume(tmp_path, other)
    assert RunDirectory.open(tmp_path / "x").config == longer


def test_the_order_of_objectives_and_donors_matters(tmp_path: Path) -> None:
    RunDirectory.create_or_resume(tmp_path, config())
    turned = {"p": ["digits_perception"], "r": ["digits_reasoning"]}
    with pytest.raises(RunError, match="the order of objectives was r, p, is p, r"):
        RunDirectory.create_or_resume(tmp_path, config(objectives=turned))


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = RunDirectory.create_or_resume(tmp_path, config())
    release = run.lock()
    with pytest.raises(RunError, match="another process is running this search"):
        RunDirectory.create_or_resume(tmp_path, config()).lock()
    release()
    RunDirectory.create_or_resume(tmp_path, config()).lock()()


def test_a_resume_with_other_items_is_refused_and_says_which(tmp_path: Path) -> None:
    run = RunDirectory.create_or_resume(tmp_path, config())
    card = {"splits": {"search": {"r": {"n": 4, "sha256": "aa"}}}}
    run.check_manifest({"sources": {"receiver": {"config.json": "xxh3:1"}}, "items": card})
    run.check_manifest({"sources": {"receiver": {"config.json": "xxh3:1"}}, "items": card})
    changed = {"splits": {"search": {"r": {"n": 4, "sha256": "bb"}}}}
    with pytest.raises(RunError, match=r"items\.splits\.search\.r\.sha256 was 'aa', is 'bb'"):
        run.check_manifest({"sources": {"receiver": {"config.json": "xxh3:1"}}, "items": changed})


def test_item_files_keep_splits_apart_and_replace_a_split_whole(tmp_path: Path) -> None:
    run = RunDirectory.create_or_resume(tmp_path, config())
    run.add_items("3", [record("1", "search"), record("2", "search")])
    run.add_items("3", [record("8", "validation", 0.0)])
    run.add_items("3", [record("1", "search", 0.5)])
    assert [r.item for r in run.read_with_costs("3", "search")] == ["1"]
    assert run.read_with_costs("3", "validation") == (record("8", "validation", 0.0),)
    assert run.read_with_costs("4") == ()
    assert [p.name for p in (run.path / "items").iterdir()] == ["00003.parquet"]


def test_item_files_are_parsed_again_only_when_another_process_wrote_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory.create_or_resume(tmp_path, config())
    parsed: list[Path] = []
    read_table = pq.read_table

    def counted(path: Path) -> pa.Table:
        parsed.append(path)
        return read_table(path)

    monkeypatch.setattr(pq, "read_table", counted)
    for number in range(12):  # more files than are kept
        run.add_items(str(number), [record("1", "search"), record("8", "validation")])
        assert run.read_with_costs(str(number), "search") == (record("1", "search"),)
    assert parsed == []
    assert run.read_with_costs("0") == (record("1", "search"), record("8", "validation"))
    assert run.read_with_costs("0", "test") == ()
    assert parsed == [run.items_path("0")]
    RunDirectory.open(run.path).add_items("0", [record("2", "search")])
    assert run.read_with_costs("0", "search") == (record("2", "search"),)
    assert len(parsed) == 3  # the other directory parsed it to add to it


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run here .*config\.yaml"):
        RunDirectory.open(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["", "[", "[1]", "null", '{"sources": 3}', '{"sources": {"a": 3}}', "[" * 100_000],
)
def test_a_damaged_manifest_is_one_message(tmp_path: Path, content: str) -> None:
    run, _ = simulated_run(tmp_path)
    (run.path / "manifest.json").write_text(content)
    with pytest.raises(RunError, match=r"manifest\.json: damaged, expected what the run") as told:
        RunDirectory.open(run.path)
    assert "restore it from a copy" in told.value.hint
