"""Run configuration: every problem at once, and the shipped files are valid."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from mergefront import files
from mergefront.config import RunConfig, with_absolute_paths
from mergefront.errors import ConfigError, UserError
from mergefront.jobs.starter import json_schema, starter_config
from mergefront.runs.history import reference_point
from mergefront.tasks import library
from mergefront.yaml_file import dump_yaml, load_yaml, validate

GOOD = {
    "name": "x",
    "receiver": "zoo:vlm",
    "donors": {"a": {"model": "zoo:arithmetic"}},
    "space": "uniform",
    "objectives": {"r": ["digits_reasoning"], "p": ["digits_perception"]},
}


def test_every_faulty_field_is_named_in_one_message(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**GOOD, "bogus": 1, "items": {"search": 0}, "receiver": 3}))
    with pytest.raises(ConfigError) as caught:
        load_yaml(path, RunConfig)
    for part in (str(path), "bogus: unknown field", "items.search", "(found 0)", "receiver"):
        assert part in caught.value.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objectives": {"r": ["t"]}}, "expected 2 to 4 objectives, found 1"),
        ({"objectives": {"r": [], "p": ["t"]}}, "objective 'r' has no task"),
        ({"donors": {}}, "donors"),
        ({"donors": {"receiver": {"model": "m"}}}, "'receiver' cannot name a donor"),
        ({"donors": {"zero": {"model": "m"}}}, "'zero' cannot name a donor"),
        ({"name": "../x"}, "name"),
        ({"export": "best:speed"}, "no objective is named 'best:speed'"),
        ({"report": {"reference": {"r": 0.1}}}, "report.reference names"),
        ({"budget": {"hours": 0}}, "budget.hours"),
        ({"budget": {"hours": float("inf")}}, "budget.hours: .* finite number"),
        ({"budget": True}, "budget: expected another value than true or false"),
        ({"budget": {"candidates": True}}, "budget.candidates: expected another value than true"),
        ({"items": {"search": True}}, "items.search: expected another value than true"),
        ({"search": {"seed": 2**63}}, "search.seed: Input should be less than"),
        ({"engine": {"threads": 10**9}}, "engine.threads: Input should be less than"),
        ({"engine": {"max_model_len": 1}}, "engine.max_model_len: Input should be greater than"),
        ({"name": "x" * 101}, "name: .* at most 100 characters"),
        ({"objectives": {"": ["a"], "p": ["t"]}}, r"'' \(0 characters\) cannot name an objective"),
        ({"objectives": {"r" * 10**4: ["a"], "p": ["t"]}}, r"\(10,000 characters\) cannot name"),
        ({"objectives": {"[red]$x$": ["a"], "p": ["t"]}}, "cannot name an objective"),
        ({"objectives": {"r": ["t", "u"], "p": ["t"]}}, "each task once, found more often: t"),
    ],
)
def test_bad_values(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validate({**GOOD, **change}, RunConfig, "run.yaml")


def test_the_reference_point_is_in_the_order_of_the_objectives() -> None:
    turned = {"reference": {"p": 0.7, "r": 0.1}}
    config = validate({**GOOD, "report": turned}, RunConfig, "x")
    assert list(reference_point(config, {}).items()) == [("r", 0.1), ("p", 0.7)]


def test_refinement_is_gone_and_runs_that_never_asked_for_it_are_read() -> None:
    plain = validate(GOOD, RunConfig, "run.yaml")
    never = {**GOOD, "search": {"refine": "never"}}
    assert validate(never, RunConfig, "run.yaml") == plain
    exhausted = {**GOOD, "search": {"refine": "exhausted"}}
    with pytest.raises(ConfigError, match="search: refine is no longer an option"):
        validate(exhausted, RunConfig, "run.yaml")


def test_paths_become_absolute_and_names_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "donor").mkdir()
    (tmp_path / "digits_reasoning").mkdir()
    data = {**GOOD, "space": "mine.yaml", "donors": {"a": {"model": "donor"}}}
    config = with_absolute_paths(validate(data, RunConfig, "x"))
    assert config.space == str(tmp_path / "mine.yaml")
    assert config.donors["a"].model == str(tmp_path / "donor")
    assert (config.receiver, config.objectives["r"]) == ("zoo:vlm", ("digits_reasoning",))


def test_a_key_given_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: a\nname: b\n")
    with pytest.raises(ConfigError, match="'name' is given twice"):
        load_yaml(path, RunConfig)


def test_missing_file_and_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_yaml(tmp_path / "none.yaml", RunConfig)
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_yaml(tmp_path / "list.yaml", RunConfig)


def test_the_resolved_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = validate(GOOD, RunConfig, "x")
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(config))
    assert load_yaml(path, RunConfig) == config


@pytest.mark.parametrize("name", files.shipped_names("configs"))
def test_shipped_configurations_are_valid_and_fit_the_schema(name: str) -> None:
    path = files.find_yaml("configs", name)
    config = load_yaml(path, RunConfig)
    files.find_yaml("search_spaces", config.space)
    jsonschema.validate(
        json.loads(json.dumps(yaml.safe_load(path.read_text()))), json_schema("run")
    )


@pytest.mark.parametrize("name", files.shipped_names("search_spaces"))
def test_shipped_spaces_fit_the_schema(name: str) -> None:
    path = files.find_yaml("search_spaces", name)
    jsonschema.validate(yaml.safe_load(path.read_text()), json_schema("space"))


def test_an_unknown_shipped_file_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"nights: no such file.*\nhint: shipped: .*digits"):
        files.find_yaml("configs", "nights")


def test_what_init_writes_is_a_valid_configuration() -> None:
    text = starter_config(
        "zoo:vlm", ["zoo:arithmetic", "org/Some-LLM-7B"], "zoo:base", name="run 1"
    )
    config = validate(yaml.safe_load(text), RunConfig, "init")
    assert list(config.donors) == ["arithmetic", "some_llm_7b"]
    assert config.name == "run-1"


@pytest.mark.parametrize(
    ("name", "read"), [("2024", "2024"), ("null", "null"), ("1e3", "1e3"), ("_x", "x"), ("", "run")]
)
def test_init_makes_a_name_of_any_file_name(name: str, read: str) -> None:
    text = starter_config("zoo:vlm", ["zoo:arithmetic"], None, name=name)
    assert validate(yaml.safe_load(text), RunConfig, "init").name == read


@pytest.mark.parametrize(
    ("donor", "alias"),
    [
        ("zoo:base", "base_donor"),
        ("org/tied", "tied_donor"),
        ("org/zero", "zero_donor"),
        ("org/2024", "donor_2024"),
        ("org/null", "null"),
        ("folder/a- b, #c", "a_b_c"),
        ("folder/{x}\n'\"", "x"),
    ],
)
def test_init_quotes_donors_and_avoids_reserved_aliases(donor: str, alias: str) -> None:
    text = starter_config("a: b # c", [donor], "null", name="x")
    config = validate(yaml.safe_load(text), RunConfig, "init")
    assert {name: entry.model for name, entry in config.donors.items()} == {alias: donor}
    assert (config.receiver, config.base) == ("a: b # c", "null")


def test_init_refuses_two_donors_of_one_name() -> None:
    with pytest.raises(UserError, match="a/x and b/x have the same alias 'x'"):
        starter_config("zoo:vlm", ["a/x", "b/x"], None, name="x")


def test_init_refuses_what_cannot_be_a_configuration() -> None:
    with pytest.raises(ConfigError, match="mergefront init: donors"):
        starter_config("zoo:vlm", [], None, name="x")


def test_init_takes_small_bounds_and_library_tasks_for_real_pairs() -> None:
    zoo = starter_config("zoo:vlm", ["zoo:arithmetic"], "zoo:base", name="x")
    assert files.find_yaml("search_spaces", yaml.safe_load(zoo)["space"]).is_file()
    real = starter_config("org/vlm", ["org/llm"], "org/base", name="x")
    config = validate(yaml.safe_load(real), RunConfig, "init")
    space = yaml.safe_load(files.find_yaml("search_spaces", config.space).read_text())
    assert {(knob["high"], knob["start"]) for knob in space["knobs"]} == {(0.3, 0.1)}
    spoken_of = set(re.findall(r"\b(?:uniform|\w+_by_part|real_pairs)\b", zoo + real))
    assert spoken_of <= set(files.shipped_names("search_spaces"))
    aims = {task.name: task.objective for task in library()}
    for objective, names in config.objectives.items():
        assert {aims[str(name)] for name in names} == {objective}
