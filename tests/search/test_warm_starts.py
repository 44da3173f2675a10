"""Warm starts, transfer from earlier runs, and what a new run refuses before any engine starts."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml

from fixtures_recipes import receiver_groups
from fixtures_search import SMALL_RUN, assembled, small_config
from fixtures_space import BODY, space
from mergefront import files as shipped
from mergefront.config import WarmStart
from mergefront.errors import ConfigError, RunError, SpaceError
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.locate import locate_model
from mergefront.models.sources import Sources
from mergefront.records import RESULT_ATTRIBUTE, Estimate, Evaluation
from mergefront.runs.earlier import read_earlier
from mergefront.runs.history import CandidateRecord
from mergefront.runs.reopen import lay_out
from mergefront.sampling import pending
from mergefront.search.setup import PreparedSearch
from mergefront.search.warm_starts import importance_table, warm_points
from mergefront.space import budget
from mergefront.space.file import SpaceSpec, load_space
from mergefront.space.space import Space


def shipped_spec(name: str) -> SpaceSpec:
    return load_space(shipped.find_yaml("search_spaces", name))


@pytest.fixture(scope="module")
def laid_out() -> tuple[Space, Sources]:
    return lay_out(small_config(), shipped_spec("knots_by_part"))


@pytest.mark.parametrize("name", shipped.shipped_names("search_spaces"))
def test_every_shipped_space_fits_the_zoo(name: str, laid_out: tuple[Space, Sources]) -> None:
    found, sources = lay_out(small_config(), shipped_spec(name))
    table = found.table(found.start_point())
    unfrozen = {group.name for group in sources.groups if group.part in BODY}
    assert list(table) == ["arithmetic", "comparison"]
    assert all(set(row) == unfrozen for row in table.values())
    assert warm_points(found, ["receiver"])[0][0] == "receiver"


# --- by name --------------------------------------------------------------------------------------


def curves(found: Space, names: list[WarmStart], donor: str = "a") -> dict[str, list[float]]:
    """Origin -> the MLPs' coefficients of a donor over depth."""
    made = {}
    for origin, point in warm_points(found, names):
        row = found.table(point)[donor]
        made[origin] = [round(row[f"{layer}.mlp"], 9) for layer in range(6)]
    return made


@pytest.mark.parametrize(
    ("line", "name", "wanted"),
    [
        ({"high": 1.5}, "uniform", {f"uniform {v:g}": [v] * 6 for v in (0.25, 0.5, 0.75, 1.0)}),
        ({"high": 0.2}, "uniform", {f"uniform {v:g}": [v] * 6 for v in (0.05, 0.1, 0.15, 0.2)}),
        ({"low": 0.4}, "uniform", {f"uniform {v:g}": [v] * 6 for v in (0.5, 0.75, 1.0)}),
        ({"high": 1.5, "start": 0.3}, "start", {"start": [0.3] * 6}),
        ({"high": 1.5}, "donors", {"donor a 1": [1.0] * 6, "donor b 1": [0.0] * 6}),
        ({"high": 0.3}, "donors", {"donor a 0.3": [0.3] * 6, "donor b 0.3": [0.0] * 6}),
        ({"high": 1.5}, "paper", {"paper 0.05": [0.05] * 6}),
        ({"high": 1.5, "donors": "tied"}, "donors", {}),
        ({"donors": "choose"}, "donors", {"donor a 1": [1.0] * 6, "donor b 1": [0.0] * 6}),
    ],
)
def test_warm_starts_by_name(
    line: dict[str, Any], name: WarmStart, wanted: dict[str, list[float]]
) -> None:
    assert curves(space(line), [name]) == wanted


def test_the_ramp_spares_early_layers() -> None:
    found = curves(space({"layers": "each", "high": 1.5}), ["ramp"])
    depth = np.linspace(0, 1, 6)
    np.testing.assert_allclose(found["ramp 1"], 1 - np.exp(-3 * depth), atol=1e-8)
    np.testing.assert_allclose(found["ramp 0.5"], 0.5 * (1 - np.exp(-3 * depth)), atol=1e-8)
    assert list(found) == ["ramp 0.5", "ramp 1"]


def test_no_model_comes_twice() -> None:
    low = space({"layers": {"knots": 2}, "high": 0.05, "start": 0.05})
    made = warm_points(low, ["uniform", "start", "paper", "uniform"])
    assert [origin for origin, _ in made] == [
        f"uniform {v:g}" for v in (0.0125, 0.025, 0.0375, 0.05)
    ]
    assert len({point for _, point in made}) == len(made)


