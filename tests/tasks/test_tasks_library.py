"""Every file of the library, over small copies of its data in their real schema."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from scripts.docs_tasks import table_block

from fixtures_perception import build_perception
from fixtures_tasks import build_reasoning
from mergefront.errors import UserError
from mergefront.records import SPLITS, Answer, Item, Rule
from mergefront.tasks import ItemSet, library, load_task, pool_of, pools_of, prefetch
from mergefront.tasks.scoring import score
from mergefront.tasks.task_file import LIBRARY

BOXED = "then give the letter of the right option in \\boxed{}."
LETTER = "Reason step by step, " + BOXED
OPEN = "Reason step by step, then give the final answer in \\boxed{}."
SHORT = "Answer with the letter of the right option."
COLOURS = "(A) red\n(B) blue\n(C) green\n(D) grey"


@dataclass(frozen=True)
class Want:
    """An item that a task must have, and replies with the value they must score."""

    id: str
    question: str
    answers: tuple[str, ...]
    rule: Rule
    replies: tuple[tuple[str, float], ...]
    stratum: str = ""
    cluster: str = ""  # empty: its images
    choices: tuple[str, ...] = ()
    images: int = 1
    unit: str = ""
    n: int = field(default=0)  # items of the whole task


CHOICE = Rule("choice")
WANTED = {
    "mathvista_math": [
        Want("1", "Hint: Please answer.\nQuestion: Q1?", ("1.2",), Rule("float", 1),
             (("It is 1.24.", 1), ("1.26", 0), ("", 0)), "float / figure question answering", n=4),
        Want("3", "Hint: Please answer.\nQuestion: Q3?", ("B",), CHOICE,
             (("The answer is (B).", 1), ("140°", 1), ("(A)", 0), ("I cannot tell.", 0)),
             "text / figure question answering", choices=("135°", "140°")),
        Want("4", "Hint: Please answer.\nQuestion: Q4?", ("[2014, 2016]",), Rule("list"),
             (("[2014,2016]", 1), ("[2016, 2014]", 0)), "list / figure question answering"),
        Want("781", "Hint: Please answer.\nQuestion: Q781?", ("B",), CHOICE, (("18", 1), ("9", 0)),
             "text / figure question answering", choices=("9", "18", "18")),
    ],
    "mathvista_general": [
        Want("2", "Hint: Please answer.\nQuestion: Q2?", ("1000",), Rule("integer"),
             (("1,000", 1), ("10", 0)), "integer / figure question answering", n=2),
    ],
    "mathverse_vision_only": [
        Want("10", "Please first reason. 4", ("2 \\sqrt{3}",), Rule("math"),
             (("So \\boxed{2\\sqrt{3}}", 1), ("\\boxed{2}", 0)), "free-form / Functions", "2", n=2),
    ],
    "mathverse": [
        Want("3", "Please first reason. Q02", ("C",), CHOICE, (("Answer: C", 1), ("D", 0)),
             "Vision Intensive", "1", n=10),
    ],
    "mathvision": [
        Want("1", f"Which number replaces the mark?\n{OPEN}", ("60",), Rule("math"),
             (("\\boxed{60}", 1), ("\\boxed{6}", 0)), "arithmetic / 2", n=3),
        Want("2", "Look at image 1 and choose.\n(A) A\n(B) B\n(C) C\n(D) D\n(E) E\n" + LETTER,
             ("C",), CHOICE, (("\\boxed{C}", 1), ("\\boxed{E}", 0)), "arithmetic / 2",
             choices=tuple("ABCDE")),
        Want("2828", f"A fraction?\n{OPEN}", ("\\frac{16}{7}",), Rule("math"),
             (("\\boxed{\\frac{16}{7}}", 1), ("16/7", 1), ("16", 0)), "arithmetic / 2"),
    ],
    "mathvision_mini": [
        Want("1", f"Which number replaces the mark?\n{OPEN}", ("60",), Rule("math"),
             (("\\boxed{60}", 1),), "arithmetic / 2", n=2),
    ],
    "dynamath": [
        Want("1 / sample_variant3", "What is f(3)?\nReason step by step, then give a number with "
             "three digits after the decimal point in \\boxed{}.", ("0.75",),
             Rule("number", absolute=0.001), (("\\boxed{0.7505}", 1), ("\\boxed{0.76}", 0)),
             "float / algebra", "1", n=30),
        Want("2 / sample_variant4", f"Is 4 even? Choices: (A) yes (B) no\n{LETTER}", ("A",), CHOICE,
             (("\\boxed{A}", 1), ("\\boxed{B}", 0)), "multiple choice / algebra", "2",
             choices=("yes", "no")),
        Want("3 / sample_variant10", f"Which month is 10?\n{OPEN}", ("december",), Rule("text"),
             (("\\boxed{December}", 1), ("\\boxed{May}", 0)), "text / algebra", "3"),
    ],
    "dynamath_worst": [
        Want("3 / sample_variant1", f"Which month is 1?\n{OPEN}", ("december",), Rule("text"),
             (("December", 1),), "text / algebra", "3", unit="dynamath_worst/3", n=30),
    ],
    "mm_math": [
        Want("*As shown", f"As shown, $AB=3$.\n{OPEN}", ("\\frac{3}{2}",), Rule("math"),
             (("\\boxed{1.5}", 1), ("\\boxed{1}", 0)), "easy", n=2),
    ],
    "mmmu": [
        Want("validation_Accounting_1", "image 1 Compare it with image 2. Which is it?\n(A) it's "
             f"$6\n(B) image 2\n{LETTER}", ("B",), CHOICE, (("B", 1), ("A", 0), ("?", 0)),
             "Accounting", choices=("it's $6", "image 2"), images=2, n=32),
        Want("validation_Agriculture_2", "How much is it?\nReason step by step, then give a "
             "single word, phrase or number in \\boxed{}.", ("1/3", "0.33"), Rule("text"),
             (("\\boxed{0.33}", 1), ("\\boxed{1/3}", 1), ("\\boxed{3}", 0)), "Agriculture"),
    ],
    "mmmu_pro": [
        Want("test_History_1", "What is in image 1?\n" + "\n".join(
             f"({'ABCDEFGHIJ'[i]}) thing {i}" for i in range(10)) + f"\n{LETTER}", ("J",), CHOICE,
             (("\\boxed{J}", 1), ("\\boxed{A}", 0)), "History",
             choices=tuple(f"thing {i}" for i in range(10)), n=1),
    ],
    "logicvista": [
        Want("*Figure 0", "Figure 0?\nReason step by step, then give the letter of the right "
             "option, or all right letters, in \\boxed{}.", ("B, D",), Rule("choices"),
             (("\\boxed{D, B}", 1), ("\\boxed{B}", 0)), n=3),
    ],
    "we_math": [
        Want("2steps_1 / 2steps_2", "Part 1?\n(A) 300, 400\n(B) 400, 300\n(C) 3000, 4000\n(D) 4000,"
             f" 3000\n(E) No correct answer\n{LETTER}", ("D",), CHOICE,
             (("D", 1), ("4000, 3000", 1), ("C", 0)), "2steps_2", "2steps_1", n=3, choices=(
             "300, 400", "400, 300", "3000, 4000", "4000, 3000", "No correct answer")),
    ],
    "visulogic": [
        Want("00001", f"From the four options, choose.\n{LETTER}", ("D",), CHOICE,
             (("<think>A?</think>D", 1), ("A", 0)), n=2),
    ],
    "mmstar_perception": [
        Want("1", f"Which is 1?\nOptions: A: a, b, B: Blue, C: C:\\ , D: none\n{SHORT}", ("B",),
             CHOICE, (("B", 1), ("blue", 1), ("The answer is B, not A or C.", 1), ("A", 0)),
             "object counting", choices=("a, b", "Blue", "C:\\", "none"), n=2),
    ],
    "mmstar_reasoning": [
        Want("5", f"Which is 5?\nOptions: A: a, b, B: Blue, C: C:\\ , D: none\n{LETTER}", ("B",),
             CHOICE, (("B", 1),), "geometry", choices=("a, b", "Blue", "C:\\", "none"), n=4),
    ],
    "blink": [
        Want("val_Counting_1", "About Counting?\nSelect from the following choices.\n(A) red\n(B) "
             f"blue\n{SHORT}", ("B",), CHOICE, (("(B)", 1), ("(A)", 0)), "Counting",
             choices=("red", "blue"), n=11),
    ],
    "blink_reasoning": [
        Want("val_Jigsaw_1", "About Jigsaw?\nSelect from the following choices.\n(A) red\n(B) "
             f"blue\n{LETTER}", ("B",), CHOICE, (("\\boxed{B}", 1),), "Jigsaw",
             choices=("red", "blue"), images=2, n=3),
    ],
    "mmvp": [
        Want("2", f"Tusks of pair 0?\n(A) Short\n(B) Very long\n{SHORT}", ("B",), CHOICE,
             (("(b)", 1), ("B.", 1), ("(a) Short", 0)), "", "0", ("Short", "Very long"),
             unit="mmvp/0", n=6),
    ],
    "realworldqa": [
        Want("*Which car", "Which car is closer?\n\nA. The left one.\nB. The right one.\nPlease "
             "answer directly with only the letter of the correct option and nothing else.", ("B",),
             CHOICE, (("B", 1), ("The right one.", 1), ("A", 0)), "choice",
             choices=("The left one.", "The right one."), n=2),
        Want("*How many", "How many lanes? Please answer directly with a single word or number.",
             ("3",), Rule("text"), (("3", 1), ("3.", 1), ("4", 0)), "open"),
    ],
    "textvqa": [
        Want("34602", "What brand is 0?\nAnswer the question using a single word or phrase.",
             ("nokia",) * 7 + ("Nokia phone",) * 2 + ("unknown",), Rule("vqa"),
             (("Nokia", 1), ("a nokia phone", 0.6), ("unknown", 0.3), ("apple", 0)), "", "a1", n=2),
    ],
    "ocrbench": [
        Want("*What is the date", "What is the date?", ("1 May", "May 1"), Rule("contains"),
             (("It is 1 may.", 1), ("2 May", 0)), "Doc-oriented VQA", n=2),
    ],
    "pope": [
        Want("random / 1", "Is there a dining table in the image?\nAnswer with yes or no.", ("no",),
             Rule("yes_no"), (("No.", 1), ("Yes, there is.", 0)), "random / no",
             "COCO_val2014_000000310196", n=4),
    ],
    "countbenchqa": [
        Want("*How many", "How many apples are there?\nAnswer with a number.", ("10",),
             Rule("integer"), (("10", 1), ("It is 10.", 1), ("9", 0)), "10", n=1),
    ],
    "cv_bench": [
        Want("0", f"How many?\n(A) 1\n(B) 2\n(C) 3\n{SHORT}", ("C",), CHOICE,
             (("The answer is (C)", 1), ("Answer: C", 1), ("A", 0)), "ADE20K / Count",
             choices=("1", "2", "3"), n=2),
    ],
    "vstar": [
        Want("direct_attributes / 0", f"What is the colour of the glove?\n{COLOURS}\n{SHORT}",
             ("C",), CHOICE, (("C", 1), ("green", 1), ("red", 0)), "direct_attributes",
             choices=("red", "blue", "green", "grey"), n=2),
    ],
    "chartqa": [
        Want("*How many", "How many bars?\nAnswer the question using a single word or number.",
             ("14",), Rule("relaxed"), (("14", 1), ("14.5", 1), ("15", 0)), "human_test", n=2),
    ],
    "ai2d": [
        Want("*What eats", f"What eats grass?\n(A) fox\n(B) hawk\n(C) hare\n(D) owl\n{SHORT}",
             ("C",), CHOICE, (("C", 1), ("hare", 1), ("B", 0)), "",
             choices=("fox", "hawk", "hare", "owl"), n=1),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Copies of all data sets under MERGEFRONT_DATASETS, and an empty cache."""
    root = tmp_path_factory.mktemp("datasets")
    build_reasoning(root)
    build_perception(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MERGEFRONT_DATASETS", str(root))
        patch.setenv("MERGEFRONT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield root


def items_of(name: str) -> list[Item]:
    pool = pool_of(load_task(LIBRARY / f"{name}.yaml"), LIBRARY)
    assert not pool.card()["faulty"]
    return [item for split in SPLITS for item in pool.take(split)]


def test_definitions_are_those_that_earlier_runs_recorded() -> None:
    """A changed field, even `notes`, keeps every run of the task from being resumed."""
    card = ItemSet({split: {} for split in SPLITS}, {task.name: task for task in library()}).card()
    recorded = hashlib.sha256(json.dumps(card["tasks"], sort_keys=True).encode()).hexdigest()
    assert recorded[:16] == "a6e6b60c6a8053b6"


def test_the_table_has_every_file_with_data_of_its_own() -> None:
    assert set(WANTED) == {task.name for task in library() if task.data.zoo is None}


@pytest.mark.parametrize("name", WANTED)
def test_library(name: str, copies: Path) -> None:
    items = items_of(name)
    assert len(items) == WANTED[name][0].n
    for want in WANTED[name]:
        if want.id.startswith("*"):  # named by its content
            item = next(i for i in items if i.question.startswith(want.id[1:]))
        else:
            item = next(i for i in items if i.id == f"{name}/{want.id}")
        assert item.question == want.question
        assert (item.answers, item.choices) == (want.answers, want.choices)
        assert (item.rule, item.stratum, item.unit) == (want.rule, want.stratum, want.unit)
        assert len(item.images) == want.images
        hub = load_task(LIBRARY / f"{name}.yaml").data.hub
        assert item.cluster == (f"{hub}/{want.cluster}" if want.cluster else item.cluster)
        assert bool(want.cluster) or len(item.cluster) == 64  # a hash of its images
        for text, value in want.replies:
            found = score(item, Answer(text, 9, True))
            assert found.value == pytest.approx(value), (name, text, found)


def test_items_of_a_unit_are_never_parted(copies: Path) -> None:
    pool = pool_of(load_task(LIBRARY / "dynamath_worst.yaml"), LIBRARY)
    for split in SPLITS:
        size = pool.size(split)
        assert size % 10 == 0
        for n in range(0, size + 1, 3):
            assert len(pool.take(split, n)) == n // 10 * 10


def test_what_a_file_says_is_checked_loudly(copies: Path, caplog: pytest.LogCaptureFixture) -> None:
    pool_of(load_task(LIBRARY / "visulogic.yaml"), LIBRARY)
    assert "1000 items are expected, the data gives 2" in caplog.text
    assert "not verified when the task file was written: image_path is" in caplog.text
    assert "Columns found: id, " in caplog.text


def test_what_two_tasks_ask_alike_is_asked_once(copies: Path) -> None:
    names = ("mathverse", "mathverse_vision_only")
    tasks = {name: load_task(LIBRARY / f"{name}.yaml") for name in names}
    pools = pools_of(tasks, dict.fromkeys(names, LIBRARY))
    assert sum(pools["mathverse"].size(split) for split in SPLITS) == 10
    assert [pools["mathverse_vision_only"].size(split) for split in SPLITS] == [0, 0, 0]
    assert {one.other_task for one in pools["mathverse_vision_only"].dropped} == {"mathverse"}


def test_offline_from_the_cache(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["blink_reasoning", "visulogic", "pope", "mathvista_math"]
    before = {name: items_of(name) for name in names}
    stored = {name: prefetch(load_task(LIBRARY / f"{name}.yaml")) for name in names}
    monkeypatch.delenv("MERGEFRONT_DATASETS")
    for name in names:
        pool = pool_of(load_task(LIBRARY / f"{name}.yaml"), LIBRARY)
        assert [i for split in SPLITS for i in pool.take(split)] == before[name]
        kept = stored[name]
        assert kept is not None
        assert pool.card()["source_sha256"] == kept.sha256 == kept.folder.name
    pope = stored["pope"]
    assert pope is not None
    card_bytes = (pope.folder / "images.bin").stat().st_size
    assert card_bytes == len(before["pope"][0].images[0])  # four rows, one image, kept once
    with pytest.raises(UserError, match=r"MMStar cannot be read \(val\).*\nhint: .*tasks fetch"):
        items_of("mmstar_perception")


def test_the_table_of_the_documentation_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "tasks.md"
    assert table_block() in page.read_text(), "make docs"
