"""Shipped pairs: every configuration holds, the paper's are all there, the page is current."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts.docs_pairs import page, read_notes

from mergefront import files
from mergefront.config import RunConfig
from mergefront.jobs.plan import make_plan
from mergefront.jobs.plan.cost import task_sizes
from mergefront.space.file import load_space
from mergefront.tasks import task_path
from mergefront.yaml_file import load_yaml

ROOT = Path(__file__).parents[2]
SHIPPED = files.shipped_names("configs")
PAIRS = [name for name in SHIPPED if not name.startswith("digits")]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_hold(name: str) -> None:
    config = load_yaml(files.find_yaml("configs", name), RunConfig)
    assert config.name == name
    spec = load_space(files.find_yaml("search_spaces", config.space))
    for tasks in config.objective_tasks.values():
        for task in tasks:
            assert task_path(task, Path()).is_file()
    for size in task_sizes(config):
        assert not size.short_splits, size.task
    plan = make_plan(name, hub=None)
    assert plan.works, plan.remarks
    assert plan.dimension == 7 * len(config.donors)
    for alias, donor in config.donors.items():
        assert config.base or donor.base, alias
    if name in PAIRS:
        highs = {line.high for line in spec.knobs}
        assert highs == {0.3}
        text = files.find_yaml("configs", name).read_text()
        assert {"Reported", "Lineage"} <= set(read_notes(text)[1])


def test_every_pair_of_the_paper_is_shipped() -> None:
    found = set()
    for name in PAIRS:
        config = load_yaml(files.find_yaml("configs", name), RunConfig)
        found |= {
            (config.receiver.split("/")[1], d.model.split("/")[1]) for d in config.donors.values()
        }
    llama = [
        "dart-math-llama3-8b-uniform",
        "dart-math-llama3-8b-prop2diff",
        "llama3-mammoth-dcft",
        "MAmmoTH2-8B",
        "Llama-3-8B-Magpie-Align-SFT-v0.3",
        "DeepSeek-R1-Distill-Llama-8B",
    ]
    mistral = [
        "MetaMath-Mistral-7B",
        "MAmmoTH-7B-Mistral",
        "MAmmoTH2-7B",
        "dart-math-mistral-7b-uniform",
        "dart-math-mistral-7b-prop2diff",
    ]
    paper = {("llama3-llava-next-8b-hf", donor) for donor in llama}
    paper |= {("idefics2-8b", donor) for donor in mistral}
    paper |= {("InternVL2-Llama3-76B", "dart-math-llama3-70b-uniform")}
    paper |= {("Qwen2-VL-7B-Instruct", "Qwen2-Math-7B")}
    assert paper <= found


def test_the_papers_formula_is_searched_without_any_base(tmp_path: Path) -> None:
    text = files.find_yaml("configs", "llava-next-dart-prop").read_text()
    kept = [line for line in text.splitlines() if not line.startswith("    base:")]
    path = tmp_path / "x.yaml"
    path.write_text("\n".join(kept))
    assert not make_plan(str(path), hub=None).works  # task arithmetic needs it
    path.write_text("\n".join(kept).replace("space: real_pairs ", "space: real_pairs_linear "))
    plan = make_plan(str(path), hub=None)
    assert plan.works
    assert (plan.spec.method, plan.dimension) == ("linear", 7)


def test_the_page_of_pairs_is_current() -> None:
    assert (ROOT / "docs" / "pairs.md").read_text() == page(), "make docs"


def test_notes_are_read_from_comments_alone() -> None:
    comment = "# A title\n# Reported: one\n#   two\n# plain\n#   three\n# Caution: four\n"
    notes = {"Reported": "one two", "Caution": "four"}
    assert read_notes(comment + "name: x\n# Lineage: no") == ("A title", notes)
