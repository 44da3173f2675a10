"""The prior from activations: module by module against brute force, its laws, and in a run."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForImageTextToText, AutoProcessor

import fixtures_models as tiny
from engine_contract import SETTINGS, make_items
from fixtures_cli import runner
from fixtures_recipes import receiver_groups
from fixtures_search import SMALL_RUN, assembled, small_config
from fixtures_space import space
from mergefront.engine import activations
from mergefront.engine.activations import Drift, _same_part, drift, measure, shares, tables
from mergefront.engine.prompts import decode_image
from mergefront.engine.transformers import TransformersEngine
from mergefront.errors import EngineError, UserError
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.locate import DonorFolders, ModelFolders, locate_model
from mergefront.models.sources import Sources
from mergefront.records import Item
from mergefront.search.setup import measure_activations, prepare_search
from mergefront.search.warm_starts import warm_points

pytestmark = pytest.mark.slow

ITEMS = make_items(4, length=20)
GROUPS = [f"{layer}.{part}" for layer in range(3) for part in ("attention", "mlp", "norm")]
SMALL = 2.0**-9


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def models(request: Any, tmp_path_factory: Any) -> ModelFolders:
    """A receiver in some dtype; in fp32 a base, and donors that changed all, nothing, one matrix,
    and as the first but by SMALL."""
    root = tmp_path_factory.mktemp("models")
    receiver = tiny.tiny_idefics3(root / "vlm", seed=1, dtype=request.param)
    base = tiny.tiny_llama(root / "base", seed=2)
    tensors = tiny.tensors_of(base)
    full = tiny.perturbed(base, root / "full", seed=3, scale=0.1)
    changed = tiny.tensors_of(full)
    name = "model.layers.1.mlp.up_proj.weight"
    donors = {
        "full": full,
        "same": tiny.rewrite(base, root / "same", tensors),
        "one": tiny.rewrite(base, root / "one", tensors | {name: changed[name]}),
        "small": tiny.rewrite(
            base,
            root / "small",
            {key: one + SMALL * (changed[key] - one) for key, one in tensors.items()},
        ),
    }
    folders = {alias: DonorFolders(str(folder)) for alias, folder in donors.items()}
    return ModelFolders(str(receiver), str(base), folders)


def drifts(models: ModelFolders, items: list[Item], groups: list[str] = GROUPS) -> Drift:
    settings = SETTINGS.model_copy(update={"kind": "transformers", "dtype": "auto"})
    engine = TransformersEngine(settings, Path(models.receiver))
    try:
        before = engine.parameter_hashes()
        found = drift(engine, Sources.open(models), groups, items)
        assert engine.parameter_hashes() == before
        return found
    finally:
        engine.close()


@pytest.fixture(scope="module")
def found(models: ModelFolders) -> Drift:
    return drifts(models, ITEMS)


# --- one module -----------------------------------------------------------------------------------


def by_hand(models: ModelFolders, item: Item, layer: int, donor: str) -> dict[str, list[float]]:
    """Part -> squared relative change of each of its modules, from another forward pass.

    Linear layers by the change's product with the input, norms by their formula.
    """
    model = AutoModelForImageTextToText.from_pretrained(models.receiver, dtype="auto").eval()
    processor = AutoProcessor.from_pretrained(models.receiver)
    content = [{"type": "image", "image": decode_image(item, 0)}]
    content += [{"type": "text", "text": item.question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        **{"tokenize": True, "return_dict": True, "return_tensors": "pt"},
        add_generation_prompt=True,
    ).to(model.dtype)
    files = {"new": Path(models.donors[donor].model), "old": Path(str(models.base))}
    new, old = (Checkpoint.open(files[key]) for key in ("new", "old"))
    seen: dict[str, torch.Tensor] = {}
    stack = f"model.text_model.layers.{layer}."
    modules = {
        name.removeprefix(stack): module
        for name, module in model.named_modules()
        if name.startswith(stack) and hasattr(module, "weight")
    }
    for name, module in modules.items():
        module.register_forward_pre_hook(
            lambda module, args, name=name: seen.update({name: args[0][0, -1].double()})
        )
    with torch.no_grad():
        model(**inputs)
    parts: dict[str, list[float]] = {"attention": [], "mlp": [], "norm": []}
    for name, module in modules.items():
        key = f"model.layers.{layer}.{name}.weight"
        change = new.tensor(key).double() - old.tensor(key).double()
        x, weight = seen[name], module.weight.detach().double()
        if weight.dim() == 1:
            x = x / (x.square().mean() + module.variance_epsilon).sqrt()
            moved, whole = change * x, weight * x
        else:
            moved, whole = change @ x, weight @ x
        part = "norm" if weight.dim() == 1 else "mlp" if "mlp" in name else "attention"
        parts[part].append(float(moved.square().sum() / whole.square().sum()))
    return parts


@pytest.mark.parametrize(("layer", "donor"), [(0, "full"), (2, "full"), (1, "one"), (1, "small")])
def test_against_another_forward_pass(
    models: ModelFolders, found: Drift, layer: int, donor: str
) -> None:
    for place in (0, 3):
        wanted = by_hand(models, ITEMS[place], layer, donor)
        assert {part: len(each) for part, each in wanted.items()} == {
            **{"attention": 4, "mlp": 3, "norm": 2}
        }
        for part, each in wanted.items():
            got = found[donor][f"{layer}.{part}"][place]
            assert got == pytest.approx(sum(each) / len(each), rel=2e-3, abs=1e-12)


def test_a_donor_like_its_base_moves_nothing(found: Drift) -> None:
    assert found["same"] == {group: [0.0] * len(ITEMS) for group in GROUPS}


def test_a_change_in_one_place_is_seen_there_alone(found: Drift) -> None:
    moved = {group for group, values in found["one"].items() if any(values)}
    assert moved == {"1.mlp"}
    assert min(found["one"]["1.mlp"]) > 0


def test_half_the_change_is_a_quarter_of_the_square(found: Drift) -> None:
    for group in GROUPS:
        ratios = [s / f for s, f in zip(found["small"][group], found["full"][group], strict=True)]
        assert ratios == pytest.approx([SMALL**2] * len(ITEMS), rel=1e-2)


def test_questions_are_independent_of_their_order(models: ModelFolders, found: Drift) -> None:
    order = [2, 0, 3]
    again = drifts(models, [ITEMS[i] for i in order], ["1.attention", "2.norm"])
    for donor, rows in again.items():
        assert rows == {group: [found[donor][group][i] for i in order] for group in rows}


def test_embedding_and_head_too(models: ModelFolders) -> None:
    rows = drifts(models, ITEMS[:2], ["embedding", "head", "final.norm"])["full"]
    assert rows["embedding"] == rows["head"] == [0.0, 0.0]  # these the donor left alone
    assert min(rows["final.norm"]) > 0


@pytest.mark.parametrize(
    "view", [lambda p: p[2:5], lambda p: p.T, lambda p: p[:, 1], lambda p: p[1:].T[2:4]]
)
def test_a_part_of_a_parameter_is_found_in_its_copy(view: Any) -> None:
    whole = torch.arange(48.0).reshape(8, 6)
    parameter = whole[2:]  # that begins within its storage
    copy = parameter.clone()
    part = _same_part(copy, parameter, view(parameter))
    assert torch.equal(part, view(parameter))
    part.add_(100.0)
    assert torch.equal(part, view(copy))
    assert int((copy != parameter).sum()) == part.numel()


# --- shares ---------------------------------------------------------------------------------------

LAYERS = receiver_groups(6)


def changes(*by_layer: list[float]) -> activations.Changes:
    """Of donor a's MLPs by objective; its attention and donor b change nothing."""
    rest = {f"{layer}.attention": 0.0 for layer in range(6)}
    none = rest | {f"{layer}.mlp": 0.0 for layer in range(6)}
    return {
        f"objective {number}": {
            "a": rest | {f"{layer}.mlp": value for layer, value in enumerate(values)},
            "b": none,
        }
        for number, values in enumerate(by_layer)
    }


