"""What a person sees of a running search, as lines and as a live view."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fixtures_cli import ZOO_RUN
from fixtures_science import OBJECTIVES, REFERENCE, belief_of, estimates, raced_candidates
from mergefront.cli import display
from mergefront.config import RunConfig
from mergefront.records import Evaluation, Raced
from mergefront.search.finish import Step
from mergefront.yaml_file import validate

EVALUATIONS = raced_candidates()
BELIEF = belief_of(EVALUATIONS[:60])


def search() -> Any:
    config = validate({**ZOO_RUN, "budget": {"candidates": 64}}, RunConfig, "x.yaml")
    return SimpleNamespace(
        setup=SimpleNamespace(config=config, clock=SimpleNamespace(elapsed=lambda: 90.0)),
        receiver_estimates=estimates((0.0,) * 12, 0, 300),
        reference=REFERENCE,
        race=SimpleNamespace(belief=BELIEF, rungs=[{}] * 4),
    )


def shown(
    monkeypatch: pytest.MonkeyPatch, evaluations: list[Evaluation], *, terminal: bool
) -> list[str]:
    console = Console(record=True, force_terminal=terminal, width=200, highlight=False)
    monkeypatch.setattr(display, "err", console)
    with display.Display(search(), evaluations[:60]) as watched:
        for evaluation in evaluations[60:]:
            watched.add(evaluation)
        watched.step(Step("validation", "candidate 31", done=2, total=12))
    return console.export_text().splitlines()


def test_elsewhere_each_candidate_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    left = Evaluation(63, (), "como-cma", EVALUATIONS[5].objectives, raced=Raced(2, "behind"))
    failed = Evaluation(64, (), "como-cma", {}, failure="engine said no")
    lines = shown(monkeypatch, [*EVALUATIONS[:62], left, failed], terminal=False)
    assert [line.split(")")[0] for line in lines[:4]] == [
        f"candidate {number} ({count}/64"
        for number, count in ((60, 61), (61, 62), (63, 63), (64, 64))
    ]
    for line, evaluation in zip(lines[:3], [*EVALUATIONS[60:62], left], strict=True):
        for name in OBJECTIVES:
            estimate = evaluation.objectives[name]
            assert f"{name} {100 * estimate.mean:.1f} ± {100 * estimate.se:.1f}" in line
        assert " hv 0." in line
    assert lines[2].endswith("left after rung 2 of 4: behind")
    assert lines[3] == "candidate 64 (64/64) failed: engine said no"
    assert lines[4:] == ["validation 3/12: candidate 31"]


def test_a_terminal_shows_the_front_as_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(shown(monkeypatch, EVALUATIONS, terminal=True))
    view = text[text.rindex("receiver: ") :]
    assert "validation items" in text
    assert "% of the items asked" in view
    assert "1.5 min so far" in view
    assert "candidates in their 95 % interval" in view
    table = [line.split() for line in view.splitlines()]
    first_column = [row[0] for row in table if row]
    for number in BELIEF.front[:12]:
        assert str(number) in first_column
