"""No file of a stranger ends in a traceback, hangs, or fills the memory: one message each.

Seeded: a failing input is printed, and the same on every machine.
"""

from __future__ import annotations

import json
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from mergefront.config import load_run_config
from mergefront.errors import UserError
from mergefront.json_file import DEEPEST, nesting, parse_json
from mergefront.merging.recipe import Recipe
from mergefront.models.checkpoint import _read_index, read_json
from mergefront.models.safetensors import LONGEST_HEADER, read_header
from mergefront.space.file import load_space
from mergefront.tasks import load_task
from mergefront.tasks.task_file import LIBRARY
from mergefront.yaml_file import LARGEST_FILE, read_mapping

INPUTS: Final = 500
ROOT: Final = Path(__file__).parent.parent

TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADER = json.dumps({"a": TENSOR, "b": {**TENSOR, "data_offsets": [8, 16]}}).encode()
RECIPE = {
    "format": "mergefront/recipe@1",
    "method": "task_arithmetic",
    "models": {"receiver": "r", "base": "b", "donors": {"a": {"model": "m"}}},
    "table": {"a": {"*": 0.5, "3.mlp": 1.0}},
    "overrides": [{"groups": ["*.norm"], "source": "base"}],
}
INDEX = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}

YAML_BITS: Final = (
    *("[a]: 1", "? [a, b]\n: 1", "2001-99-99", "!!int abc", "!!timestamp x", "!!bool x", "!!map x"),
    *("&a [*a]", "*b", "<<: 1", "!!python/name:os.system", "!!binary é", "!!int", "!!float x", "~"),
    *(
        "[" * 50,
        "{" * 50,
        "9" * 5000,
        "0x" + "f" * 200,
        "1e999",
        ".inf",
        ".nan",
        "true",
        "-1",
        "''",
    ),
    *(
        '"\\0"',
        '"\\ud800"',
        '"\\U00110000"',
        "x" * 5000,
        ": ",
        "- ",
        "\n",
        "\t",
        "#",
        "|",
        "!",
        "=",
    ),
)
JSON_BITS: Final = (
    *(
        "[" * 300,
        "]",
        "{",
        "}",
        "9" * 5000,
        "1e999",
        "NaN",
        "-Infinity",
        "true",
        "null",
        "-1",
        '""',
    ),
    *(
        '"\\ud800"',
        '"\\u0000"',
        '"x"',
        ",",
        ":",
        "\\",
        '"',
        "18446744073709551616",
        "[[[1]]]",
        "{}",
    ),
)


def mutated(text: str, bits: tuple[str, ...], random: random.Random) -> bytes:
    """Return a text with one to four faults."""
    for _ in range(random.randint(1, 4)):
        start = random.randrange(len(text) + 1)
        end = min(len(text), start + random.choice((0, 0, 1, 5, 40)))
        tokens = text.split()
        new = random.choice((random.choice(bits), random.choice(tokens or [""]), text[start:end]))
        text = text[:start] + new + text[end:]
    data = text.encode("utf-8", "surrogatepass")
    if random.random() < 0.1:
        at = random.randrange(len(data) + 1)
        data = data[:at] + bytes(random.randrange(256) for _ in range(3)) + data[at:]
    return data


def read_safetensors(file: Path) -> None:
    header = file.read_bytes()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    read_header(file)


def read_folder_index(file: Path) -> None:
    _read_index(file.parent)


PARSERS: Final[dict[str, tuple[str, str, tuple[str, ...], Callable[[Path], Any]]]] = {
    "run": (
        "run.yaml",
        (ROOT / "configs" / "digits.yaml").read_text(),
        YAML_BITS,
        lambda file: load_run_config(str(file), {"budget.hours": 1, "search.seed": 3}),
    ),
    "space": (
        "space.yaml",
        "method: ties\nparameters: {density: {low: 0.1, high: 0.9}}\nfrozen: [embedding, head]\n"
        "knobs:\n  - {donors: each, parts: [mlp], layers: {knots: 3}, low: 0, high: 1.5}\n",
        YAML_BITS,
        load_space,
    ),
    "task": ("task.yaml", (LIBRARY / "digits_reasoning.yaml").read_text(), YAML_BITS, load_task),
    "recipe": ("recipe.json", json.dumps(RECIPE), JSON_BITS, Recipe.read),
    "config": (
        "config.json",
        json.dumps({"architectures": ["X"], "text_config": {"hidden_size": 8}}),
        JSON_BITS,
        lambda file: read_json(file, ""),
    ),
    "index": ("model.safetensors.index.json", json.dumps(INDEX), JSON_BITS, read_folder_index),
    "header": ("model.safetensors", HEADER.decode(), JSON_BITS, read_safetensors),
}


