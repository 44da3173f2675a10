"""Scoring rules: hand-written cases with the traps that cost other harnesses points."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergefront.records import Answer, Item, Rule, RuleName, Score
from mergefront.scoring import RULES, final_span, normal_gold, score


def item(*answers: str, choices: tuple[str, ...] = ()) -> Item:
    return Item("t/1", "t", "?", (), answers, "c", choices=choices)


def mark(rule: RuleName, asked: Item, answer: Answer) -> Score:
    return score(replace(asked, rule=Rule(rule)), answer)


def said(text: str, finished: bool = True) -> Answer:
    return Answer(text, len(text.split()), finished)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("so <think>2+2 is 5</think> 4", "so  4"),
        ("it is 5</think>4", "4"),
        (r"thus \boxed{\frac{1}{2}} and \boxed{x_{1}}.", "x_{1}"),
        ("<answer>no</answer> <answer> yes </answer>", "yes"),
        ("<think>never closed \\boxed{7}", ""),
        ("\N{MINUS SIGN}3", "-3"),
    ],
)
def test_final_span(text: str, span: str) -> None:
    assert final_span(text) == span


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is B, not A or C.", "B"),
        ("The correct answer is (B) because A does not fit.", "B"),
        ("The answer is **B**.", "B"),
        (r"\boxed{C}", "C"),
        ("(D)", "D"),
        ("B", "B"),
        ("b", "B"),
        ("(b)", "B"),
        ("b.", "B"),
        ("The answer is b.", "B"),
        ("It must be (b), for the rest is wrong", "B"),
        ("(B) fits, see part (a)", "B"),
        ("Let me see.\nb", "B"),
        ("a", "A"),
        ("I see a cat", None),
        ("The answer is a dog", None),
        ("a dog", None),
        ("A cat sits on the mat, so the answer is B.", "B"),
        ("The answer is A dog runs.", None),
        ("I cannot tell.", None),
        ("", None),
        ("It shows a light blue sky", "C"),
        ("red or blue", None),
    ],
)
def test_choice(text: str, letter: str | None) -> None:
    asked = item("B", choices=("red", "blue", "light blue", "green"))
    verdict = mark("choice", asked, said(text))
    if letter is None:
        assert (verdict.value, verdict.status) == (0.0, "no_answer")
    else:
        assert (verdict.extracted, verdict.value) == (letter, float(letter == "B"))


@pytest.mark.parametrize(
    ("text", "gold", "value"),
    [
        ("The sum is 1,234.", "1234", 1.0),
        ("0.5", "1/2", 1.0),
        ("first 3 then 4", "4", 1.0),
        ("The answer is 3 because 4 is too large", "3", 1.0),
        ("-3", "3", 0.0),
        ("\N{MINUS SIGN}3", "-3", 1.0),
        ("1/0", "1", 0.0),
        (".5", "0.5", 1.0),
        ("pages 3-5", "5", 1.0),
        ("2024-01-05", "5", 1.0),
        ("5%-10%", "10", 1.0),
        ("x=-5", "-5", 1.0),
        ("from 3 to -5", "-5", 1.0),
    ],
)
def test_number(text: str, gold: str, value: float) -> None:
    assert mark("number", item(gold), said(text)).value == value


def test_yes_no_takes_the_first_and_punctuation_does_not_matter() -> None:
    assert mark("yes_no", item("yes"), said("Yes.")).value == 1.0
    assert mark("yes_no", item("yes"), said("No, yes is wrong")).value == 0.0
    assert mark("yes_no", item("no"), said("nothing here")).status == "no_answer"


def test_exact_needs_the_whole_answer() -> None:
    assert mark("exact", item("7"), said(" 7. ")).value == 1.0
    assert mark("exact", item("7"), said("17")).value == 0.0
    assert mark("exact", item("top left"), said("Top  left")).value == 1.0


def test_an_unfinished_wrong_answer_is_called_truncated() -> None:
    assert mark("exact", item("7"), said("let me", finished=False)).status == "truncated"
    assert mark("exact", item("7"), said("7", finished=False)).status == "ok"


@pytest.mark.parametrize(
    ("rule", "gold", "normal"),
    [
        ("exact", "Top left.", "Top left."),
        ("exact", "?!", None),
        ("number", "1,234", "1,234"),
        ("number", "\N{MINUS SIGN}3", "-3"),
        ("number", "3 cats", None),
        ("choice", "B", "B"),
        ("choice", "(b)", "B"),
        ("choice", "blue", "A"),
        ("choice", "C", None),
        ("choice", "2", None),
        ("yes_no", "Yes.", "yes"),
        ("yes_no", "true", None),
    ],
)
def test_golds_that_no_answer_can_match_are_none(
    rule: RuleName, gold: str, normal: str | None
) -> None:
    choices = ("blue", "red")
    assert normal_gold(rule, gold, choices) == normal
    if normal is not None:
        assert mark(rule, item(normal, choices=choices), said(gold)).value == 1.0


def test_choice_golds_without_options_are_a_to_d() -> None:
    assert [normal_gold("choice", gold, ()) for gold in "ADE"] == ["A", "D", None]


@given(st.text(), st.sampled_from(sorted(RULES)))
def test_every_rule_marks_any_text(text: str, rule: str) -> None:
    verdict = mark(rule, item("A", choices=("x", "y")), said(text))  # type: ignore[arg-type]
    assert verdict.value in (0.0, 1.0)
    assert verdict.status in ("ok", "no_answer", "parse_error", "truncated")
