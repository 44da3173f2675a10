"""A process that says whether two formulas are equal: JSON lines in, JSON lines out.

`formula_pool` starts it as `python -m mergefront.tasks.scoring.formula_worker`. It is meant to be
killed: the kernel ends it after `seconds` of processor time for one pair, however deep in
big-number arithmetic it is, and its memory is limited. It never runs text as code: math-verify
parses LaTeX with a grammar. What libraries print goes to stderr.
"""

from __future__ import annotations

import json
import math
import os
import resource
import select
import signal
import sys
from functools import lru_cache
from typing import Any, TextIO

MEMORY = 4 << 30
"""Bytes of address space that a worker may take: a power of a power must fail, not swap."""

CLEAR_DIFFERENCE = 1e-4
"""Constants that differ by more than this, relative to the gold, are not equal. Where they differ
by less, math-verify decides, which rounds to six digits."""


def equal(request: dict[str, Any]) -> bool | None:
    """Return whether `answer` equals `gold`; None if one of them is no expression."""
    from math_verify import verify

    gold, answer = _parsed(request["gold"]), _parsed(request["answer"])
    if gold is None or answer is None:
        return None
    gold_value, answer_value = _constant(gold), _constant(answer)
    if gold_value is None or answer_value is None:
        return bool(verify(gold, answer, timeout_seconds=None))
    is_near = abs(gold_value - answer_value) <= CLEAR_DIFFERENCE * max(1.0, abs(gold_value))
    if is_near and verify(gold, answer, timeout_seconds=None):
        return True
    return _within_tolerance(gold_value, answer_value, request)


@lru_cache(maxsize=10_000)
def _parsed(text: str) -> Any:
    from math_verify import LatexExtractionConfig, parse

    expressions = parse(f"${text}$", [LatexExtractionConfig()], parsing_timeout=None)
    return expressions[0] if expressions else None


def _constant(expression: Any) -> float | None:
    """Return the value of a real constant."""
    if not getattr(expression, "is_number", False) or not expression.is_real:
        return None
    value = float(expression.evalf(17))
    return value if math.isfinite(value) else None


def _within_tolerance(gold: float, answer: float, request: dict[str, Any]) -> bool:
    """Return whether two constants are equal after rounding, or within the tolerance."""
    digits, absolute, relative = request["digits"], request["absolute"], request["relative"]
    if digits is None and not absolute and not relative:
        return False
    if digits is not None and round(gold, digits) == round(answer, digits):
        return True
    return bool(abs(gold - answer) <= max(absolute, relative * abs(gold)))


def _send(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def serve(requests: TextIO, replies: TextIO, seconds: float) -> None:
    """Answer requests until they end or the parent is gone."""
    parent = os.getppid()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the default ends the process
    while True:
        if not select.select([requests], [], [], 10.0)[0]:
            if os.getppid() != parent:
                return
            continue
        line = requests.readline()
        if not line:
            return
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            verdict = equal(json.loads(line))
        except Exception as error:  # sympy raises many kinds: such text is no expression
            sys.stderr.write(f"{type(error).__name__}: {error}"[:500] + "\n")
            verdict = None
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        _send(replies, {"equal": verdict})


def main() -> None:
    """Report that this process is ready, or why not; then serve."""
    replies, sys.stdout = sys.stdout, sys.stderr
    try:
        # The first pair loads sympy, which must not count as time of a real pair.
        verdict = equal(
            {"gold": r"\frac{1}{2}", "answer": "0.5", "digits": None, "absolute": 0, "relative": 0}
        )
        ready = {"ready": verdict is True, "error": "" if verdict else "1/2 is not 0.5 here"}
    except Exception as error:
        ready = {"ready": False, "error": f"{type(error).__name__}: {error}"}
    _send(replies, ready)
    if ready["ready"]:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        serve(sys.stdin, replies, float(sys.argv[1]))


if __name__ == "__main__":
    main()