@pytest.mark.parametrize("name", PARSERS)
def test_no_fuzzed_file_ends_in_a_traceback(name: str, tmp_path: Path) -> None:
    file_name, text, bits, read = PARSERS[name]
    file = tmp_path / file_name
    generator = random.Random(f"{name} 1")
    refused = 0
    for number in range(INPUTS):
        data = mutated(text, bits, generator)
        file.write_bytes(data)
        started = time.process_time()
        message = refusal(read, file, f"input {number}: {data!r}")
        assert time.process_time() - started < 2, f"input {number} was slow: {data!r}"
        if message:
            assert str(file) in message, f"input {number}: {data!r}: {message}"
            assert len(message.encode()) < 20_000, f"input {number}: {data!r}"
            refused += 1
    assert refused > INPUTS / 4


def refusal(read: Callable[[Path], Any], file: Path, label: str) -> str:
    """Return the message with which a file is refused; empty if it is read."""
    try:
        read(file)
    except UserError as error:
        return error.message
    except Exception as error:
        pytest.fail(f"{label}: {type(error).__name__}: {error}")
    return ""


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("? [a, b]\n: 1", "a key is a list, expected a text"),
        ("a: 2001-99-99", "'2001-99-99' is no timestamp"),
        ("a: " + "9" * 5000, "a number has 5,000 digits"),
        ("a: " + "[" * 2000, "nested too deeply"),
        ("x" * (LARGEST_FILE + 1), "larger than expected, at most 262,144 bytes"),
        (LAUGHS, "its aliases stand for over 100,000 values"),
        ("a: &a [*a]", "an alias stands inside its own anchor"),
        ('a: "\\0"', "a text holds NUL or half a surrogate pair"),
        ('a: "\\ud800"', "a text holds NUL or half a surrogate pair"),
    ],
)
def test_faults_of_yaml_are_named_with_file_and_place(
    tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=words) as told:
        read_mapping(file)
    assert told.value.message.startswith(f"{file}: ")


def test_thousands_of_unknown_fields_are_one_short_message(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("\n".join(f"k{number}: 1" for number in range(2000)))
    with pytest.raises(UserError, match=r"k14: unknown field.*; and 1,985 more") as told:
        load_run_config(str(file))
    assert len(told.value.message) < 10_000


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("[" * 100_000, "nested 100,000 deep, expected at most 200"),
        ('{"a": ' * 300 + "1" + "}" * 300, "nested 300 deep"),
        ('["\\ud800"]', "half a surrogate pair"),
        ('{"a": 1, "a": 2}', "key 'a' is given twice"),
        ("9" * 5000, "Exceeds the limit"),
        (" " * 101, "101 bytes, expected at most 100"),
    ],
)
def test_faults_of_json_are_sentences(data: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_json(data, 100 if data.isspace() else 1 << 24)


def test_nesting_is_counted_outside_of_texts_only() -> None:
    flat = json.dumps(['[{\\"[[' * 100] * 3).encode()
    assert nesting(flat) == 1
    assert parse_json(flat) == ['[{\\"[[' * 100] * 3
    assert nesting(b"[1," * 250 + b"1" + b"]" * 250) == 250 > DEEPEST


def test_headers_of_many_names_are_read_fast_and_long_ones_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    entry = json.dumps({"dtype": "U8", "shape": [0], "data_offsets": [0, 0]})
    entries = [f'"{number}": {entry}' for number in range(30_000)]
    header = ("{" + ", ".join([*entries, entries[-1]]) + "}").encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    started = time.process_time()
    with pytest.raises(UserError, match="key '29999' is given twice"):
        read_header(file)
    assert time.process_time() - started < 2
    file.write_bytes(struct.pack("<Q", LONGEST_HEADER + 1) + bytes(100))
    with pytest.raises(UserError, match="expected at most 100,000,000"):
        read_header(file)