@pytest.mark.parametrize(
    ("by_layer", "wanted"),
    [
        (([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]), [0.5] * 6),
        (([3, 0, 1, 1, 1, 1], [1, 1, 0, 3, 1, 9]), [0.75, 0, 1, 0.25, 0.5, 0.1]),
        (([3, 0, 1, 0, 0, 1], [1, 0, 3, 0, 0, 3]), [0.75, 1.25 / 3, 0.25, *[1.25 / 3] * 2, 0.25]),
        (([1, 1, 1, 1, 1, 1], [1] * 6, [5] * 6), [0.25] * 6),
        (([0.0] * 6, [0.0] * 6), [0.0] * 6),
    ],
    ids=["alike", "shares", "unchanged groups follow", "three objectives", "nothing changed"],
)
def test_shares(by_layer: tuple[list[float], ...], wanted: list[float]) -> None:
    table = shares(changes(*by_layer), LAYERS)
    assert [table["a"][f"{layer}.mlp"] for layer in range(6)] == pytest.approx(wanted)
    assert set(table["b"].values()) == {0.0}
    everywhere = sum(wanted) / 6  # no group of its own part tells anything
    assert table["a"]["3.attention"] == pytest.approx(everywhere)


def test_shares_miss_both_wishes_least() -> None:
    """Against a grid: (1 - c)^2 r_gain + c^2 r_keep."""
    gain, keep = [0.3, 0.02, 1.1, 0.5, 0.4, 0.2], [0.1, 0.07, 0.9, 1.5, 0.4, 0.01]
    table = shares(changes(gain, keep), LAYERS)["a"]
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    for layer, (r, k) in enumerate(zip(gain, keep, strict=True)):
        best = grid[((1 - grid) ** 2 * r + grid**2 * k).argmin()]
        assert table[f"{layer}.mlp"] == pytest.approx(float(best), abs=1e-5)


