"""Scoring rules: hand-written cases with the traps that cost other harnesses points."""

from __future__ import annotations

import random
import signal
import string
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergefront.records import Answer, Item, Rule, RuleName, Score
from mergefront.tasks.scoring import (
    RULES,
    answer_text,
    formula_pool,
    normalised_gold,
    score,
    score_all,
)


def item(*answers: str, choices: tuple[str, ...] = ()) -> Item:
    return Item("t/1", "t", "?", (), answers, "c", choices=choices)


def mark(rule: RuleName | Rule, asked: Item, answer: Answer) -> Score:
    return score(replace(asked, rule=rule if isinstance(rule, Rule) else Rule(rule)), answer)


def said(text: str, finished: bool = True) -> Answer:
    return Answer(text, len(text.split()), finished)


def test_every_rule_that_a_task_may_name_has_a_function() -> None:
    assert set(RULES) == set(get_args(RuleName))


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("so <think>2+2 is 5</think> 4", "so  4"),
        ("it is 5</think>4", "4"),
        ("<think>a</think> no <think>\\boxed{7}", "no"),
        (r"thus \boxed{\frac{1}{2}} and \boxed{x_{1}}.", "x_{1}"),
        (r"\boxed{5} then \boxed{\frac{1}{2}", "5"),
        (r"\boxed{\fbox{5}}", r"\fbox{5}"),
        ("<|begin_of_box|>B<|end_of_box|>", "B"),
        ("<answer>no</answer> <answer> yes </answer>", "yes"),
        ('{"solution": "1 + 1", "short answer": "2"}', "2"),
        ('{"answer": 2.5}', "2.5"),
        ("<think>never closed \\boxed{7}", ""),
        ("7</s>", "7"),
        ("The answer is 1.\n\nQuestion: how many?\nAnswer: 2", "The answer is 1."),
        ("\N{MINUS SIGN}3", "-3"),
        ("5 cm\N{SUPERSCRIPT TWO}", "5 cm^{2}"),
        ("3\N{VULGAR FRACTION ONE HALF}", "3 1/2"),
    ],
)
def test_answer_text(text: str, span: str) -> None:
    assert answer_text(text) == span


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
        ("Answer B", "B"),
        ("My choice: B", "B"),
        ("The answer cannot be A, so it has to be another.", ""),
        ("The answer is B. It could not be A.", "B"),
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
        ("It is not blue.", None),
        ("None of these: neither red nor blue fits.", None),
        ("Blue, not red, I think.", "B"),
        ("The answer is B, C or D.", None),
        (r"\boxed{A and B}", None),
        (r"\boxed{\text{(B)}\quad blue}", "B"),
        (r"\boxed{x}. Therefore, the answer is (B).", "B"),
        ("(A) and (D)\n\n(A) 1, 6\n(D) 1, 2", None),
        ("(A) red\n(B) blue\n(C) light blue\n(D) green", None),
        ("(A) red\n(B) blue\n(C) light blue\n(D) green\nIt is the second: blue", "B"),
        ("Option (B): no. Option (C): it fits. All in all, Option C is correct.", "C"),
        ("B. blue", "B"),
        ("**Answer:** C", "C"),
        ("答案是D。", "D"),
        ("I cannot tell whether the answer is here.", None),
        ("<think>The answer is A.</think>B", "B"),
        ("<think>The answer is A.", None),
    ],
)
def test_choice(text: str, letter: str | None) -> None:
    asked = item("B", choices=("red", "blue", "light blue", "green"))
    verdict = mark("choice", asked, said(text))
    if letter is None:
        assert (verdict.value, verdict.status) == (0.0, "no_answer")
    else:
        assert (verdict.extracted, verdict.value) == (letter, float(letter == "B"))


def test_options_with_the_same_text_are_one() -> None:
    options = ("9", "18", "18")
    assert normalised_gold(Rule("choice"), "18", options) == "B"
    for text in ("B", "C", "18", "The answer is (C) 18."):
        assert mark("choice", item("B", choices=options), said(text)).value == 1.0, text


