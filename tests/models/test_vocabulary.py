"""Embedding rows by token string: against a literal loop over tokens, in every order and size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram

from fixtures_cli import runner
from fixtures_models import perturbed, tensors_of, tiny_idefics3, tiny_llama, words
from mergefront.config import Donor
from mergefront.errors import CheckpointError, UserError
from mergefront.merging import build
from mergefront.merging.recipe import Recipe
from mergefront.models.locate import ModelNames, locate_models
from mergefront.models.sources import Sources
from mergefront.models.vocabulary import read_tokens

EVERY = ("attention", "mlp", "norm", "embedding", "head")
EMBEDDING = {
    "receiver": "model.text_model.embed_tokens.weight",
    "donor": "model.embed_tokens.weight",
}


def renumbered(folder: Path, seed: int, drop: tuple[str, ...] = (), extra: int = 0) -> Path:
    """The same model under another numbering: rows permuted, some tokens gone, some strangers."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    old = content["model"]["vocab"]
    kept = [token for token in old if token not in drop]
    tokens = [*kept, *(f"stranger{number}" for number in range(extra))]
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed)).tolist()
    new = dict(zip(tokens, order, strict=True))
    content["model"]["vocab"] = new
    content["added_tokens"] = [
        one | {"id": new[one["content"]]}
        for one in content["added_tokens"]
        if one["content"] in new
    ]
    file.write_text(json.dumps(content))
    tensors = tensors_of(folder)
    rows = len(tokens) + 3  # padding rows
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        matrix = torch.randn(
            rows, tensors[name].shape[1], generator=torch.Generator().manual_seed(9)
        )
        for token, row in new.items():
            if token in old:
                matrix[row] = tensors[name][old[token]]
        tensors[name] = matrix
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": rows}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("zoo")
    base = tiny_llama(root / "base", seed=0)
    made = {
        "receiver": tiny_idefics3(root / "receiver", seed=1),
        "bf16": tiny_idefics3(root / "bf16", seed=1, dtype=torch.bfloat16),
        "base": base,
        "same": perturbed(base, root / "same", seed=2, scale=0.1, parts=EVERY),
        "moved": perturbed(base, root / "moved", seed=3, scale=0.1, parts=EVERY),
        "fewer": perturbed(base, root / "fewer", seed=4, scale=0.1, parts=EVERY),
    }
    renumbered(made["moved"], seed=5, extra=20)
    renumbered(made["fewer"], seed=6, drop=("w3", "w4", "<s>"))
    return made


def opened(zoo: dict[str, Path], *donors: str, receiver: str = "receiver") -> Sources:
    models = ModelNames(
        receiver=str(zoo[receiver]),
        base=str(zoo["base"]),
        donors={name: Donor(model=str(zoo[name])) for name in donors},
        vocabulary="by_token",
    )
    return Sources.open(locate_models(models))


