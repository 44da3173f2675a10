"""Labels scored by log-probability: the numbers are the model's own, in either engine."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mergefront.config import EngineConfig, ItemCounts
from mergefront.engine import Engine, open_engine
from mergefront.engine.labels import LabelTokens, label_answer
from mergefront.engine.prompts import chat_prompt, decode_image, load_processor
from mergefront.errors import EngineError, UserError
from mergefront.records import Answer, Item, Rule
from mergefront.tasks import item_set
from mergefront.tasks.scoring import score
from mergefront.tasks.scoring.choices import with_labels
from mergefront.zoo import model_folder

VLM = model_folder("vlm")
YES_NO = ("yes", "no")


def opened(kind: Any) -> Engine:
    settings = EngineConfig(kind=kind, dtype="float32", threads=1, batch_size=8, memory_gb=0.25)
    return open_engine(settings, Path(VLM))


@pytest.fixture(scope="module")
def questions() -> list[Item]:
    """Yes-no questions of the zoo, with their images."""
    counts = ItemCounts(search=120, validation=1, test=1)
    found = item_set({"p": ["digits_perception"]}, counts, Path())
    yes_no = [i for i in found.flat("search") if i.stratum == "exists"]
    return [with_labels(replace(i, rule=Rule("yes_no"))) for i in yes_no]


@pytest.fixture(scope="module")
def reference() -> Iterator[Engine]:
    engine = opened("transformers")
    yield engine
    engine.close()


def oracle(items: list[Item]) -> list[list[float]]:
    """Log-probabilities of yes and no from one plain forward pass an item."""
    from transformers import AutoModelForImageTextToText

    processor: Any = load_processor(VLM)
    model = AutoModelForImageTextToText.from_pretrained(VLM, dtype="float32").eval()
    ids = [processor.tokenizer.encode(w, add_special_tokens=False)[0] for w in YES_NO]
    found = []
    for item in items:
        inputs = processor(
            text=[chat_prompt(processor, item)],
            **({"images": [[decode_image(item, 0)]]} if item.images else {}),
            add_special_tokens=False,
            return_tensors="pt",
        )
        with torch.inference_mode():
            last_V = model(**inputs).logits[0, -1]
        found.append(last_V.log_softmax(-1)[ids].tolist())
    return found


def test_they_are_those_of_a_plain_forward_pass(reference: Engine, questions: list[Item]) -> None:
    longer = replace(questions[0], question="please look . " + questions[0].question)
    blind = replace(questions[1], images=())
    asked = [longer, *questions[:6], blind]
    reference.check(asked)
    answers = reference.generate(asked)
    for answer, expected in zip(answers, oracle(asked), strict=True):
        assert answer.logprobs == pytest.approx(expected, abs=1e-4)
        assert answer.text == YES_NO[expected.index(max(expected))]
        assert (answer.tokens, answer.finished) == (1, True)


def test_words_and_labels_mix_and_agree(reference: Engine, questions: list[Item]) -> None:
    spoken = [replace(item, labels=(), max_tokens=4) for item in questions]
    mixed = [item for pair in zip(questions, spoken, strict=True) for item in pair]
    answers = reference.generate(mixed)
    assert all(not a.logprobs for a in answers[1::2])
    said = [(a.text, b.text) for a, b in zip(answers[::2], answers[1::2], strict=True)]
    assert len(said) >= 20
    assert {b for _, b in said} == set(YES_NO)
    assert all(a == b for a, b in said)  # greedy decoding says the likeliest word first
    marks = [score(i, a).value for i, a in zip(questions, answers[::2], strict=True)]
    assert sum(marks) / len(marks) > 0.8  # the receiver knows these


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="vLLM is not installed")
def test_vllm_finds_the_same(reference: Engine, questions: list[Item]) -> None:
    spoken = replace(questions[3], labels=(), max_tokens=4)
    many = replace(questions[2], labels=tuple("0123456789"))
    asked = [questions[0], spoken, many, *questions[1:8], replace(questions[1], images=())]
    engine = opened("vllm")
    try:
        engine.check(asked)
        found = engine.generate(asked)
        for unusable in (
            replace(spoken, labels=("two words",)),
            replace(spoken, labels=("zebra",)),
        ):
            with pytest.raises(EngineError, match="is no single token"):
                engine.check([unusable])
    finally:
        engine.close()
    for mine, theirs in zip(found, reference.generate(asked), strict=True):
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=2e-3)
        assert mine.text == theirs.text
    assert len(found[2].logprobs) == 10


class Letters:
    """A tokenizer of single characters, in which "AB" and " A" are tokens too."""

    unk_token_id = None
    merged = ("AB", " A", "Yes", "yes")

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        ids = []
        while text:
            token = next((m for m in self.merged if text.startswith(m)), text[0])
            ids.append(hash(token))
            text = text[len(token) :]
        return ids


def asking(*labels: str) -> Item:
    return Item("i", "t", "which?", (), ("A",), "c", labels=labels)


def test_spellings_that_are_one_token_count_and_no_others() -> None:
    tokens = LabelTokens(Letters()).of(asking("A", "B", "yes"), "which?:")
    assert [set(ids) for ids in tokens] == [
        {hash("A"), hash(" A")}, {hash("B")}, {hash("yes"), hash("Yes")}
    ]  # fmt: skip
    # Behind an A, the letter B would melt into the prompt's last token.
    with pytest.raises(EngineError, match=r"item i: its label 'B' is no single token"):
        LabelTokens(Letters()).of(asking("B"), "which?A")
    with pytest.raises(EngineError, match=r"'no' is no single token of this model \(it takes 2"):
        LabelTokens(Letters()).of(asking("yes", "no"), "which?:")
    with pytest.raises(EngineError, match="labels 'a' and 'A' are one token"):
        LabelTokens(Letters()).of(asking("a", "A"), "which?:")


def test_the_likeliest_label_answers_and_ties_do_not() -> None:
    half, third = math.log(0.5), math.log(0.3)
    answer = label_answer(asking("A", "B"), ((1,), (2, 3)), {1: half, 2: third, 3: third})
    assert answer.text == "B"
    assert answer.logprobs == pytest.approx((half, math.log(0.6)))
    even = label_answer(asking("A", "B"), ((1,), (2,)), {1: half, 2: half})
    assert even == Answer("", 1, True, (half, half))
    assert score(asking("A", "B"), even).status == "no_answer"
    never = -math.inf
    assert label_answer(asking("A", "B"), ((1,), (2,)), {1: never, 2: half}).text == "B"


def test_labels_follow_from_the_rule_or_are_refused() -> None:
    item = asking()
    assert with_labels(replace(item, rule=Rule("yes_no"))).labels == YES_NO
    chosen = replace(item, rule=Rule("choice"), choices=("a", "b", "c"))
    assert with_labels(chosen).labels == ("A", "B", "C")
    with pytest.raises(UserError, match="task t: the rule number has no labels"):
        with_labels(replace(item, rule=Rule("number")))
