"""Tables and picture of the benchmark, from the runs that `run.py` has finished so far.

    python benchmarks/search/table.py DIR --json benchmarks/search/results.json \\
        --plot docs/pictures/search_benchmark.svg
    python benchmarks/search/table.py benchmarks/search/results.json      # the same tables again

The JSON has a row for each run and rule of returning, enough to draw both again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from figure import draw
from summary import Row, differences, paired, summarise
from workbench import OBJECTIVES, SETTINGS

OURS = "noisy-gp"
ORDER = (
    "noisy-gp",
    "noisy-gp, as many candidates",
    "noisy-gp full",
    "como-cma full",
    "mergekit-evolve",
    "mergekit-evolve, one best",
    "nsga2-mergenetic",
    "ap-bmm",
    "uniform",
    "random",
)


def arms_of(rows: Sequence[Row]) -> list[str]:
    """Arms that have rows, in the table's order."""
    found = {row["arm"] for row in rows}
    return [arm for arm in ORDER if arm in found] + sorted(found - {*ORDER})


def print_shares(rows: Sequence[Row]) -> None:
    """Share of the best front, and by how much ours is ahead."""
    settings = [name for name in SETTINGS if any(row["setting"] == name for row in rows)]
    ahead = differences(rows, OURS)
    print("\nShare of the best front's hypervolume, mean over seeds; in brackets: noisy-gp ahead"
          " by, paired by seed, with its 95 % t interval\n")  # fmt: skip
    print("| arm | " + " | ".join(settings) + " | all: lead |")
    print("|---" * (len(settings) + 2) + "|")
    for arm in arms_of(rows):
        cells = [_share_cell(rows, arm, setting, ahead) for setting in settings]
        whole = ahead.get(arm, {}).get("all")
        cells.append("-" if whole is None else _gap(whole))
        print(f"| {arm} | " + " | ".join(cells) + " |")


def _share_cell(
    rows: Sequence[Row], arm: str, setting: str, ahead: dict[str, dict[str, dict[str, float]]]
) -> str:
    mine = [r["share"] for r in rows if r["arm"] == arm and r["setting"] == setting]
    if not mine:
        return "-"
    gap = ahead.get(arm, {}).get(setting)
    return f"{np.mean(mine):.3f}" + ("" if gap is None else f" ({_gap(gap)})")


def _gap(gap: dict[str, float]) -> str:
    return f"{gap['mean']:+.3f} ±{gap['half']:.3f}, {gap['better']} of {gap['n']}"


def print_honesty(rows: Sequence[Row]) -> None:
    """Bias of what is claimed, what it cost."""
    print("\nWhat each claims, and what it cost; means over all settings and seeds. Bias: claimed "
          "minus judged, points, with a 95 % t interval over runs\n")  # fmt: skip
    names = list(OBJECTIVES)
    print("| arm | " + " | ".join(f"bias, {name}" for name in names)
          + " | claims within their 95 % interval | points | candidates | items | engine s | "
          "proposing s | CPU s |")  # fmt: skip
    print("|---" * (len(names) + 8) + "|")
    for arm in arms_of(rows):
        mine = [row for row in rows if row["arm"] == arm]
        biases = [paired([100 * row["bias"][m] for row in mine]) for m in range(len(names))]
        cells = [f"{one['mean']:+.1f} ±{one['half']:.1f}" for one in biases]
        cells += [
            f"{100 * np.mean([row['held'] for row in mine]):.0f} %",
            f"{np.mean([len(row['judged']) for row in mine]):.1f}",
            *(f"{_known_mean([row[key] for row in mine]):.0f}"
              for key in ("candidates", "items", "engine", "propose", "cpu")),
        ]  # fmt: skip
        print(f"| {arm} | " + " | ".join(cells) + " |")


def _known_mean(values: Sequence[float | None]) -> float:
    known = [one for one in values if one is not None]
    return float(np.mean(known)) if known else float("nan")


def print_racing(rows: Sequence[Row]) -> None:
    """What racing saves and what it costs, at the same number of candidates."""
    raced, full = (
        {(row["setting"], row["seed"]): row for row in rows if row["arm"] == arm}
        for arm in (f"{OURS}, as many candidates", f"{OURS} full")
    )
    both = [(one, full[key]) for key, one in raced.items() if key in full]
    if not both:
        return
    gap = paired([a["share"] - b["share"] for a, b in both])
    ratios = {
        key: 100 * _known_mean([a[key] for a, _ in both]) / _known_mean([b[key] for _, b in both])
        for key in ("items", "cpu", "engine")
    }
    print(f"\nRacing, at as many candidates as without, {len(both)} pairs: "
          f"{ratios['items']:.0f} % of the items, {ratios['cpu']:.0f} % of the CPU seconds, "
          f"{ratios['engine']:.0f} % of the engine's wall seconds; share {_gap(gap)}")  # fmt: skip


def print_best(result: dict[str, Any]) -> None:
    """The best front of each setting."""
    print("\nBest front ever found, (reasoning, perception) on the judge items\n")
    for setting, front in result["best"].items():
        members = "; ".join(f"{one['judged'][0]:.3f}, {one['judged'][1]:.3f} ({one['arm']})"
                            for one in front["members"])  # fmt: skip
        print(f"- {setting}: hypervolume {front['volume']:.4f}: {members}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("results", type=Path, help="a folder of run.py, or a JSON written by this")
    parser.add_argument("--json", type=Path, help="write everything that tables and picture need")
    parser.add_argument("--plot", type=Path, help="write the picture")
    args = parser.parse_args()
    if args.results.is_file():
        result = json.loads(args.results.read_text())
    else:
        machine = f"{os.cpu_count()} CPUs, {platform.platform()}, shared"
        result = {"machine": machine, "date": time.strftime("%Y-%m-%d"), **summarise(args.results)}
    rows = result["rows"]
    if not rows:
        raise SystemExit(f"{args.results}: no run is finished and judged yet")
    seeds = sorted({row["seed"] for row in rows})
    print(f"{result['machine']}, {result['date']}; seeds {seeds}; {result['items']} items an "
          f"objective; receiver {[round(x, 3) for x in result['receiver']]}")  # fmt: skip
    print_shares(rows)
    print_honesty(rows)
    print_racing(rows)
    print_best(result)
    if args.json:
        args.json.write_text(_lines(_rounded(result)))
    if args.plot:
        draw(rows, arms_of(rows), args.plot)


def _lines(result: dict[str, Any]) -> str:
    """JSON with a line for each row."""
    head = json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=1)
    rows = ",\n".join("  " + json.dumps(row) for row in result["rows"])
    return f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
