"""The tables of `search_synthetic.py`, from the rows that it writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

RULES = ("raw", "model")
PROBLEM = ("surface", "layers", "modules", "knots", "objectives")
DEFAULTS = (4, 2)  # knots a module, objectives


def interval(values: Sequence[float]) -> str:
    """Mean with the half-width of its 95 % t interval over seeds."""
    half = float("nan")
    if len(values) > 1:
        half = float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / len(values) ** 0.5)
    return f"{np.mean(values):+.3f} ±{half:.3f}"


def print_tables(rows: list[dict[str, Any]], samplers: Sequence[str]) -> None:
    def of(key: str, **wanted: Any) -> list[float]:
        same = (r for r in rows if all(r[k] == v for k, v in wanted.items()))
        return [r[key] for r in sorted(same, key=lambda r: r["seed"])]

    budgets = _budgets(rows)
    for problem in dict.fromkeys(map(_problem, rows)):
        at = dict(zip(PROBLEM, problem, strict=True))
        ceiling = interval(of("ceiling", sampler=samplers[0], n=budgets[0], rule="raw", **at))
        print(f"\n{_title(problem)}; the best that the knots can reach: {ceiling[1:]}\n")
        print(
            "| sampler | n | raw | model | model: lead of noisy-gp | bias raw | bias model | ms |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for sampler in samplers:
            for n in budgets:
                here = at | {"sampler": sampler, "n": n}
                raw, model = of("share", rule="raw", **here), of("share", rule="model", **here)
                ours = of("share", rule="model", **(here | {"sampler": "noisy-gp"}))
                ahead = [a - b for a, b in zip(ours, model, strict=False)]
                gap = interval(ahead) if ahead and sampler != "noisy-gp" else "-"
                bias = [
                    f"{100 * np.mean(of('bias', rule=r, **here)):+.1f}" for r in ("raw", "model")
                ]
                print(
                    f"| {sampler} | {n} | {interval(raw)[1:]} | {interval(model)[1:]} | {gap} | "
                    f"{bias[0]} | {bias[1]} | {np.mean(of('ms', **here)):.0f} |"
                )
    misfits = [any(r["misfit"]) for r in rows if r["rule"] == "model"]
    print(f"\nmodels flagged as misfit: {sum(misfits)} of {len(misfits)}")


def print_summary(rows: list[dict[str, Any]], samplers: Sequence[str]) -> None:
    """Mean share by the model rule, problems side by side, and the paired lead over all of them."""
    kept = [r for r in rows if r["rule"] == "model"]
    share = {(*_problem(r), r["seed"], r["sampler"], r["n"]): r["share"] for r in kept}
    problems = list(dict.fromkeys(_problem(r) for r in kept))
    budgets, size = _budgets(rows), len(PROBLEM)
    print(
        f"| {' / '.join(map(str, budgets))} candidates | "
        f"{' | '.join(map(_title, problems))} | lead of noisy-gp |"
    )
    print("|---" * (len(problems) + 2) + "|")
    for sampler in samplers:
        cells = []
        for problem in problems:
            found = [
                [v for k, v in share.items() if k[:size] == problem and k[-2:] == (sampler, n)]
                for n in budgets
            ]
            cells.append(" / ".join(f"{np.mean(f):.3f}"[1:] for f in found))
        leads = [
            [share[*k[:-2], "noisy-gp", n] - v for k, v in share.items() if k[-2:] == (sampler, n)]
            for n in budgets
            if "noisy-gp" in samplers
        ]
        cells.append("-" if sampler == "noisy-gp" else " / ".join(map(interval, leads)))
        print(f"| {sampler} | {' | '.join(cells)} |")


def print_rules(rows: list[dict[str, Any]]) -> None:
    """What each rule returns, over all searches of the greater budget."""
    print("\n| rule | share | bias, points | members |\n|---|---|---|---|")
    for rule in RULES:
        same = [r for r in rows if r["rule"] == rule and r["n"] == _budgets(rows)[-1]]
        mean = {key: np.mean([r[key] for r in same]) for key in ("share", "bias", "size")}
        print(f"| {rule} | {mean['share']:.3f} | {100 * mean['bias']:+.2f} | {mean['size']:.0f} |")


def _problem(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in PROBLEM)


def _title(problem: tuple[Any, ...]) -> str:
    surface, layers, modules, knots, objectives = problem
    more = f", {knots * modules} knobs" if knots != DEFAULTS[0] else ""
    more += f", {objectives} objectives" if objectives != DEFAULTS[1] else ""
    return f"{surface} {layers}x{modules}{more}"


def _budgets(rows: list[dict[str, Any]]) -> list[int]:
    return sorted({row["n"] for row in rows})