def test_half_and_the_whole_are_warm_starts() -> None:
    mlp = {"parts": ["mlp"], "layers": "each", "high": 0.3}
    found = space(mlp, {"parts": ["attention", "norm"], "high": 0.3})
    told = changes([3, 0, 1, 1, 1, 1], [1, 1, 0, 3, 1, 9])
    made = dict(warm_points(found, ["activations"], measure=lambda: told))
    assert list(made) == ["activations 0.15", "activations 0.3"]
    row = found.table(made["activations 0.3"])["a"]
    wanted = [0.3 * share for share in (0.75, 0, 1, 0.25, 0.5, 0.1)]
    assert [row[f"{layer}.mlp"] for layer in range(6)] == pytest.approx(wanted, abs=1e-7)


# --- a look ---------------------------------------------------------------------------------------


def test_tables_show_a_row_a_layer() -> None:
    (_, columns, rows), (_, _, nothing) = tables(
        changes([0.5, 0, 0.01, 1, 1, 1], [0.5, 0, 0.03, 1, 1, 9]), LAYERS
    )
    heads = [f"{part}: {head}" if head == "objective 0" else head for part in ("attention", "mlp")
             for head in ("objective 0", "others", "share")]  # fmt: skip
    assert columns == ["layer", *heads]
    assert rows[0] == ["0", "0", "0", "", "50", "50", "0.500"]
    assert rows[1] == ["1", "0", "0", "", "0", "0", ""]
    assert rows[2] == ["2", "0", "0", "", "1", "3", "0.250"]
    assert [row[0] for row in rows] == [str(layer) for layer in range(6)]
    assert all(cell in ("0", "") for row in nothing for cell in row[1:])


