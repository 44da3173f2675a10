"""Safetensors folders: what opens, what is refused and in which words, what is written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from fixtures_models import tensors_of, tiny_llama
from mergefront.errors import CheckpointError, PairingError, UserError
from mergefront.files import whole_folder
from mergefront.models.anatomy import dissect
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.locate import locate_model
from mergefront.models.safetensors import DTYPES
from mergefront.models.writer import CheckpointWriter, copy_companions


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "llama", seed=0)


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "copy"))


@pytest.fixture
def sharded(model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    LlamaForCausalLM.from_pretrained(model).save_pretrained(folder, max_shard_size="200KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def test_tensors_are_the_files(model: Path, sharded: Path) -> None:
    wanted = load_file(model / "model.safetensors")
    for folder in (model, sharded):
        opened = Checkpoint.open(folder)
        assert set(opened.headers) == set(wanted)
        for name, tensor in wanted.items():
            header = opened.headers[name]
            assert torch.equal(opened.tensor(name), tensor)
            assert (header.shape, DTYPES[header.dtype]) == (tuple(tensor.shape), tensor.dtype)
        assert opened.written_bytes() == sum(t.numel() * t.element_size() for t in wanted.values())
    assert opened.config["num_hidden_layers"] == 3


def test_hashes_are_of_weights_and_all_that_makes_prompts(sharded: Path) -> None:
    (sharded / "additional_chat_templates").mkdir()
    asked = ["chat_template.jinja", "additional_chat_templates/tool.jinja", "merges.txt"]
    asked += ["tokenizer.json", "tokenizer.model", "preprocessor_config.json"]
    for name in [*asked, "README.md", "LICENSE.txt"]:
        (sharded / name).write_text(name)
    found = Checkpoint.open(sharded).file_hashes()
    asked += ["config.json", "generation_config.json"]
    asked += [file.name for file in sharded.glob("*.safetensors")]
    assert found == {
        n: f"xxh3:{xxhash.xxh3_128_hexdigest((sharded / n).read_bytes())}" for n in asked
    }


def test_a_changed_chat_template_changes_the_hashes(copy: Path) -> None:
    before = Checkpoint.open(copy).file_hashes()
    (copy / "chat_template.jinja").write_text("{{ 'other' }}")
    after = Checkpoint.open(copy).file_hashes()
    assert {n for n in after if after[n] != before.get(n)} == {"chat_template.jinja"}


def test_unknown_tensor_is_named(model: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tensor 'model\.x'"):
        Checkpoint.open(model).tensor("model.x")


def test_missing_folder_and_config(copy: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such model folder"):
        Checkpoint.open(copy / "nowhere")
    (copy / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        Checkpoint.open(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not valid JSON"):
        Checkpoint.open(copy)


def test_missing_shard(sharded: Path) -> None:
    victim = sorted(sharded.glob("*.safetensors"))[1]
    victim.unlink()
    with pytest.raises(CheckpointError, match=rf"shard {victim.name} is missing"):
        Checkpoint.open(sharded)
    (sharded / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=rf"shard {victim.name} is missing"):
        Checkpoint.open(sharded)


def test_index_and_shards_must_agree(sharded: Path) -> None:
    file = sharded / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    shard = index["weight_map"].pop("model.norm.weight")
    file.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"'model\.norm\.weight' in .* is not listed"):
        Checkpoint.open(sharded)
    index["weight_map"] |= {"model.norm.weight": shard, "model.ghost": shard}
    file.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"'model\.ghost' is not in"):
        Checkpoint.open(sharded)


def test_tensor_in_two_files(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "a.safetensors")
    save_file({"model.norm.weight": torch.ones(64)}, copy / "b.safetensors")
    with pytest.raises(
        CheckpointError, match=r"'model\.norm\.weight' is in two files, a\.\S+ and b\."
    ):
        Checkpoint.open(copy)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_every_truncation_is_seen(
    model: Path, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole = (model / "model.safetensors").read_bytes()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: truncated"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "has 4 bytes, .* needs 8"),
        ({"dtype": "F7", "shape": [2], "data_offsets": [0, 8]}, "has dtype F7"),
        ({"dtype": "F32", "shape": [2]}, "damaged header entry of 'x'"),
        ({"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}, "found shape .'2'., offsets"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]}, "whole numbers from 0"),
        ([], "damaged header entry of 'x'"),
    ],
)
def test_damaged_headers(copy: Path, entry: dict[str, object], words: str) -> None:
    text = json.dumps({"x": entry}).encode()
    (copy / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(CheckpointError, match=words):
        Checkpoint.open(copy)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[1]", "damaged header: no JSON object"),
        (b'{"a": {}, "b": {}, "a": {}}', "key 'a' is given twice"),
    ],
)
def test_headers_that_are_none(copy: Path, text: bytes, words: str) -> None:
    (copy / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(CheckpointError, match=words):
        Checkpoint.open(copy)


def test_bytes_that_no_tensor_owns(copy: Path) -> None:
    with (copy / "model.safetensors").open("ab") as stream:
        stream.write(bytes(16))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged: "):
        Checkpoint.open(copy).tensor("model.norm.weight")


def test_header_that_is_no_json(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"nope" + bytes(8))
    with pytest.raises(CheckpointError, match="damaged header"):
        Checkpoint.open(copy)


def test_pickles_and_empty_folders_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors weights"):
        Checkpoint.open(copy)
    (copy / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(CheckpointError, match=r"only pickled weights \(pytorch_model\.bin\)"):
        Checkpoint.open(copy)
    save_file({}, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="hold no tensors"):
        Checkpoint.open(copy)


def test_an_adapter_is_no_model_even_beside_one(copy: Path) -> None:
    save_file({"a": torch.ones(1)}, copy / "adapter_model.safetensors")
    words = r"holds an adapter \(adapter_model\.safetensors\), not a model"
    with pytest.raises(CheckpointError, match=words + r"\n.*model: THE_MODEL_IT_WAS_TRAINED_ON"):
        Checkpoint.open(copy)
    (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "org/Base-7B"}')
    with pytest.raises(
        CheckpointError, match=words + r"\n.*`{model: org/Base-7B, adapter: .*copy}`"
    ):
        Checkpoint.open(copy)


def test_gguf_files_and_folders_are_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    with pytest.raises(
        CheckpointError, match=r"holds GGUF weights \(model-Q4_K_M\.gguf\), expected"
    ):
        Checkpoint.open(copy)
    with pytest.raises(
        UserError, match=r"Q4_K_M\.gguf': a file, .*\nhint: use the repository in saf"
    ):
        locate_model(str(copy / "model-Q4_K_M.gguf"))
    with pytest.raises(UserError, match=r"config\.json': a file, expected a model's folder"):
        locate_model(str(copy / "config.json"))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            "quantization_config: bitsandbytes",
        ),
        ({"quant_method": "gptq", "bits": 4}, "quantization_config: gptq"),
        ({"quant_method": "awq"}, "quantization_config: awq"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "quantization_config: fp8"),
        ({"format": "float-quantized"}, r"quantization_config: \?"),
    ],
)
@pytest.mark.parametrize("part", ["", "text_config"])
def test_quantised_checkpoints_are_refused(
    copy: Path, said: dict[str, object], words: str, part: str
) -> None:
    config = json.loads((copy / "config.json").read_text())
    inner = {"quantization_config": said}
    (copy / "config.json").write_text(json.dumps(config | ({part: inner} if part else inner)))
    where = rf"{part}\." if part else ""
    with pytest.raises(
        CheckpointError, match=rf"are quantised \({where}{words}\).*\nhint: use the"
    ):
        Checkpoint.open(copy)
    (copy / "config.json").write_text(json.dumps(config | {"quantization_config": None}))
    Checkpoint.open(copy)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.uint8, torch.float8_e4m3fn])
def test_quantised_tensors_are_refused_whatever_the_config_says(
    copy: Path, dtype: torch.dtype
) -> None:
    tensors = tensors_of(copy)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        PairingError, match=rf"tensor '{name}' has dtype \S+; only BF16, F16.*\n.*unq"
    ):
        dissect(Checkpoint.open(copy))


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("{}", "found no `weight_map`"),
        ('{"weight_map": []}', "found no `weight_map`"),
        ('{"weight_map": {"a": 3}}', r"'a' is said to be in 3, expected a \*\.safetensors"),
        ('{"weight_map": {"a": "pytorch_model.bin"}}', r"in 'pytorch_model\.bin', expected"),
        ("[", "not valid JSON"),
    ],
)
def test_an_index_that_is_none(copy: Path, index: str, words: str) -> None:
    (copy / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"index\.json: .*" + words):
        Checkpoint.open(copy)


def test_one_tensor_twice_in_shards_that_an_index_names(sharded: Path) -> None:
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    name, tensor = next(iter(load_file(first).items()))
    save_file(load_file(second) | {name: tensor}, second)
    with pytest.raises(
        CheckpointError, match=rf"'{name}' is in two files, {first.name} and {second.name}"
    ):
        Checkpoint.open(sharded)


TENSORS = st.lists(
    st.tuples(
        st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]),
        st.lists(st.integers(0, 5), max_size=3),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(kinds=TENSORS, shard_bytes=st.integers(1, 2000), seed=st.integers(0, 99))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: list[tuple[torch.dtype, list[int]]],
    shard_bytes: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("written")
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"t{number}": (torch.randn(shape, generator=generator) * 3).to(dtype)
        for number, (dtype, shape) in enumerate(kinds)
    }
    with CheckpointWriter(folder, tensors, shard_bytes) as writer:
        for name, tensor in tensors.items():
            writer.add(name, [tensor])
    (folder / "config.json").write_text("{}")
    found = Checkpoint.open(folder)
    assert set(found.headers) == set(tensors)
    for name, tensor in tensors.items():
        again = found.tensor(name)
        assert again.dtype == tensor.dtype
        assert torch.equal(again, tensor)
    for file in folder.glob("*.safetensors"):  # the library that everybody reads with agrees
        held = load_file(file)
        assert len(held) == 1 or sum(t.nbytes for t in held.values()) <= shard_bytes
    assert not list(folder.glob("*.part"))
    assert writer.total_bytes == sum(tensor.nbytes for tensor in tensors.values())


def test_what_was_planned_is_written_once(tmp_path: Path) -> None:
    one = torch.ones(1)
    writer = CheckpointWriter(tmp_path, {"a": one, "b": one.to("meta")})
    writer.add("a", [one])
    with pytest.raises(ValueError, match="'a' was added twice"):
        writer.add("a", [one])
    with pytest.raises(ValueError, match="'c' was not planned"):
        writer.add("c", [one])
    with pytest.raises(ValueError, match="'b' was planned, but not added"), writer:
        pass
    with pytest.raises(ValueError, match=r"planned as torch.float32 \[1\], but is .*int64"):
        writer.add("b", [torch.ones(1, dtype=torch.int64)])


def test_non_contiguous_tensors_are_written_in_order(tmp_path: Path) -> None:
    tensor = torch.arange(6.0).reshape(2, 3).T
    with CheckpointWriter(tmp_path, {"a": tensor}) as writer:
        writer.add("a", [tensor])
    assert torch.equal(load_file(tmp_path / "model.safetensors")["a"], tensor)


def test_a_tensor_may_come_in_pieces_and_must_come_whole(tmp_path: Path) -> None:
    tensor = torch.arange(10.0).reshape(2, 5)
    with CheckpointWriter(tmp_path, {"a": tensor, "b": tensor}) as writer:
        writer.add("a", torch.split(tensor.reshape(-1), 3))
        writer.add("b", [-tensor])
    written = load_file(tmp_path / "model.safetensors")
    assert torch.equal(written["a"], tensor)
    assert torch.equal(written["b"], -tensor)
    for pieces in ([tensor[0]], [tensor, tensor[0]]):
        with pytest.raises(ValueError, match=r"'a' was planned as torch.float32 \[2, 5\], but is"):
            CheckpointWriter(tmp_path, {"a": tensor, "b": tensor}).add("a", pieces)


def test_folder_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with whole_folder(out, needs_bytes=1000) as partial:
        (partial / "x").write_text("x")
        assert not out.exists()
    assert (out / "x").read_text() == "x"
    assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_nothing(tmp_path: Path, kind: type[BaseException]) -> None:
    def fail() -> None:
        with whole_folder(tmp_path / "out") as partial:
            (partial / "x").write_text("x")
            raise kind

    with pytest.raises(kind):
        fail()
    assert not os.listdir(tmp_path)


def test_existing_output_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out exists already"), whole_folder(tmp_path / "out"):
        raise AssertionError
    assert (tmp_path / "out").is_dir()


def test_leavings_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    done = subprocess.Popen(["true"])
    done.wait()
    dead, alive = (tmp_path / f".out.partial-{pid}" for pid in (done.pid, os.getppid()))
    dead.mkdir()
    alive.mkdir()
    with whole_folder(tmp_path / "out"):
        pass
    assert alive.is_dir()
    assert not dead.exists()


def test_disk_space(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"no space for .*out: 1000000000\.0 GB needed, .* free"),
        whole_folder(tmp_path / "out", needs_bytes=10**18),
    ):
        raise AssertionError
    with (
        pytest.raises(UserError, match=r"no space left while writing .*out"),
        whole_folder(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not os.listdir(tmp_path)


def test_companions_are_everything_but_weights(copy: Path, tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "x.gguf", "README.md", ".secret", "merges.txt", "code.py"):
        (copy / name).write_text(name)
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "tool.jinja").write_text("t")
    (copy / "original").mkdir()
    link = copy / "vocab.json"
    (copy / ".blob").write_text("{}")
    link.symlink_to(copy / ".blob")  # as in the hub's cache
    (tmp_path / "out").mkdir()
    copied = copy_companions(copy, tmp_path / "out")
    assert set(copied) == {
        "additional_chat_templates",
        "chat_template.jinja",
        "code.py",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    }
    assert (tmp_path / "out" / "additional_chat_templates" / "tool.jinja").read_text() == "t"
    assert not (tmp_path / "out" / "vocab.json").is_symlink()


def test_rewriting_a_model_changes_nothing(model: Path, tmp_path: Path) -> None:
    tensors = tensors_of(model)
    out = tmp_path / "out"
    with whole_folder(out) as folder, CheckpointWriter(folder, tensors, 10**5) as writer:
        copy_companions(model, folder)
        for name, tensor in tensors.items():
            writer.add(name, [tensor])
    _, info = LlamaForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())


def test_locate(model: Path) -> None:
    assert locate_model(str(model)) == model
    with pytest.raises(UserError, match="zoo has no model 'elephant'"):
        locate_model("zoo:elephant")
    with pytest.raises(UserError, match=r"model '\./nowhere': no such folder"):
        locate_model("./nowhere")
    with pytest.raises(UserError, match="neither a folder here nor obtainable from the hub"):
        locate_model("nobody/no-such-model@main")  # the tests run offline
