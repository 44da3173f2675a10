"""Every receiver family, in each layout on disk: pairing, exact copies, exact donors, loading.

The oracles are independent of the name rules: which tensors are the language model's is asked of
transformers' modules, and a receiver that took all of a donor must answer as that donor does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from transformers.core_model_loading import revert_weight_conversion

from fixtures_families import CASES, DONORS, FAMILIES, make_donor, native
from fixtures_families.merges import bytes_of, export, paired, read, recipe_of
from fixtures_models import tensors_of
from mergefront.errors import EngineError, PairingError
from mergefront.jobs.verify import load_in_transformers, same_tensors
from mergefront.models.anatomy import language_groups
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.locate import locate_models
from mergefront.models.pairing import pair_tensors
from mergefront.models.sources import Sources, check_heads

pytestmark = pytest.mark.slow

LOADED = [case for case in CASES if FAMILIES[case[0]].loads(case[1])]
ALL = ("*", "embedding", "head")
AS_RECEIVER: dict[str, dict[str, Any]] = {
    # what these receivers do otherwise than their text models
    "PaliGemma": {"use_bidirectional_attention": True},
    "PaliGemma 2": {"use_bidirectional_attention": True, "final_logit_softcapping": None},
}
WORDS = torch.tensor([[1, 9, 33, 7, 52, 20, 11]])


@pytest.fixture(scope="module")
def donors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("donors")
    return {kind: make_donor(root / kind, kind, seed=1) for kind in DONORS}


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_every_tensor_is_accounted_for(
    donors: dict[str, Path], tmp_path: Path, name: str, layout: str
) -> None:
    """Placed; in exactly one group; paired with a namesake of the same layer; the donor used up."""
    family = FAMILIES[name]
    receiver = family.make(tmp_path / "receiver", layout, seed=2)
    checkpoint, anatomy = read(receiver)
    theirs, donor = read(donors[family.donor])
    assert set(anatomy.places) == set(checkpoint.headers)
    assert {place.tower for place in anatomy.places.values()} == {
        "language",
        "vision",
        "connector",
    }
    members = [member for group in language_groups(anatomy, checkpoint) for member in group.tensors]
    assert sorted(members) == sorted(anatomy.mergeable_tensors())
    assert len(members) == len(set(members))

    pairs = pair_tensors(anatomy, donor, checkpoint, theirs)
    rest = set(anatomy.mergeable_tensors()) - set(pairs)
    assert rest == ({anatomy.language_tower.embedding} if family.donor == "mllama" else set())
    unused = set(theirs.headers) - set(pairs.values())
    assert unused == ({donor.language_tower.embedding} if rest else set())
    assert len(set(pairs.values())) == len(pairs)
    for mine, other in pairs.items():
        assert anatomy.places[mine].layer == donor.places[other].layer
        assert anatomy.places[mine].part == donor.places[other].part


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_the_identity_is_the_receiver_byte_for_byte(
    donors: dict[str, Path], tmp_path: Path, name: str, layout: str
) -> None:
    receiver = FAMILIES[name].make(tmp_path / "receiver", layout, seed=2)
    donor = donors[FAMILIES[name].donor]
    account = export(recipe_of(receiver, donor), tmp_path / "out")
    assert (account["merged"], len(account["copied"])) == ([], len(tensors_of(receiver)))
    assert bytes_of(tmp_path / "out") == bytes_of(receiver)


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_a_donor_at_one_is_that_donor_byte_for_byte(
    donors: dict[str, Path], tmp_path: Path, name: str, layout: str
) -> None:
    """In every language tensor, and nowhere else; transformers loads what it has a class for."""
    family = FAMILIES[name]
    receiver = family.make(tmp_path / "receiver", layout, seed=2)
    donor = donors[family.donor]
    out = tmp_path / "out"
    parts = ALL if family.donor != "mllama" else ("*", "head")
    export(recipe_of(receiver, donor, *parts), out)
    pairs = paired(receiver, donor)
    own, given, made = bytes_of(receiver), bytes_of(donor), bytes_of(out)
    assert {n for n in own if made[n] != own[n]} == set(pairs)
    for mine, other in pairs.items():
        assert made[mine] == given[other]
    if family.loads(layout):
        model = load(out)
        if not pairs.keys() >= set(read(receiver)[1].mergeable_tensors()):
            embed(model, donor)
        with torch.inference_mode():
            said = model(input_ids=WORDS).logits
            expected = load(donor, **AS_RECEIVER.get(name, {}))(input_ids=WORDS).logits
        torch.testing.assert_close(said, expected, rtol=1e-4, atol=1e-4)


def load(folder: Path, **config: Any) -> Any:
    """Open in transformers, with other values of its config; every tensor must find its place."""
    vlm = "vision_config" in Checkpoint.open(folder).config
    kind = hf.AutoModelForImageTextToText if vlm else hf.AutoModelForCausalLM
    model, report = kind.from_pretrained(
        folder,
        output_loading_info=True,
        **config,
    )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[what], (what, report[what])
    return model.eval()


def embed(model: Any, donor: Path) -> None:
    """Give a model the donor's embedding rows, where the merge leaves them out."""
    rows = tensors_of(donor)["model.embed_tokens.weight"]
    with torch.no_grad():
        model.get_input_embeddings().weight[: len(rows)] = rows