def test_a_yes_inside_a_sentence_is_no_option() -> None:
    asked = item("B", choices=("Yes", "No"))
    assert mark("choice", asked, said("There is no such thing here.")).status == "no_answer"
    assert mark("choice", asked, said("No, it is smaller.")).value == 1.0


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("B, D", "B, D"),
        ("D and B", "B, D"),
        ("(B), (D)", "B, D"),
        ("BD", "B, D"),
        (r"\boxed{B, D}", "B, D"),
        ("The answers are B and D.", "B, D"),
        ("The correct options are B and D.", "B, D"),
        ("The answer is: B & D", "B, D"),
        ("B", "B"),
        ("B, D, E", "B, D, E"),
        ("Both look right to me.", ""),
    ],
)
def test_choices_are_sets(text: str, letters: str) -> None:
    verdict = mark("choices", item("B, D"), said(text))
    assert (verdict.extracted, verdict.value) == (letters, float(letters == "B, D"))


@pytest.mark.parametrize(
    ("text", "gold", "value"),
    [
        ("The sum is 1,234.", "1234", 1.0),
        ("Three.", "3", 1.0),
        ("three red dogs", "3", 1.0),
        ("two or three", "2", 0.0),
        ("There are twenty-one cats.", "20", 0.0),
        ("The answer is twenty-one.", "1", 0.0),
        ("There are one hundred cats.", "1", 0.0),
        ("The answer is two thirds.", "2", 0.0),
        ("two and a half", "2", 0.0),
        ("about 1{,}234 m", "1234", 1.0),
        ("0.5", "1/2", 1.0),
        (r"\boxed{\dfrac{1}{2}}", "0.5", 1.0),
        ("1 1/2", "1.5", 1.0),
        (r"2\frac{1}{3}", "7/3", 1.0),
        (r"-2 \frac13", "-7/3", 1.0),
        (r"\frac{360}7", "360/7", 1.0),
        ("first 3 then 4", "4", 1.0),
        ("The answer is 3 because 4 is too large", "3", 1.0),
        ("-3", "3", 0.0),
        ("\N{MINUS SIGN}3", "-3", 1.0),
        ("1/0", "1", 0.0),
        (".5", "0.5", 1.0),
        ("x=-5", "-5", 1.0),
        ("first 3, then -5", "-5", 1.0),
        ("1e5", "100000", 1.0),
        (r"2.5 \times 10^{3}", "2500", 1.0),
        ("25%", "25", 1.0),
        ("25%", "0.25", 1.0),
        ("90°", "90", 1.0),
        ("$5.20", "5.2", 1.0),
        ("5 cm^2", "5", 1.0),
        ("The area is 50 cm²", "2", 0.0),
        ("There are three dogs.", "3", 1.0),
        ("There are 3 bars. The values are 58, 59 and 63.", "3", 1.0),
        ("There are two bars with more than 60.", "2", 1.0),
        ("15 - 3 = 12. Therefore, 12 are left of the 15.", "15", 1.0),
        ("Therefore, there are 12 left of the 15.", "12", 1.0),
        ("**4** of them are. I hope this helps!", "4", 1.0),
        ("the 2nd", "2", 0.0),
        ("<think>7", "7", 0.0),
    ],
)
def test_number(text: str, gold: str, value: float) -> None:
    assert mark("number", item(gold), said(text)).value == value


@pytest.mark.parametrize(
    "text",
    [
        "7 or 8",
        "The answer is 7 or 8.",
        "7:8",
        "7-8",
        "7,8",
        "8,7",
        "between 7 and 8",
        "2024-07-08",
        "1/0",
        "The answer is 7 + 8",
        "5%-8%",
        "from 7 to 8",
        "9" * 9000,
        "1e999",
    ],
)
@pytest.mark.parametrize("gold", ["7", "8"])
@pytest.mark.parametrize("rule", ["number", "integer", "float", "math"])
def test_what_is_no_single_number_is_never_right(rule: RuleName, gold: str, text: str) -> None:
    verdict = mark(rule, item(gold), said(text))
    assert verdict.value == 0.0
    if rule != "math":  # which can tell that a sum or a quotient is another number
        assert verdict.status == "parse_error"


