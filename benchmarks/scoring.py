"""What scoring costs: processor time for 1,000 answers of each kind, workers included.

    python benchmarks/scoring.py [--items 1000]

Formulas are timed three times: in a fresh pool (with its start), in a warm pool with pairs that are
new, and once more with pairs that are known. The last columns are the processor time of 1,000 such
answers as a share of a candidate's turnaround: 3 s is what the built-in models, with answers of a
word, take for 1,000 questions on two CPU cores; larger models, and answers of a thousand
characters, take tens of seconds.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence

from mergefront.records import Answer, Item, Rule
from mergefront.tasks.scoring import formula_pool, normalised_gold, score_all

TURNAROUNDS = (3.0, 20.0)
COT = "Let us see. " + "The sides are 3 and 4, and so on and so forth. " * 20


def questions(
    rule: Rule, gold: Callable[[int], str], reply: Callable[[int], str], n: int, choices: str = ""
) -> tuple[list[Item], list[Answer]]:
    """N items and answers; every third answer is wrong."""
    options = tuple(choices.split())
    items = []
    for i in range(n):
        normal = normalised_gold(rule, gold(i), options)
        assert normal is not None
        items.append(Item(str(i), "t", "?", (), (normal,), str(i), choices=options, rule=rule))
    return items, [Answer(reply(i + (i % 3 == 0)), 9, True) for i in range(n)]


def cost(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds, those of ended workers included."""
    wall, cpu = time.perf_counter(), _cpu()
    run()
    return time.perf_counter() - wall, _cpu() - cpu


def _cpu() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return seconds + sum(map(_worker_seconds, formula_pool.pids()))


def _worker_seconds(pid: int) -> float:
    """Processor seconds of a running worker."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def report(name: str, n: int, run: Callable[[], Sequence[object]]) -> None:
    wall, cpu = cost(run)
    shares = " | ".join(f"{cpu / n * 1000 / seconds:.1%}" for seconds in TURNAROUNDS)
    print(f"| {name} | {wall / n * 1e6:.0f} | {cpu / n * 1e6:.0f} | {shares} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1000)
    n = parser.parse_args().items
    surd = Rule("math")
    kinds = {
        "choice, a letter": (Rule("choice"), lambda i: "ABCD"[i % 4], lambda i: "ABCD"[i % 4]),
        "number, short": (Rule("number"), str, str),
        "number, at the end of 1,000 characters": (
            Rule("number"),
            str,
            lambda i: f"{COT}It is {i}.",
        ),
        "math, boxed number": (surd, str, lambda i: rf"{COT} \boxed{{{i}}}"),
        "vqa": (Rule("vqa"), lambda i: f"a cat {i}", lambda i: f"Cat {i}"),
    }
    print(f"{n} items; microseconds an item\n")
    head = " | ".join(f"of {seconds:g} s" for seconds in TURNAROUNDS)
    print(f"| answers | wall | processor | {head} |")
    print("|---|---|---|---|---|")
    for name, (rule, gold, reply) in kinds.items():
        options = "red green blue white" if rule.name == "choice" else ""
        items, answers = questions(rule, gold, reply, n, options)
        report(name, n, lambda items=items, answers=answers: score_all(items, answers))

    first, second, mixed = (formulas(start, n) for start in (1, 10**6, 2 * 10**6))
    plain = questions(surd, str, lambda i: rf"\boxed{{{i}}}", n)
    report("math, all new formulas, pool starting", n, lambda: score_all(*first))
    report("math, all new formulas, pool warm", n, lambda: score_all(*second))
    report("math, all formulas, known", n, lambda: score_all(*second))
    few = [
        [*new[: n * 9 // 100], *numbers[n * 9 // 100 :]]
        for new, numbers in zip(mixed, plain, strict=True)
    ]
    report("math, 9 % new formulas (MATH-Vision's free-form share)", n, lambda: score_all(*few))


def formulas(start: int, n: int) -> tuple[list[Item], list[Answer]]:
    """Answers that only the workers can mark."""
    return questions(
        Rule("math"),
        lambda i: rf"\frac{{{i + start}\sqrt{{3}}}}{{7}}",
        lambda i: rf"\boxed{{\frac{{{3 * (i + start)}}}{{7\sqrt{{3}}}}}}",
        n,
    )


if __name__ == "__main__":
    main()
