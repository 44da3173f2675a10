"""Which donors the lineage check names: families of perturbed models whose tree is known."""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from fixtures_adapters import make_adapter
from fixtures_models import perturbed, rewrite, tensors_of, tiny_llama
from mergefront.models import lineage
from mergefront.models.lineage import LineageFinding, check_lineage, measure_kinships
from mergefront.models.locate import DonorFolders, ModelFolders
from mergefront.models.sources import Sources

SMALL, LARGE = 0.008, 0.12  # of weights with standard deviation 0.2: 4 %, and 60 %


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ancient -> (instruct -> receiver, tuned), (a, b, far); stranger -> (x, y)."""
    root = tmp_path_factory.mktemp("tree")
    made = {
        "ancient": tiny_llama(root / "ancient", seed=0),
        "stranger": tiny_llama(root / "stranger", seed=1),
    }

    def grow(child: str, parent: str, seed: int, scale: float) -> None:
        made[child] = perturbed(made[parent], root / child, seed=seed, scale=scale)

    grow("instruct", "ancient", 2, 0.03)
    grow("receiver", "instruct", 3, SMALL)
    grow("tuned", "instruct", 4, SMALL)
    grow("a", "ancient", 5, SMALL)
    grow("b", "ancient", 6, 0.03)
    grow("far", "ancient", 7, LARGE)
    grow("x", "stranger", 8, SMALL)
    grow("y", "stranger", 9, SMALL)
    made["adapter"] = make_adapter(made["a"], root / "adapter")
    return made


def opened(tree: dict[str, Path], base: str | None, **donors: str | tuple[str, str]) -> Sources:
    """Sources with donors as name, or (name, own base)."""
    folders = {
        alias: DonorFolders(str(tree[one]))
        if isinstance(one, str)
        else DonorFolders(str(tree[one[0]]), str(tree[one[1]]))
        for alias, one in donors.items()
    }
    return Sources.open(ModelFolders(str(tree["receiver"]), base and str(tree[base]), folders))


def kinds(findings: list[LineageFinding]) -> list[tuple[str, str, str | None]]:
    return [(one.donor, one.kind, one.suggestion) for one in findings]


def test_a_family_as_it_should_be(tree: dict[str, Path]) -> None:
    assert check_lineage(opened(tree, "ancient", a="a", b="b")) == []
    assert check_lineage(opened(tree, "instruct", tuned="tuned", a=("a", "ancient"))) == []
    assert check_lineage(opened(tree, None, a="a")) == []


@pytest.mark.parametrize(
    ("base", "donors", "wanted"),
    [
        ("ancient", {"x": "x"}, [("x", "far", None)]),
        ("ancient", {"far": "far"}, [("far", "far", None)]),
        ("ancient", {"x": "x", "y": ("y", "stranger")}, [("x", "nearer", "base:y")]),
        ("ancient", {"x": "x", "y": "y"}, [("x", "nearer", None), ("y", "nearer", None)]),
        ("stranger", {"a": ("a", "ancient"), "b": "b"}, [("b", "nearer", "base:a")]),
        ("ancient", {"tuned": "tuned"}, [("tuned", "shared", None)]),
        ("ancient", {"same": "ancient"}, [("same", "same_as_base", None)]),
        ("ancient", {"same": "receiver"}, [("same", "same_as_receiver", None)]),
    ],
    ids=["stranger", "too far", "base of y", "siblings", "base of a", "instruct", "base", "self"],
)
def test_what_fine_tuning_does_not_explain_is_named(
    tree: dict[str, Path],
    base: str,
    donors: dict[str, str | tuple[str, str]],
    wanted: list[tuple[str, str, str | None]],
) -> None:
    assert kinds(check_lineage(opened(tree, base, **donors))) == wanted


def test_the_message_says_what_lies_where(tree: dict[str, Path]) -> None:
    (found,) = check_lineage(opened(tree, "ancient", x="x", y=("y", "stranger")))
    assert found.message.startswith("donor 'x' lies 14")  # about sqrt(2)
    assert "% of the norm of the base away from it, but only 4" in found.message
    assert found.message.endswith("% from the base of donor 'y'")
    assert found.hint == "name the model of the base of donor 'y' as its `base`"


@pytest.mark.parametrize("whole", [False, True])
def test_measures_against_numpy(
    tree: dict[str, Path], whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if whole:
        monkeypatch.setattr(lineage, "ROWS", 10**6)
        monkeypatch.setattr(lineage, "TENSORS", 10**6)
    found = measure_kinships(opened(tree, "ancient", b="b"))[0]
    tensors = {name: tensors_of(tree[name]) for name in ("receiver", "ancient", "b")}
    parts = {"attention": ["self_attn"], "mlp": ["mlp"]}

    def flat(model: str, *modules: str) -> np.ndarray:
        return np.concatenate([
            tensor.double().numpy().ravel()
            for name, tensor in tensors[model].items()
            if any(module in name for module in modules)
        ])  # fmt: skip

    rel = 1e-9 if whole else 0.15
    for part, modules in parts.items():
        base, b = flat("ancient", *modules), flat("b", *modules)
        norm = np.linalg.norm(base)
        assert found.relative[part] == pytest.approx(np.linalg.norm(b - base) / norm, rel=rel)
        cosine = b @ base / norm / np.linalg.norm(b)
        assert found.cosine[part] == pytest.approx(cosine, abs=1e-9 if whole else 0.02)
    every = list(chain.from_iterable(parts.values()))
    base, b, receiver = (flat(model, *every) for model in ("ancient", "b", "receiver"))
    distance = np.linalg.norm(receiver - base) / np.linalg.norm(base)
    assert found.receiver == pytest.approx(distance, rel=rel)
    if whole:
        shared = (b - base) @ (receiver - base)
        shared /= np.linalg.norm(b - base) * np.linalg.norm(receiver - base)
        assert found.shared == pytest.approx(shared, abs=1e-9)
        assert found.distances["base"] == pytest.approx(
            math.hypot(*(b - base)) / np.linalg.norm(base)
        )


def test_a_difference_outside_the_sample_is_one(tree: dict[str, Path], tmp_path: Path) -> None:
    tensors = tensors_of(tree["ancient"])
    sampled = {name for part in lineage.PARTS for name, _ in lineage._sample(
        opened(tree, "ancient", a="a"), part
    )}  # fmt: skip
    name = "model.layers.2.self_attn.v_proj.weight"
    assert name not in sampled
    tensors[name] = tensors[name] + 0.001
    donor = rewrite(tree["ancient"], tmp_path / "donor", tensors)
    sources = opened({**tree, "one": donor}, "ancient", one="one")
    (found,) = measure_kinships(sources)
    assert found.relative == {"attention": 0.0, "mlp": 0.0}
    assert check_lineage(sources) == []


def test_an_adapter_is_measured_from_its_own_model(tree: dict[str, Path]) -> None:
    donor = DonorFolders(str(tree["a"]), adapter=str(tree["adapter"]))
    sources = Sources.open(ModelFolders(str(tree["receiver"]), None, {"lora": donor}))
    (found,) = measure_kinships(sources)
    name = "model.layers.1.mlp.up_proj.weight"
    delta = sources.tensor("lora", name) - sources.tensor("base:lora", name)
    assert float(delta.norm()) > 0
    assert found.base == "base:lora"
    assert 0 < found.relative["mlp"] < 1
    assert measure_kinships(sources) == [found]