def tokens(folder: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return found


@pytest.mark.parametrize("receiver", ["receiver", "bf16"])
@pytest.mark.parametrize("part", ["embedding", "head"])
def test_rows_are_those_of_the_same_token(zoo: dict[str, Path], receiver: str, part: str) -> None:
    sources = opened(zoo, "moved", "fewer", receiver=receiver)
    mine = EMBEDDING["receiver"] if part == "embedding" else "lm_head.weight"
    theirs = EMBEDDING["donor"] if part == "embedding" else "lm_head.weight"
    own = tokens(zoo[receiver])
    receivers = sources.tensor("receiver", mine)
    for source in ("base", "moved", "fewer"):
        matrix, rows = tensors_of(zoo[source])[theirs], tokens(zoo[source])
        found = sources.tensor(source, mine)
        assert found.shape == receivers.shape
        assert found.dtype == torch.float32
        for token, row in own.items():
            everywhere = token not in ("w3", "w4", "<s>")
            wanted = matrix[rows[token]] if everywhere else receivers[row].float()
            assert torch.equal(found[row], wanted), (source, token)
    delta = sources.tensor("moved", mine).float() - sources.tensor("base", mine).float()
    assert not delta[[own[token] for token in ("w3", "w4", "<s>")]].any()


def test_equal_vocabularies_are_the_tensors_themselves(zoo: dict[str, Path]) -> None:
    sources = opened(zoo, "same")
    assert sources.vocabulary is not None
    assert bool(sources.vocabulary.common.all())
    name = EMBEDDING["receiver"]
    assert torch.equal(sources.tensor("same", name), tensors_of(zoo["same"])[EMBEDDING["donor"]])


def test_the_report_counts(zoo: dict[str, Path]) -> None:
    alignment = opened(zoo, "moved", "fewer").vocabulary
    assert alignment is not None
    report = alignment.report()
    json.dumps(report)
    assert (report["rows"], report["tokens"], report["matched_in_all"]) == (64, 64, 61)
    of_moved, of_fewer = (report["models"][f"donor '{name}'"] for name in ("moved", "fewer"))
    assert (of_moved["tokens"], of_moved["rows"], of_moved["matched"]) == (84, 87, 64)
    assert of_moved["unmatched"] == ()
    assert (of_fewer["matched"], of_fewer["unmatched"]) == (61, ("<s>", "w3", "w4"))
    there, here = tokens(zoo["moved"]), tokens(zoo["receiver"])
    assert of_moved["moved"] == sum(there[token] != row for token, row in here.items()) > 50


def test_a_merge_by_token_is_the_merge_of_the_renumbered_model(
    zoo: dict[str, Path], tmp_path: Path
) -> None:
    """A donor whose tokens only have other numbers gives the checkpoint that it would without."""
    plain = perturbed(zoo["base"], tmp_path / "plain", seed=3, scale=0.1, parts=EVERY)
    table = {"x": {"*": 0.3, "embedding": 0.5, "head": -0.25}}
    made = []
    for folder in (plain, zoo["moved"]):
        models = ModelNames(
            receiver=str(zoo["receiver"]),
            base=str(zoo["base"]),
            donors={"x": Donor(model=str(folder))},
            vocabulary="by_token",
        )
        recipe = Recipe("task_arithmetic", models, table)
        out = tmp_path / f"out-{folder.name}"
        out.mkdir()
        build.write(Sources.open(locate_models(models)), recipe, out)
        made.append(tensors_of(out))
    assert Recipe.from_json(recipe.to_json()).hash() == recipe.hash()
    assert made[0].keys() == made[1].keys()
    for name, tensor in made[0].items():
        assert torch.equal(tensor, made[1][name]), name
    changed = made[0][EMBEDDING["receiver"]]
    assert not torch.equal(changed, tensors_of(zoo["receiver"])[EMBEDDING["receiver"]])


def test_padding_rows_and_tokens_beyond_the_matrix_are_unmatched(tmp_path: Path) -> None:
    receiver = tiny_llama(tmp_path / "receiver", seed=0, vocab=80)
    donor = tiny_llama(tmp_path / "donor", seed=1, vocab=80)
    for folder, last in ((receiver, 70), (donor, 75)):
        content = json.loads((folder / "tokenizer.json").read_text())
        vocab = content["model"]["vocab"]
        content["model"]["vocab"] = {token: row for token, row in vocab.items() if row < last}
        (folder / "tokenizer.json").write_text(json.dumps(content))
    content["model"]["vocab"]["w2"] = 500  # of the donor: a row that its matrix has not
    (donor / "tokenizer.json").write_text(json.dumps(content))
    models = ModelNames(
        receiver=str(receiver), donors={"x": Donor(model=str(donor))}, vocabulary="by_token"
    )
    sources = Sources.open(locate_models(models))
    assert sources.vocabulary is not None
    gone = {words(80).index("w2"), *range(70, 80)}
    assert set((~sources.vocabulary.common).nonzero()[:, 0].tolist()) == gone
    name = "lm_head.weight"
    same = (sources.tensor("x", name) == sources.tensor("receiver", name)).all(dim=1)
    assert set(same.nonzero()[:, 0].tolist()) == gone


def test_tokenizers_of_several_formats(tmp_path: Path) -> None:
    pieces = [("a", -1.0), ("b", -2.0), ("ab", -3.0)]
    for name, model in [
        ("unigram", Unigram(pieces, unk_id=0, byte_fallback=False)),
        ("bpe", BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])),
    ]:
        folder = tmp_path / name
        folder.mkdir()
        tokenizer = Tokenizer(model)
        tokenizer.add_special_tokens(["<end>"])
        tokenizer.save(str(folder / "tokenizer.json"))
        assert read_tokens(folder) == {"a": 0, "b": 1, "ab": 2, "<end>": 3}
    old = tmp_path / "old"  # vocab.json and merges.txt, read by transformers
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}))
    (old / "merges.txt").write_text("#version: 0.2\na b\n")
    (old / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    assert read_tokens(tmp_path, old) == {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}
    assert read_tokens(tmp_path) is None
    (old / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"old: its tokenizer cannot be read"):
        read_tokens(old)


def test_by_token_needs_tokenizers(zoo: dict[str, Path], tmp_path: Path) -> None:
    bare = perturbed(zoo["base"], tmp_path / "bare", seed=1, scale=0.1)
    (bare / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"by_token: donor 'bare' .*bare has no tokenizer"):
        opened({**zoo, "bare": bare}, "bare")


def test_merge_says_what_matched_and_what_looks_wrong(
    zoo: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = ModelNames(
        receiver=str(zoo["receiver"]),
        base=str(zoo["base"]),
        donors={
            "fewer": Donor(model=str(zoo["fewer"])),
            "same": Donor(model=str(zoo["base"])),
        },
        vocabulary="by_token",
    )
    recipe = Recipe("task_arithmetic", models, {"fewer": {"*": 0.1, "head": 0.2}})
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    run = runner(monkeypatch, capsys)
    code, _, told = run("merge", tmp_path / "recipe.json", "--out", tmp_path / "out")
    assert code == 0, told
    assert "vocabulary by token: 61 of the receiver's 64 rows are a token of all models" in told
    assert "donor 'fewer': 61 of 64 tokens, " in told
    assert "missing, e.g. <s> w3 w4" in told
    assert "warning: donor 'same' has the weights of the base" in told
    assert (tmp_path / "out" / "provenance.json").is_file()