@pytest.mark.parametrize(
    "text",
    [
        "inf",
        "Infinity",
        "nan",
        "",
        "I cannot provide an answer for the 2 people.",
        "no idea",
        "-",
        "For example, if there are 2, then the answer would be larger.",
    ],
)
def test_what_is_no_number_is_no_answer(text: str) -> None:
    assert mark("number", item("2"), said(text)) == Score(0.0, "", "no_answer")


def test_number_tolerances() -> None:
    for rule, text, value in [
        (Rule("number", absolute=0.001), "3.1409", 1.0),
        (Rule("number", absolute=0.001), "3.1389", 0.0),
        (Rule("number", relative=0.1), "3.4", 1.0),
        (Rule("number", relative=0.1), "3.5", 0.0),
        (Rule("float", digits=1), "3.1449", 1.0),
        (Rule("float", digits=1), "3.2", 0.0),
        (Rule("float", digits=2), "3.1391", 1.0),
        (Rule("integer"), "3.9", 1.0),
        (Rule("integer"), "4", 0.0),
        (Rule("integer"), "10/3", 0.0),
        (Rule("integer"), "314%", 0.0),
        (Rule("relaxed"), "3.29", 1.0),
        (Rule("relaxed"), "3.31", 0.0),
        (Rule("relaxed", relative=0.2), "3.31", 1.0),
    ]:
        assert mark(rule, item("3.14"), said(text)).value == value, (rule, text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[2014, 2016]", 1.0),
        ("The years are [2014, 2016].", 1.0),
        ("2014 and 2016", 1.0),
        ("(2014, 2016.0)", 1.0),
        ("[2016, 2014]", 0.0),
        ("[2014, 2016, 2018]", 0.0),
        ("[__import__('os'), 2016]", 0.0),
        ("none", 0.0),
    ],
)
def test_list(text: str, value: float) -> None:
    assert mark("list", item("[2014, 2016]"), said(text)).value == value


@pytest.mark.parametrize(
    ("rule", "golds", "text", "value"),
    [
        ("text", ["the red car"], "The answer is red car.", 1.0),
        ("text", ["red car"], "red cars", 0.0),
        ("text", ["1/2"], "0.5", 1.0),
        ("text", ["red"], "I think it is red", 0.0),
        ("relaxed", ["Red"], "red", 1.0),
        ("contains", ["STOP"], "The sign says stop here", 1.0),
        ("contains", ["two\nlines"], "it reads two lines", 1.0),
        ("contains", ["far"], "x " * 60 + "far", 0.0),
        ("contains", ["far"], "x " * 60 + "so the answer is far", 1.0),
        ("contains", [r"\frac { 1 } { 2 }"], r"$\frac{1}{2}$", 1.0),
        ("contains", ["a b"], "ab", 0.0),
        ("anls", ["hello world"], "Hello  World", 1.0),
        ("anls", ["hello"], "hallo", 0.8),
        ("anls", ["hello"], "xxllo", 0.6),
        ("anls", ["hello"], "xxxxo", 0.0),
        ("anls", ["abcd", "hello"], "hello", 1.0),
        ("anls", ["hello"], "hello " * 9, 0.0),
        ("vqa", ["red"] * 10, "A red.", 1.0),
        ("vqa", ["red"] * 3 + ["blue"] * 7, "red", 0.9),
        ("vqa", ["red"] * 2 + ["blue"] * 8, "red", 0.6),
        ("vqa", ["red"] + ["blue"] * 9, "red", 0.3),
        ("vqa", ["2"] * 10, "two", 1.0),
        ("vqa", ["dont walk"] * 10, "don't walk", 1.0),
        ("vqa", ["1000"] * 10, "1,000", 1.0),
        ("vqa", ["red"], "red", 1.0),
        ("vqa", ["red"] * 10, "green", 0.0),
    ],
)
def test_words(rule: RuleName, golds: list[str], text: str, value: float) -> None:
    verdict = mark(rule, item(*golds), said(text))
    assert verdict.value == pytest.approx(value)
    assert verdict.status == "ok"


