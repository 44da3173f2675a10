"""A run directory with a study and item files, as a search leaves them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from fixtures_cli import ZOO_RUN
from mergefront.config import RunConfig
from mergefront.records import RESULT_ATTRIBUTE, Evaluation, Split
from mergefront.runs.directory import RECEIVER, ItemRecord, RunDirectory, blind_name, with_costs
from mergefront.runs.history import (
    CandidateRecord,
    estimates_of,
    open_study,
    record_members,
    record_picks,
)
from mergefront.runs.study import record_opening
from mergefront.yaml_file import validate

N = 120
ABILITY = {  # (reasoning, perception) of the receiver and three candidates
    RECEIVER: (0.3, 0.9),
    "1": (0.7, 0.9),
    "2": (0.75, 0.6),
    "3": (0.4, 0.9),
}


def record(item: str, score: float, **more: Any) -> ItemRecord:
    made = ItemRecord("search", "reasoning", "t", item, item, 0, score, "7", "ok", 2, "7")
    return replace(made, **more)


def scores(name: str, split: Split, column: int, blind: bool = False) -> np.ndarray:
    """The same latent items for every model, so that models disagree on few."""
    latent = np.random.default_rng([len(split), column]).random(N)
    own = np.random.default_rng([len(split), column, *name.encode()]).random(N)
    ability = 0.5 * ABILITY[name][column] if blind else ABILITY[name][column]
    return (0.8 * latent + 0.2 * own < ability).astype(float)


def records(name: str, split: Split, blind: bool = False) -> list[ItemRecord]:
    """Reasoning: single items. Perception: pairs, of which both halves must be right."""
    found = []
    for column, objective in enumerate(("reasoning", "perception")):
        for index, value in enumerate(scores(name, split, column, blind)):
            pair = f"pair {index // 2}" if column else ""
            item = f"{split}/{objective}/{index}"
            status = "no_answer" if index % 10 == 0 else "truncated" if index % 10 == 1 else "ok"
            one = record(item, value, split=split, objective=objective, task=objective)
            one = replace(one, unit=pair, cluster=pair or item, status=status, tokens=index)
            found.append(one)
    return found


def simulated_run(
    tmp_path: Path, mode: str = "generate", **changes: Any
) -> tuple[RunDirectory, optuna.Study]:
    """A run directory with a study and item files, as a search leaves them.

    `mode` is how the task of perception is answered.
    """
    config = validate({**ZOO_RUN, **changes}, RunConfig, "x.yaml")
    run = RunDirectory.create_or_resume(tmp_path, config)
    tasks = {"digits_reasoning": {"mode": "generate"}, "digits_perception": {"mode": mode}}
    run.check_manifest({"items": {"tasks": tasks}})
    study = open_study(run, create=True)
    for name in ABILITY:
        estimates = estimates_of(with_costs(records(name, "search"), config.costs))
        for split in ("search", "validation", "test"):
            run.add_items(name, records(name, split))
        if name in (RECEIVER, "1"):
            run.add_items(blind_name(name), records(name, "validation", blind=True))
        origin = "receiver" if name == RECEIVER else "como-cma"
        evaluation = Evaluation(0, (0.5,), origin, estimates)
        names = list(config.objectives)
        result = CandidateRecord.of(evaluation, names, {"k": 0.5}, elapsed=1.0)
        trial = optuna.trial.create_trial(
            params={"k": 0.5},
            distributions={"k": optuna.distributions.FloatDistribution(0, 1)},
            values=[estimates[objective].mean for objective in config.objectives],
            user_attrs={RESULT_ATTRIBUTE: result.to_dict()},
        )
        study.add_trial(trial)
    record_members(study, [1, 2, 3])
    record_picks(study, {"knee": 1, "best:reasoning": 2, "best:perception": 3})
    record_opening(study, "test", "1", 4)
    return run, study