def test_what_makes_no_sense_in_a_space_is_left_out_aloud(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        made = warm_points(space({"low": 0.1, "donors": "tied"}), ["receiver", "donors", "start"])
    assert [origin for origin, _ in made] == ["start"]
    told = [record.getMessage() for record in caplog.records]
    assert told[0].startswith("warm start receiver skipped: the receiver is not in this space")
    assert told[1].startswith("warm start donors skipped: tied donors a, b cannot have different")


def norms(donor: str, part: str, layer: int) -> float:
    """Squared norm of a zoo donor's change, from the files."""
    words = {"mlp": "mlp.", "attention": "self_attn.", "norm": "norm"}[part]
    files = [Checkpoint.open(locate_model(f"zoo:{name}")) for name in (donor, "base")]
    total = 0.0
    for name in files[1].headers:
        if f"layers.{layer}." in name and words in name.split(f"layers.{layer}.")[1]:
            mine = next(n for n in files[0].headers if n.endswith(name.removeprefix("model.")))
            change = files[0].tensor(mine).double() - files[1].tensor(name).double()
            total += float((change**2).sum())
    return total


@pytest.mark.parametrize(("part", "layer"), [("mlp", 0), ("attention", 3), ("norm", 5)])
def test_importance_is_the_share_of_the_squared_change(
    laid_out: tuple[Space, Sources], part: str, layer: int
) -> None:
    table = importance_table(*laid_out)
    squares = {name: norms(name, part, layer) for name in ("vlm", "arithmetic", "comparison")}
    for donor, row in table.items():
        wanted = squares[donor] / sum(squares.values())
        assert row[f"{layer}.{part}"] == pytest.approx(wanted, rel=1e-4)
    assert all(0 <= sum(row[g] for row in table.values()) <= 1 for g in table["arithmetic"])


def test_importance_needs_a_base(caplog: Any) -> None:
    found, sources = lay_out(small_config(base=None), shipped_spec("real_pairs_linear"))
    with caplog.at_level(logging.WARNING):
        assert warm_points(found, ["importance"], sources) == []
    assert "importance skipped: donor 'arithmetic' has no base" in caplog.text


# --- a run ----------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def finish(search: PreparedSearch, scores: list[tuple[float, float]]) -> None:
    """Tell waiting and further trials as a search would, without an engine."""
    names = [knob.name for knob in search.space.knobs]
    study = search.study
    study.sampler = optuna.samplers.RandomSampler(seed=1)
    waiting = iter(pending(study))
    for score in scores:
        trial = next(waiting, None) or study.ask()
        point = [trial.suggest_float(name, 0.0, 1.0) for name in names]
        origin = str(trial.user_attrs.get("origin", "random"))
        estimates = {
            name: Estimate(mean, 0.01, 8)
            for name, mean in zip(search.config.objectives, score, strict=True)
        }
        evaluation = Evaluation(trial.number, tuple(point), origin, estimates)
        knobs = dict(zip(names, point, strict=True))
        record = CandidateRecord.of(evaluation, list(estimates), knobs, elapsed=1.0)
        trial.set_user_attr(RESULT_ATTRIBUTE, record.to_dict())
        study.tell(trial, list(score))


SCORES = [(0.5, 0.5), (0.4, 0.8), (0.6, 0.45), (0.2, 0.2), (0.3, 0.85), (0.1, 0.9), (0.7, 0.1)]


def test_the_front_of_an_earlier_run_is_carried_over(runs: Path) -> None:
    first = assembled(runs)
    finish(first, SCORES)
    donors = SMALL_RUN["donors"]
    assert isinstance(donors, dict)
    swapped = {"one": donors["comparison"], "other": donors["arithmetic"]}
    second = assembled(
        runs,
        name="later",
        donors=swapped,
        space="every_layer_and_part",
        search={"warm_start": ["receiver", "earlier"], "transfer": [str(runs / "warm")]},
    )
    queued = second.study.get_trials(deepcopy=False)
    origins = [trial.user_attrs["origin"] for trial in queued]
    assert origins == ["receiver", *(f"earlier warm {n}" for n in (5, 4, 1, 2, 6))]
    for number, trial in zip((5, 4, 1, 2, 6), queued[1:], strict=True):
        then = first.study.get_trials(deepcopy=False)[number].params
        before = first.space.table(list(then.values()))
        fixed = trial.system_attrs["fixed_params"]
        after = second.space.table([fixed[knob.name] for knob in second.space.knobs])
        for old, new in (("comparison", "one"), ("arithmetic", "other")):
            for group, value in before[old].items():
                assert after[new][group] == pytest.approx(value, abs=1e-9)
    shutil.rmtree(runs / "warm")  # a resume does not need it any more
    again = assembled(runs, **second.config.model_dump(exclude_defaults=True, exclude={"format"}))
    assert len(again.study.get_trials(deepcopy=False)) == len(queued)


OTHER_MODELS: list[tuple[dict[str, Any], str]] = [
    (
        {"donors": {"arithmetic": {"model": "zoo:arithmetic"}}},
        r"warm searched other models.*: its donor comparison \(a donor's",
    ),
    (
        {"donors": {"a": {"model": "zoo:arithmetic"}, "c": {"model": "zoo:base"}}},
        "its donor comparison, this run's donor c",
    ),
    ({"receiver": "zoo:base"}, "by their files' hashes: receiver"),
    ({"base": "zoo:vlm"}, "hashes: its donor arithmetic, its donor comparison, this run's"),
    ({"space": "ties_density"}, "searched with method task_arithmetic, this space has ties"),
]


def test_other_models_or_methods_are_refused(runs: Path) -> None:
    assembled(runs)
    for changes, words in OTHER_MODELS:
        changed = small_config(**changes)
        found, sources = lay_out(changed, shipped_spec(changed.space))
        with pytest.raises(RunError, match=words):
            read_earlier([str(runs / "warm")], found, sources)
    search = {"warm_start": ["earlier"], "transfer": [str(runs / "nowhere")]}
    with pytest.raises(RunError, match="nowhere: no run here"):
        assembled(runs, name="later", search=search)
    assert not (runs / "later").exists()


@pytest.mark.parametrize("search", [{"warm_start": ["earlier"]}, {"transfer": ["runs/a"]}])
def test_transfer_and_earlier_go_together(search: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"search: .*`earlier` and `transfer` go together"):
        small_config(search=search)


# --- refused before an engine starts --------------------------------------------------------------


def test_a_space_that_its_budget_cannot_teach_is_refused(runs: Path, caplog: Any) -> None:
    wide = {"space": "every_layer_and_part"}
    with pytest.raises(SpaceError, match="6 candidates are too few for 26 dimensions") as caught:
        assembled(runs, **wide, budget={"candidates": 6})
    assert "allow 182 or more" in caught.value.hint
    assert "by name (dimensions here): uniform (2)" in caught.value.hint
    assert not (runs / "warm").exists()
    with caplog.at_level(logging.WARNING):
        assembled(runs, **wide, budget={"candidates": 60})
    assert "60 candidates are few for 26 dimensions; allow 182 or more" in caplog.text
    assert "two_knots (8)" in caplog.text
    assert "cosines" not in caplog.text  # 12 dimensions, which 60 do not suit either
    assembled(runs, **wide, budget={"candidates": 2})  # a run that exists is never refused


@pytest.mark.parametrize(
    ("layers", "candidates", "level", "names"),
    [
        (250, 50, "error", ["ramp (6)", "early_middle_late (6)", "uniform (2)"]),
        (32, 500, None, []),
        (32, 400, "warning", ["blocks_by_part (18)", "knots_by_part (14)", "cosines (12)"]),
        (32, 9, "error", ["uniform (2)"]),
    ],
)
def test_spaces_that_suit_are_named(
    layers: int, candidates: int, level: str | None, names: list[str]
) -> None:
    found = Space.build(shipped_spec("every_layer"), ("a", "b"), receiver_groups(layers))
    doubt = budget.judge_budget(found, candidates)
    assert (doubt and doubt.level) == level
    named = [f"{name} ({size})" for name, size in budget.smaller_spaces(found, candidates)]
    if doubt is not None:
        assert named == names
        assert doubt.hint.endswith(", ".join(names))


def test_spaces_for_real_pairs_are_suggested_for_real_pairs() -> None:
    found = Space.build(shipped_spec("real_pairs"), ("a", "b"), receiver_groups(32))
    assert budget.smaller_spaces(found, 50) == [("real_pairs_uniform", 2)]


def test_another_space_in_an_existing_run_names_what_differs(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    text = shipped.find_yaml("search_spaces", "knots_by_part").read_text()
    file.write_text(text)
    assembled(runs, space=str(file))
    document = yaml.safe_load(text)
    document["knobs"][1]["layers"] = {"knots": 4}
    document["knobs"][2]["high"] = 0.9
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(RunError) as caught:
        assembled(runs, space=str(file))
    assert "knobs.1.layers.knots was 3, is 4; knobs.2.high was 1.5, is 0.9" in caught.value.message
    assert caught.value.message.count("was") == 3  # "was searched", and two differences
    assert "search.transfer" in caught.value.hint
