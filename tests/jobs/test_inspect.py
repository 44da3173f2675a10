"""Inspection: what pairs and what differs, and norms and cosines against plain numpy."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import mergefront.jobs.inspect
from fixtures_adapters import make_adapter
from fixtures_models import perturbed, tensors_of, tiny_idefics3, tiny_llama
from mergefront.errors import PairingError, UserError
from mergefront.jobs.inspect import aliases, inspect, tables


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("zoo")
    base = tiny_llama(root / "base", seed=0)
    made = {
        "receiver": tiny_idefics3(root / "receiver", seed=1),
        "base": base,
        "a": perturbed(base, root / "a", seed=2, scale=0.1),
        "b": perturbed(base, root / "b", seed=3, scale=0.3, parts=("mlp",)),
        "wide": tiny_llama(root / "wide", seed=4, vocab=80),
        "deep": tiny_llama(root / "deep", seed=5, layers=4),
    }
    return {name: str(folder) for name, folder in made.items()}


@pytest.mark.parametrize("chunk", [None, 1000])
def test_norms_and_cosines(
    zoo: dict[str, str], chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk is not None:
        monkeypatch.setattr(mergefront.jobs.inspect, "CHUNK", chunk)
    inspection = inspect(zoo["receiver"], [zoo["a"], zoo["b"]], zoo["base"])
    tensors = {name: tensors_of(Path(zoo[name])) for name in ("receiver", "base", "a", "b")}
    assert [measure.group for measure in inspection.measures][:3] == [
        "embedding",
        "0.attention",
        "0.mlp",
    ]
    modules = [f"mlp.{module}_proj" for module in ("gate", "up", "down")]

    def delta(source: str, layer: int) -> np.ndarray:
        tower = "model.text_model" if source == "receiver" else "model"
        parts = [
            (
                tensors[source][f"{tower}.layers.{layer}.{module}.weight"].double()
                - tensors["base"][f"model.layers.{layer}.{module}.weight"].double()
            ).flatten()
            for module in modules
        ]
        return np.concatenate([part.numpy() for part in parts])

    for layer in range(3):
        measure = next(m for m in inspection.measures if m.group == f"{layer}.mlp")
        origin = math.sqrt(
            sum(
                float((tensors["base"][f"model.layers.{layer}.{m}.weight"].double() ** 2).sum())
                for m in modules
            )
        )
        for source in ("receiver", "a", "b"):
            norm = float(np.linalg.norm(delta(source, layer)))
            assert measure.norms[source] == pytest.approx(norm)
            assert measure.relative[source] == pytest.approx(norm / origin)
        a, b = delta("a", layer), delta("b", layer)
        cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        assert measure.cosines["a, b"] == pytest.approx(cosine, abs=1e-12)
        attention = next(m for m in inspection.measures if m.group == f"{layer}.attention")
        assert attention.norms["b"] == 0.0
        assert attention.cosines["a, b"] is None


def test_without_a_base_deltas_are_from_the_receiver(zoo: dict[str, str]) -> None:
    inspection = inspect(zoo["receiver"], [zoo["a"], zoo["a"]])
    assert inspection.anchor == "receiver"
    assert [donor.alias for donor in inspection.donors] == ["a", "a_2"]
    for measure in inspection.measures:
        assert set(measure.norms) == {"a", "a_2"}
        assert measure.cosines["a, a_2"] == pytest.approx(1.0)


def test_what_merges_and_what_differs(zoo: dict[str, str]) -> None:
    inspection = inspect(zoo["receiver"], [zoo["a"], zoo["wide"]], zoo["base"])
    fates = {(kind.tower, kind.part): kind.fate for kind in inspection.kinds}
    assert fates["language", "mlp"] == "merges"
    assert fates["vision", "other"] == fates["connector", "other"] == "copied"
    assert fates["language", "head"].startswith("must be frozen")
    assert sum(kind.tensors for kind in inspection.kinds) == len(tensors_of(Path(zoo["receiver"])))
    a, wide = inspection.donors
    assert (a.paired, a.unpaired, a.differences) == (30, (), {})
    assert wide.differences == {"vocab_size": (64, 80)}
    assert set(wide.unpaired) == {"lm_head.weight", "model.text_model.embed_tokens.weight"}
    assert wide.vocabulary is not None
    words = wide.vocabulary
    assert (words.tokens, words.rows, words.matched, words.moved) == (80, 80, 64, 0)
    assert inspection.rows == (64, 64)
    assert "wide" not in next(m for m in inspection.measures if m.group == "head").norms


def test_moved_tokens(zoo: dict[str, str], tmp_path: Path) -> None:
    donor = perturbed(Path(zoo["a"]), tmp_path / "moved", seed=1, scale=0.1)
    content = json.loads((donor / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["w1"], vocabulary["w2"] = vocabulary["w2"], vocabulary["w1"]
    (donor / "tokenizer.json").write_text(json.dumps(content))
    report = inspect(zoo["receiver"], [str(donor)]).donors[0]
    assert report.vocabulary is not None
    assert (report.vocabulary.matched, report.vocabulary.moved) == (64, 2)
    (donor / "tokenizer.json").unlink()
    bare = inspect(zoo["receiver"], [str(donor), zoo["a"]])
    assert bare.donors[0].vocabulary is None
    assert bare.donors[1].vocabulary is not None
    assert bare.rows is None


def test_by_token_another_vocabulary_merges(zoo: dict[str, str]) -> None:
    inspection = inspect(zoo["receiver"], [zoo["wide"]], zoo["base"], "by_token")
    fates = {kind.part: kind.fate for kind in inspection.kinds if kind.tower == "language"}
    assert fates["head"] == fates["embedding"] == "merges"
    assert inspection.donors[0].unpaired == ()
    assert "wide" in next(m for m in inspection.measures if m.group == "head").norms


def test_an_adapter_beside_its_model(zoo: dict[str, str], tmp_path: Path) -> None:
    adapter = make_adapter(Path(zoo["a"]), tmp_path / "lora", target_modules=["q_proj"])
    inspection = inspect(zoo["receiver"], [f"{zoo['a']}+{adapter}", zoo["a"]], zoo["base"])
    lora, alone = inspection.donors
    assert (lora.alias, lora.adapter, lora.adapted) == ("lora", str(adapter), 3)
    assert (alone.adapter, alone.adapted) == (None, None)
    for measure in inspection.measures:
        changed = measure.part == "attention"
        assert (measure.norms["lora"] != measure.norms["a"]) == changed, measure.group
    assert ["adapter", f"{adapter}: changes 3 tensors"] in tables(inspection)[1][2]


def test_findings_are_told(zoo: dict[str, str]) -> None:
    inspection = inspect(zoo["receiver"], [zoo["base"], zoo["a"]], zoo["base"])
    (finding,) = [f for f in inspection.findings if f.donor == "base_2"]
    assert finding.kind == "same_as_base"
    rows = next(rows for title, _, rows in tables(inspection) if title.startswith("lineage"))
    assert [row[0] for row in rows] == ["base_2", "a"]
    assert rows[0][-1] == finding.message


def test_tables_and_json(zoo: dict[str, str]) -> None:
    inspection = inspect(zoo["receiver"], [zoo["a"], zoo["wide"]], zoo["base"])
    data = json.loads(json.dumps(asdict(inspection)))
    assert list(data) == [
        "receiver", "anchor", "n_layers", "tied_head", "kinds", "donors", "measures", "vocabulary",
        "rows", "kinships", "findings",
    ]  # fmt: skip
    titles = [title for title, _, _ in tables(inspection)]
    assert titles[0].startswith("receiver ")
    assert any(title.startswith("a, wide: cosine") for title in titles)
    assert any(title.startswith("vocabulary: 64 of the receiver's 64 rows") for title in titles)
    for _, columns, rows in tables(inspection):
        assert rows
        assert all(len(row) == len(columns) for row in rows)
        assert all(isinstance(cell, str) for row in rows for cell in row)


def test_a_donor_that_does_not_pair(zoo: dict[str, str]) -> None:
    with pytest.raises(PairingError, match=r"deep has layers 4"):
        inspect(zoo["receiver"], [zoo["deep"]])
    with pytest.raises(UserError, match="no such folder"):
        inspect(zoo["receiver"], ["./nowhere"])


def test_aliases() -> None:
    assert aliases(["org/Math-7B@main", "zoo:arithmetic", "x/Math-7B/", "./receiver"]) == [
        "Math_7B",
        "arithmetic",
        "Math_7B_2",
        "receiver_2",
    ]