@pytest.mark.parametrize(("name", "layout"), LOADED)
def test_the_language_tower_is_that_of_transformers(tmp_path: Path, name: str, layout: str) -> None:
    """By the modules of the loaded model, not by names on disk; text layers in their order."""
    folder = FAMILIES[name].make(tmp_path / "receiver", layout, seed=2)
    _, anatomy = read(folder)
    model = load(folder)
    crossing = native.CROSS_LAYERS if name == "Llama 3.2 Vision" else []
    order = [
        n for n in range(len(anatomy.language_tower.layers) + len(crossing)) if n not in crossing
    ]
    state = dict(model.state_dict())
    modules = {tensor.data_ptr(): module for module, tensor in state.items()}
    for disk, tensor in revert_weight_conversion(model, state).items():
        module = modules[tensor.data_ptr()]
        place = anatomy.places[disk]
        words = module.startswith(("model.language_model.", "model.text_model.", "lm_head."))
        layer = int(module.split(".")[3]) if words and ".layers." in module else None
        if layer in crossing:
            assert (place.tower, place.layer) == ("connector", None)
        else:
            assert (place.tower == "language") == words, disk
            assert place.layer == (None if layer is None else order.index(layer)), disk


TIED = [name for name, family in FAMILIES.items() if family.ties]


@pytest.mark.parametrize("name", TIED)
def test_a_tied_receiver_and_an_untied_donor(
    donors: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """An error unless embedding and head are frozen; the tied donor may merge its embedding."""
    family = FAMILIES[name]
    layout = family.layouts[0]
    receiver = family.make(tmp_path / "receiver", layout, seed=2, tied=True)
    assert read(receiver)[1].tied_head
    untied = donors[family.donor]
    sources = Sources.open(locate_models(recipe_of(receiver, untied).models))
    check_heads(sources, ("attention", "mlp", "norm"))
    with pytest.raises(PairingError, match="the receiver's head is tied to its embedding"):
        check_heads(sources, ("embedding",))
    export(recipe_of(receiver, untied, "*"), tmp_path / "frozen")

    tied = make_donor(tmp_path / "donor", family.donor, seed=3, tied=True)
    export(recipe_of(receiver, tied, "*", "embedding"), tmp_path / "out")
    pairs = paired(receiver, tied)
    own, given, made = bytes_of(receiver), bytes_of(tied), bytes_of(tmp_path / "out")
    assert set(pairs.values()) == set(given)
    assert {n for n in own if made[n] != own[n]} == set(pairs)
    assert all(made[mine] == given[other] for mine, other in pairs.items())
    if family.loads(layout):
        load(tmp_path / "frozen")
        load(tmp_path / "out")


RECEIVER_OF = {family.donor: name for name, family in reversed(FAMILIES.items())}


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("vocab", [64, 96])
@pytest.mark.parametrize("kind", DONORS)
def test_donors_in_shards_with_tied_heads_and_other_vocabularies(
    tmp_path: Path, kind: str, vocab: int, tied: bool, files: int
) -> None:
    family = FAMILIES[RECEIVER_OF[kind]]
    receiver = family.make(tmp_path / "receiver", family.layouts[0], seed=2)
    donor = make_donor(tmp_path / "donor", kind, seed=3, tied=tied, vocab=vocab, files=files)
    checkpoint, anatomy = read(receiver)
    theirs, text = read(donor)
    assert text.tied_head == tied
    assert len({header.file for header in theirs.headers.values()}) == files
    pairs = pair_tensors(anatomy, text, checkpoint, theirs)
    left = {anatomy.places[n].part for n in set(anatomy.mergeable_tensors()) - set(pairs)}
    fits = {"embedding"} if kind == "mllama" else set()
    assert left == ({"embedding", "head"} if vocab != 64 else fits)
    unused = set(theirs.headers) - set(pairs.values())
    assert {text.places[n].part for n in unused} <= left
    export(recipe_of(receiver, donor, "*"), tmp_path / "out")
    made, given = bytes_of(tmp_path / "out"), bytes_of(donor)
    own = bytes_of(receiver)
    for mine, other in pairs.items():
        frozen = anatomy.places[mine].part in ("embedding", "head")
        assert made[mine] == (own[mine] if frozen else given[other])


def test_an_export_that_transformers_has_no_class_for_is_compared_with_the_receiver(
    donors: dict[str, Path], tmp_path: Path
) -> None:
    """Its check says so; a tensor of another name or shape is found all the same."""
    family = FAMILIES["MiniCPM-V 2.6 (Qwen2)"]
    receiver, donor = family.make(tmp_path / "receiver", "original", seed=2), donors[family.donor]
    recipe = recipe_of(receiver, donor)
    export(recipe, tmp_path / "out")
    sources = Sources.open(locate_models(recipe.models))
    assert load_in_transformers(tmp_path / "out") is None
    assert same_tensors(tmp_path / "out", sources) == len(sources.receiver.headers)
    with pytest.raises(EngineError, match="is not as in the receiver"):
        same_tensors(donor, sources)