def test_the_command_line_shows_what_a_run_would_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mergefront_cli = runner(monkeypatch, capsys)
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(SMALL_RUN, sort_keys=False))
    code, said, told = mergefront_cli("activations", file, "--json", "--out", tmp_path / "drawn")
    assert code == 0, told
    data = json.loads(said)
    found, sources = measure_activations(small_config())
    assert data == {"changes": found, "shares": shares(found, sources.groups)}
    assert (tmp_path / "drawn" / "activations.png").stat().st_size > 0
    file.write_text(yaml.safe_dump({k: v for k, v in SMALL_RUN.items() if k != "base"}))
    code, said, told = mergefront_cli("activations", file)
    assert (code, said) == (2, "")
    assert "base" in told


# --- a run ----------------------------------------------------------------------------------------

STARTS = {"warm_start": ["receiver", "activations"], "seed": 3}


def queued(search: Any) -> list[tuple[str, dict[str, float]]]:
    trials = search.study.get_trials(deepcopy=False)
    return [(t.user_attrs["origin"], t.system_attrs["fixed_params"]) for t in trials]


def test_a_run_measures_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    first = prepare_search(
        small_config(search=STARTS), tmp_path / "a", lambda *step: told.append(step)
    )
    first.close()
    assert [origin for origin, _ in queued(first)] == [
        *("receiver", "activations 0.5", "activations 1")
    ]
    assert told[-1][0] == told[-1][1] == len(told)
    again = assembled(tmp_path / "b", search=STARTS)
    assert queued(again) == queued(first)
    asked = first.items.items["search"]
    found = measure(first.config.engine, first.sources, ["2.mlp", "5.mlp"], asked)
    assert list(found) == ["reasoning", "perception"]
    row = shares(found, first.sources.groups)["arithmetic"]
    assert (
        row["2.mlp"] > 0.5 > row["5.mlp"]
    )  # the zoo's donors have theirs in lower and in upper layers

    def never(*given: Any) -> None:
        raise AssertionError("a resume measures nothing")

    monkeypatch.setattr(activations, "measure", never)
    assert queued(assembled(tmp_path / "a", search=STARTS)) == queued(first)


def unloadable(folder: Path) -> str:
    """The zoo's receiver under a name that transformers does not know."""
    shutil.copytree(locate_model("zoo:vlm"), folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"model_type": "no_such_vl"}))
    return str(folder)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"base": None, "space": "real_pairs_linear"}, "donor 'arithmetic' has no base"),
        ({"receiver": "no_such_vl"}, "activations skipped: .*no_such_vl"),
    ],
    ids=["no base", "unknown to transformers"],
)
def test_what_cannot_be_measured_is_left_out_aloud(
    changed: dict[str, Any], words: str, tmp_path: Path, caplog: Any
) -> None:
    if "receiver" in changed:
        changed = {"receiver": unloadable(tmp_path / "no_such_vl")}
    with caplog.at_level(logging.WARNING):
        search = assembled(tmp_path / "runs", search=STARTS, **changed)
    assert [origin for origin, _ in queued(search)] == ["receiver"]
    (line,) = (r.getMessage() for r in caplog.records if "activations skipped" in r.getMessage())
    assert re.search(words, line)


def test_errors_before_the_receiver_is_loaded(models: ModelFolders) -> None:
    bare = ModelFolders(models.receiver, None, {"full": models.donors["full"]})
    asked = {"reasoning": ITEMS[:2], "perception": ITEMS[2:]}
    with pytest.raises(UserError, match="donor 'full' has no base"):
        measure(SETTINGS, Sources.open(bare), GROUPS, asked)
    long = [make_items(1, length=300)[0]]
    with pytest.raises(EngineError, match="do not fit"):
        measure(SETTINGS, Sources.open(models), GROUPS, {"reasoning": long, "perception": ITEMS})
