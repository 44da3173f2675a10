"""The rule `math` and its worker processes: verdicts, isolation, and what a bad answer may cost."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from mergefront.records import Answer, Item, Rule, Score
from mergefront.tasks.scoring import BackgroundScorer, normalised_gold, score, score_all
from mergefront.tasks.scoring import formula_pool as pool

MATH = Rule("math")


def question(gold: str, rule: Rule = MATH) -> Item:
    normal = normalised_gold(rule, gold, ())
    assert normal is not None
    return Item("t/1", "t", "?", (), (normal,), "c", rule=rule)


def said(text: str) -> Answer:
    return Answer(text, 1, True)


CASES = [
    (r"2\sqrt{3}", r"\boxed{2\sqrt{3}}", 1.0),
    (r"2\sqrt{3}", r"\boxed{2}", 0.0),
    (r"2\sqrt{3}", r"\boxed{\sqrt{12}}", 1.0),
    (r"2\sqrt{3}", "2√3", 1.0),
    (r"\frac{\sqrt{6}}{6}", r"The answer is \(\frac{1}{\sqrt{6}}\).", 1.0),
    (r"\frac{\sqrt{6}}{6}", "0.4082", 0.0),
    (r"\frac{3}{4}\pi{inches}", r"so it is \boxed{\frac{3\pi}{4} \text{ inches}}", 1.0),
    ("x^2-1", r"\boxed{(x-1)(x+1)}", 1.0),
    ("45^2", "2025", 1.0),
    ("2^{2} 13^2", "676", 1.0),
    ("1024", r"\boxed{2^10}", 1.0),
    ("7/3", r"\boxed{2\frac{1}{3}}", 1.0),
    ("7", r"\boxed{2\frac{1}{3}}", 0.0),
    ("6", r"\boxed{3!}", 1.0),
    ("3", r"\boxed{3!}", 0.0),
    ("(3,-4)", "(3, -4)", 1.0),
    ("(3,-4)", "(-4, 3)", 0.0),
    (r"\{1,2\}", r"\boxed{\{2, 1\}}", 1.0),
    (r"\infty", r"\boxed{\infty}", 1.0),
    ("1", r"\boxed{\infty}", 0.0),
    ("8", r"\boxed{S_{\triangle ABC}=8}", 1.0),
]
PLAIN = [
    ("7", "7", 1.0),
    ("7", "x = 7", 1.0),
    ("7", "Hence we get\n$$x = 7.$$", 1.0),
    ("7", "7 or 8", 0.0),
    ("0.75", r"\boxed{\frac{3}{4}}", 1.0),
    (r"\frac{36}{13}", "36/13", 1.0),
    ("1:2", r"\boxed{\frac{1}{2}}", 1.0),
    ("4", "3:4", 0.0),
    ("0.25", "25%", 1.0),
    ("25", r"\boxed{25\%}", 1.0),
    ("1234", "1,234", 1.0),
    ("-3", "\N{MINUS SIGN}3", 1.0),
    ("100000", "1e5", 1.0),
    ("60", r"$60^\circ$", 1.0),
    ("12", r"\boxed{12 \text{ cm}^2}", 1.0),
    (r"\pi", "π", 1.0),
    ("12", r"\boxed{C}", 0.0),
    ("12", "a cube", 0.0),
    ("1/2", "1/0", 0.0),
]


@pytest.mark.parametrize(("gold", "text", "value"), [*CASES, *PLAIN])
def test_math(gold: str, text: str, value: float) -> None:
    assert score(question(gold), said(text)).value == value


def test_plain_numbers_and_prose_never_reach_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pairs: object) -> list[bool | None]:
        raise AssertionError(pairs)

    monkeypatch.setattr(pool, "verdicts", refuse)
    for gold, text, value in PLAIN:
        if "1/0" not in text:  # the one that is no number
            assert score(question(gold), said(text)).value == value


def test_digits_and_tolerances_hold_for_formulas() -> None:
    for rule, text, value in [
        (Rule("math"), "1.41", 0.0),
        (Rule("math", digits=2), "1.41", 1.0),
        (Rule("math", digits=3), "1.41", 0.0),
        (Rule("math", absolute=0.01), "1.41", 1.0),
        (Rule("math", relative=0.01), "1.41", 1.0),
        (Rule("math", relative=0.01), r"\boxed{\frac{\pi}{2}}", 0.0),
    ]:
        assert score(question(r"\sqrt{2}", rule), said(text)).value == value, (rule, text)


def test_many_are_marked_as_one_by_one() -> None:
    items = [question(gold) for gold, _, _ in [*CASES, *PLAIN]]
    items.append(replace(items[0], rule=Rule("number"), answers=("3",)))
    answers = [said(text) for _, text, _ in [*CASES, *PLAIN]] + [said("It is 3.")]
    assert score_all(items, answers) == [score(*both) for both in zip(items, answers, strict=True)]
    with pytest.raises(ValueError, match="argument"):
        score_all(items, answers[1:])


BAD = [
    r"\boxed{9^{9^{9^9}}}",
    r"\boxed{(x+1)^{5000}}",
    r"\boxed{" + "(" * 140 + "x" + ")" * 140 + "}",
]


@pytest.mark.slow
def test_an_answer_that_takes_too_long_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "CPU_SECONDS", 0.5)
    pool.close()  # so that the next workers know of it
    bad = [said(text) for text in BAD]
    good = [said(rf"\boxed{{\sqrt{{{n}}}}}") for n in range(2, 9)]
    items = [question("9")] * len(bad)
    items += [question(rf"\frac{{{n}}}{{\sqrt{{{n}}}}}") for n in range(2, 9)]
    scores = score_all(items, bad + good)
    assert [one.value for one in scores] == [0.0] * len(bad) + [1.0] * len(good)
    assert scores[0].status == scores[1].status == "parse_error"
    workers = pool.pids()
    assert score_all(items, bad + good) == scores  # and they cost that only once
    assert pool.pids() == workers
    pool.close()
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_text_is_never_run_as_code(tmp_path: Path) -> None:
    marker = tmp_path / "run"
    code = f"__import__('pathlib').Path('{marker}').touch()"
    texts = [code, rf"\boxed{{{code}}}", f"The answer is {code}", rf"\boxed{{\text{{{code}}}+1}}"]
    for rule in ("math", "list", "number", "choices"):
        for text in texts:
            assert score(replace(question("7"), rule=Rule(rule)), said(text)).value == 0.0
    assert not marker.exists()


def test_a_worker_that_is_killed_is_replaced() -> None:
    assert score(question(r"\sqrt{75}"), said(r"\boxed{5\sqrt{3}}")).value == 1.0
    before = pool.pids()
    for worker in list(pool._workers):
        worker.process.kill()
        worker.process.wait()
    first = score(question(r"\sqrt{98}"), said(r"\boxed{7\sqrt{2}}"))
    second = score(question(r"\sqrt{50}"), said(r"\boxed{5\sqrt{2}}"))
    assert first in (Score(1.0, r"7\sqrt{2}", "ok"), Score(0.0, r"7\sqrt{2}", "parse_error"))
    assert second.value == 1.0
    assert not set(before) & set(pool.pids())


def test_threads_share_the_pool() -> None:
    found: dict[int, float] = {}

    def ask(n: int) -> None:
        text = rf"\boxed{{{n}\sqrt{{5}}}}"
        found[n] = score(question(rf"\sqrt{{{5 * n * n}}}"), said(text)).value

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(21, 27)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(21, 27), 1.0)


def test_a_program_without_a_main_guard_can_score_and_leaves_nobody_behind(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from mergefront.records import Answer, Item, Rule\n"
        "from mergefront.tasks.scoring import formula_pool, score\n"
        "item = Item('1', 't', '?', (), (r'\\sqrt{8}',), 'c', rule=Rule('math'))\n"
        "print(score(item, Answer(r'\\boxed{2\\sqrt{2}}', 1, True)).value, *formula_pool.pids())\n"
    )
    (tmp_path / "math_verify.py").write_text("raise SystemExit('the wrong one')\n")
    done = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    value, worker = done.stdout.split()
    assert value == "1.0"
    assert not Path(f"/proc/{worker}").exists()


# --- marking while the engine generates ---------------------------------------------------------


def test_marks_made_while_generating_are_the_same() -> None:
    """Answers come in any order, some not at all before the end; formulas and plain ones mixed."""
    items = [
        Item(f"t/{i}", "t", "q", (), (gold,), "c", rule=Rule(rule))  # type: ignore[arg-type]
        for i, (rule, gold) in enumerate(
            [("math", r"2\sqrt{3}"), ("exact", "7"), ("math", "x^2+1"), ("number", "3")] * 5
        )
    ]
    said = [r"\boxed{\sqrt{12}}", "7", r"\boxed{1+x^2}", "it is 4"] * 5
    answers = [Answer(text, 3, True) for text in said]
    marking = BackgroundScorer(items)
    for place in (19, 3, 8, 0, 1, 14):
        marking.take(place, answers[place])
    assert marking.scores(answers) == score_all(items, answers)
    assert [one.value for one in marking.scores(answers)] == [1.0, 1.0, 1.0, 0.0] * 5


def test_an_error_while_marking_in_the_background_is_raised() -> None:
    item = Item("t/0", "t", "q", (), ("7",), "c")
    marking = BackgroundScorer([item])
    marking.take(5, Answer("7", 1, True))
    with pytest.raises(IndexError):
        marking.scores([Answer("7", 1, True)])