@given(st.lists(st.sampled_from(["a1", "b1", "c1"]), min_size=2, max_size=10))
def test_vqa_is_the_mean_over_leaving_one_gold_out(golds: list[str]) -> None:
    kept = [golds[:i] + golds[i + 1 :] for i in range(len(golds))]
    brute = sum(min(1.0, left.count("a1") / 3) for left in kept) / len(golds)
    assert mark("vqa", item(*golds), said("a1")).value == pytest.approx(brute)


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
    ("rule", "gold", "text", "value"),
    [
        ("number", "7", "7", 1.0),
        ("number", "7", r"\boxed{7} and", 1.0),
        ("number", "7", "The answer is 7 since", 1.0),
        ("number", "7", "The answer is 7", 0.0),  # of 72, perhaps
        ("number", "7", "3 + 4 = 7, but", 0.0),
        ("math", "7", "3 + 4 gives 7. Now", 0.0),
        ("math", "7", "<think>it is \\boxed{7}", 0.0),
        ("choice", "B", "The answer is B", 1.0),
        ("choice", "B", "First look at (B)", 0.0),
        ("choice", "B", "It may be blue", 0.0),
        ("yes_no", "no", "I look at the image. There is no", 0.0),
        ("yes_no", "yes", "Yes, the dog", 1.0),
        ("choices", "B", "The answer is B", 0.0),
        ("choices", "B, D", "The answer is B and D because", 1.0),
        ("list", "[1, 2]", "The answer is [1, 2", 0.0),
        ("list", "[1, 2]", "The answer is [1, 2], since", 1.0),
    ],
)
def test_of_a_cut_answer_only_what_is_explicit_counts(
    rule: RuleName, gold: str, text: str, value: float
) -> None:
    options = ("red", "blue") if rule == "choice" else ()
    verdict = mark(rule, item(gold, choices=options), said(text, finished=False))
    assert (verdict.value, verdict.status) == (value, "ok" if value else "truncated")


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
        ("number", "-$5", "-$5"),
        ("number", "1e5", "1e5"),
        ("integer", "3.0", "3.0"),
        ("float", "n/a", None),
        ("list", "[0, 8]", "[0, 8]"),
        ("list", "[]", None),
        ("choices", "B, A", "A, B"),
        ("choices", "C", None),
        ("choices", "", None),
        ("math", r"$\boxed{\frac{3}{4}}$", r"\frac{3}{4}"),
        ("math", "\x0crac{3}{4}", r"\frac{3}{4}"),
        ("math", r"$\frac{90}{23}^{\circ}$", r"\frac{90}{23}"),
        ("math", "69{degrees}", "69"),
        ("math", "$$", None),
        ("text", "...", None),
        ("vqa", "?", None),
        ("anls", "", None),
        ("contains", " ", None),
        ("relaxed", "12", "12"),
    ],
)
def test_golds_that_no_answer_can_match_are_none(
    rule: RuleName, gold: str, normal: str | None
) -> None:
    choices = ("blue", "red")
    assert normalised_gold(Rule(rule), gold, choices) == normal
    if normal is not None:
        assert mark(rule, item(normal, choices=choices), said(normal)).value == 1.0


def test_choice_golds_without_options_are_a_to_d() -> None:
    assert [normalised_gold(Rule("choice"), gold, ()) for gold in "ADE"] == ["A", "D", None]


PIECES = ["the answer is ", r"\boxed{", "}", "(A)", "B", "yes", " or ", "3", "1/2", ", ", "\n"]


@settings(deadline=None)
@given(
    st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=8).map("".join)),
    st.sampled_from(sorted(set(RULES) - {"math"})),
    st.booleans(),
)
def test_every_rule_marks_any_text(text: str, rule: RuleName, finished: bool) -> None:
    asked = item("A", "3", choices=("x", "y"))
    verdict = mark(rule, asked, said(text, finished))
    assert 0.0 <= verdict.value <= 1.0
    assert verdict.status in ("ok", "no_answer", "parse_error", "truncated")
    assert finished or verdict.value > 0 or verdict.status == "truncated"
    with_rule = replace(asked, rule=Rule(rule))
    assert score_all([with_rule], [said(text, finished)]) == [verdict]


@given(st.text(alphabet=string.ascii_lowercase + " .,", max_size=60))
def test_prose_without_letters_or_options_names_none(text: str) -> None:
    verdict = mark("choice", item("B", choices=("\u00e4", "\u00f6")), said("z " + text + " z"))
    assert verdict.status == "no_answer"


