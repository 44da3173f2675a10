"""The reference engine: the contract on transformers, and prompts and images, which all share."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

import fixtures_models as tiny
from engine_contract import SETTINGS, Case, EngineContract, EveryMethod, Kind, make_items
from mergefront.engine.inplace import tensor_hash
from mergefront.engine.prompts import BoundedMemory, decode_image
from mergefront.engine.transformers import _targets
from mergefront.errors import EngineError
from mergefront.models.anatomy import dissect, language_groups
from mergefront.models.checkpoint import Checkpoint
from mergefront.records import Item

pytestmark = pytest.mark.slow

TRANSFORMERS = SETTINGS.model_copy(update={"kind": "transformers", "batch_size": 8})


class TestFloat32Untied(EngineContract):
    SETTINGS = TRANSFORMERS
    KIND: ClassVar[Kind] = Kind(groups=("*", "embedding", "head"))

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            (torch.OutOfMemoryError("no room for 2 GiB"), "ran out of memory while answering"),
            (MemoryError(), "ran out of memory while answering"),
            (RuntimeError("CUDA error: an illegal address"), "failed while answering: CUDA error"),
        ],
    )
    def test_what_torch_raises_is_an_engine_error(
        self,
        case: Case,
        items: list[Item],
        fault: Exception,
        message: str,
    ) -> None:
        answers = case.ask(case.recipe(0.5, 0.5), items)

        def fail(*args: object) -> None:
            raise fault

        head = case.engine.network.get_output_embeddings()  # type: ignore[attr-defined]
        hook = head.register_forward_pre_hook(fail)
        with pytest.raises(EngineError, match=message):
            case.engine.generate(items)
        hook.remove()
        assert case.engine.generate(items) == answers


class TestBfloat16Tied(EveryMethod, EngineContract):
    """The checkpoint's own dtype, a tied head."""

    SETTINGS = TRANSFORMERS.model_copy(update={"dtype": "auto"})
    KIND: ClassVar[Kind] = Kind(dtype=torch.bfloat16, tied=True, groups=("*", "embedding"))

    def written_hashes(self, case: Case, folder: Path) -> dict[str, str]:
        """The checkpoint in transformers' own hands."""
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=case.settings.dtype)
        return {name: tensor_hash(parameter.data) for name, parameter in model.named_parameters()}

    def test_terms_of_one_rank_are_held_at_a_time(self, case: Case) -> None:
        held = []
        for rank in (3, 1, 9):
            case.load(case.recipe(0.4, 0.3, method="low_rank", parameters={"rank": rank}))
            inplace = case.engine._inplace  # type: ignore[attr-defined]
            terms = [
                one for rows in inplace._staged.values() for row in rows.values() for one in row
            ]
            held.append(sum(one.tensor.nbytes for one in terms))
            ranks = {term.rank for term in inplace._staged if term.kind == "truncated"}
            assert ranks == {rank}
        assert len(set(held)) == 1


@pytest.mark.parametrize("family", ["llava", "old llava", "qwen2_vl", "idefics3"])
def test_every_language_tensor_finds_its_parameter(family: str, tmp_path: Path) -> None:
    """Whatever the checkpoint calls it: a value written through a target is the one read back."""
    folder = tmp_path / "model"
    if family == "qwen2_vl":
        tiny.tiny_qwen2_vl(folder, seed=1)
    elif family == "idefics3":
        tiny.tiny_idefics3(folder, seed=1, tied=True)
    else:
        tiny.tiny_llava(folder, seed=1)
    if family == "old llava":
        renamed = {old_llava(name): t for name, t in tiny.tensors_of(folder).items()}
        folder = tiny.rewrite(folder, tmp_path / "old", renamed)
    checkpoint = Checkpoint.open(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    parts = language_groups(dissect(checkpoint), checkpoint)
    targets = _targets(model, parts)
    assert [t.parameter for t in targets] == [name for group in parts for name in group.tensors]
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    for target in targets:
        assert torch.equal(target.live, checkpoint.tensor(target.parameter))
        assert target.live.data_ptr() in parameters


def old_llava(name: str) -> str:
    """The name that LLaVA checkpoints on the hub have had before transformers 4.52."""
    if name.startswith("model.language_model."):
        return name.replace("model.language_model.", "language_model.model.")
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    return name.removeprefix("model.")


def item_with(image: Image.Image, kind: str, **options: object) -> Item:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Item("i", "t", "q", (file.getvalue(),), ("a",), "c")


def test_alpha_becomes_white() -> None:
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert decode_image(item_with(clear, "PNG"), 0).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([10, 20, 30])
    assert decode_image(item_with(palette, "PNG"), 0).getpixel((1, 1)) == (10, 20, 30)
    see_through = item_with(palette, "PNG", transparency=0)
    assert decode_image(see_through, 0).getpixel((1, 1)) == (255, 255, 255)


def test_images_are_turned_upright() -> None:
    wide = Image.new("RGB", (6, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(item_with(wide, "JPEG", exif=exif), 0).size == (2, 6)


def test_grey_images_become_rgb() -> None:
    assert decode_image(item_with(Image.new("L", (2, 2), 7), "PNG"), 0).getpixel((0, 0)) == (7,) * 3


def test_torn_images_name_their_item() -> None:
    item = item_with(Image.effect_noise((64, 64), 9), "PNG")
    torn = Item("torn", "t", "q", (item.images[0], item.images[0][:200]), ("a",), "c")
    with pytest.raises(EngineError, match=r"item torn: image 2 of 2 cannot be read: .*truncated"):
        decode_image(torn, 1)


def test_kept_makes_once_until_the_budget_is_spent() -> None:
    made: list[str] = []

    def make(key: str) -> str:
        made.append(key)
        return key * 4

    kept = BoundedMemory(len, budget=8)
    for _ in range(2):
        assert [kept.get(key, partial(make, key)) for key in "abc"] == [
            "aaaa",
            "bbbb",
            "cccc",
        ]
    assert made == ["a", "b", "c", "c"]


def test_items_of_the_suite_differ() -> None:
    assert len({item.images for item in make_items(50)}) == 50
