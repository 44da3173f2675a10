"""A process that says whether two expressions are equal: JSON lines in, JSON lines out.

It is started by `pool` as `python -m mergefront.tasks.scoring.worker` and is meant to be killed:
the kernel ends it after `seconds` of processor time for one pair, however deep in big-number
arithmetic it is, and its memory is limited. It never evaluates text as code; math-verify parses
LaTeX with a grammar. Anything printed by libraries goes to stderr.
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

FAR = 1e-4
"""Constants that differ by more, relative to the gold, are not equal; what is nearer is for
math-verify, which rounds to six digits, to say."""


def equal(request: dict[str, Any]) -> bool | None:
    """Whether `said` equals `gold`; None if one of them is no expression."""
    from math_verify import verify

    gold, said = _read(request["gold"]), _read(request["said"])
    if gold is None or said is None:
        return None
    mine, theirs = _constant(gold), _constant(said)
    if mine is None or theirs is None:
        return bool(verify(gold, said, timeout_seconds=None))
    if abs(mine - theirs) <= FAR * max(1.0, abs(mine)) and verify(gold, said, timeout_seconds=None):
        return True
    return _near(mine, theirs, request)


@lru_cache(maxsize=10_000)
def _read(text: str) -> Any:
    from math_verify import LatexExtractionConfig, parse

    found = parse(f"${text}$", [LatexExtractionConfig()], parsing_timeout=None)
    return found[0] if found else None


def _constant(expression: Any) -> float | None:
    """The value of a real constant."""
    if not getattr(expression, "is_number", False) or not expression.is_real:
        return None
    value = float(expression.evalf(17))
    return value if math.isfinite(value) else None


def _near(mine: float, theirs: float, request: dict[str, Any]) -> bool:
    """Whether two constants are equal after rounding, or within the tolerance."""
    digits, absolute, relative = request["digits"], request["absolute"], request["relative"]
    if digits is None and not absolute and not relative:
        return False
    if digits is not None and round(mine, digits) == round(theirs, digits):
        return True
    return bool(abs(mine - theirs) <= max(absolute, relative * abs(mine)))


def _say(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def serve(requests: TextIO, replies: TextIO, seconds: float) -> None:
    """Answer requests until they end or the parent is gone."""
    parent = os.getppid()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # whose default ends the process
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
        except Exception as error:  # any of sympy's: such text is no expression
            sys.stderr.write(f"{type(error).__name__}: {error}"[:500] + "\n")
            verdict = None
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        _say(replies, {"equal": verdict})


def main() -> None:
    """Report for work, with what is missing if that is so, then serve."""
    replies, sys.stdout = sys.stdout, sys.stderr
    try:
        # What a first pair needs is loaded before its clock runs.
        verdict = equal(
            {"gold": r"\frac{1}{2}", "said": "0.5", "digits": None, "absolute": 0, "relative": 0}
        )
        ready = {"ready": verdict is True, "error": "" if verdict else "1/2 is not 0.5 here"}
    except Exception as error:
        ready = {"ready": False, "error": f"{type(error).__name__}: {error}"}
    _say(replies, ready)
    if ready["ready"]:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        serve(sys.stdin, replies, float(sys.argv[1]))


if __name__ == "__main__":
    main()