BLOCKS = [
    *(
        "a",
        "B",
        "D and ",
        "BD",
        "A, ",
        "(A) ",
        "(A)\n",
        "\n- (B).",
        "yes ",
        "n't ",
        "not ",
        "option B",
    ),
    *("the answer is ", "answer ", "choices are ", "A is the most ", "is ", "so ", "\n#### "),
    *(
        "1",
        "12 ",
        "1/",
        "1 1/2 ",
        "1,111",
        "1e",
        "x10^",
        "9",
        "= 1 ",
        "=",
        "7 or ",
        "between ",
        "per ",
    ),
    *(
        " ",
        "\n ",
        ". ",
        ", ",
        "&",
        "'",
        "*",
        "**1",
        "(",
        "[1,",
        "{",
        "\\",
        "\\(",
        "\\[",
        "$x",
        "^{-",
        "√(",
    ),
    *("\\boxed{", "\\frac{1", "\\text{", "<answer>", "<think>", "</think>", "</s>", '"answer": "'),
    *("cannot ", "there are ", "twenty ", "for example ", "\nquestion:", "½", "答案是"),
]
"""What the rules' patterns look for, to be repeated."""

FRAMES = [("", ""), ("The answer is ", " x"), ("\\boxed{", "}"), ("<answer>", "</answer>?")]


class TooSlowError(Exception):
    """Marking one answer took too long."""


def seconds_to_mark(asked: Item, answer: Answer) -> float:
    """Processor seconds of one mark; a pattern that takes exponential time is stopped."""

    def stop(*_: object) -> None:
        raise TooSlowError

    handler = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, 5.0)
    start = time.process_time()
    try:
        score(asked, answer)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, handler)
    return time.process_time() - start


def repeated_blocks(samples: int) -> Iterator[tuple[str, str]]:
    """A name and 10,000 characters: each block repeated, then samples of several blocks in turn."""
    yield "numbers were looked for after each equals sign", "\\boxed{" + "e5=" * 3000 + "}"
    yield "ends were looked for after each end", "the answer is " + "<eos>" * 6000 + "!"
    generator = random.Random(0)
    words = [[block] for block in BLOCKS]
    words += [generator.choices(BLOCKS, k=generator.randint(2, 4)) for _ in range(samples)]
    for place, blocks in enumerate(words):
        before, after = FRAMES[place % len(FRAMES)]
        block = "".join(blocks)
        yield before + block + after, before + block * (10_000 // len(block)) + after


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_no_repetition_makes_a_rule_slow(rule: RuleName, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark takes 10 to 50 ms; a quadratic pattern takes a second, an exponential one years."""
    monkeypatch.setattr(formula_pool, "verdicts", lambda pairs: [None] * len(pairs))
    golds = ["A"] if rule.startswith("choice") else ["3"] * 10
    asked = item(*golds, choices=("red", "12", "A") if rule == "choice" else ())
    asked = replace(asked, rule=Rule(rule))
    for number, (name, text) in enumerate(repeated_blocks(60)):
        answer = said(text, finished=number % 3 > 0)
        fastest = min(seconds_to_mark(asked, answer), 0.5)
        if fastest == 0.5:  # the machine may have been busy
            fastest = min(seconds_to_mark(asked, answer) for _ in range(2))
        assert fastest < 0.5, (rule, name)


def test_a_row_of_letters_is_marked_at_once() -> None:
    """Each further letter made this four times slower: 93 characters took half a minute."""
    for length in (93, 400, 10_000):
        text = "A, B, C, D, " * (length // 12)
        assert seconds_to_mark(replace(item("A, B"), rule=Rule("choices")), said(text)) < 0.5


def test_a_very_long_answer_is_marked_in_bounded_time() -> None:
    text = "We add 3 and 4 and (A) and {so on}. " * 5_600
    for rule in RULES:
        asked = item("B" if rule.startswith("choice") else "7", choices=("red", "blue"))
        start = time.process_time()
        assert mark(rule, asked, said(text + " The answer is B888.")).value == 0.0
        assert time.process_time() - start < 10, rule
