"""What MLflow is told at the end of a run, read from front.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergefront.tracking.projection import Ending

Front = Mapping[str, Any]


def ending_of(front: Front, artifacts: Sequence[Path] = ()) -> Ending:
    """Return the numbers that end a run, and what is believed of its members.

    Validated hypervolume, test scores of the picks, shares of items and seconds that the race
    used and how many left, and how well the model foretells (`surrogate.Calibration`). Runs of
    earlier versions have no race and no belief.
    """
    metrics = dict([*_scores(front), *_race(front), *_calibration(front)])
    believed = {
        int(member["number"]): {
            f"{name}.believed{suffix}": float(one[key])
            for name, one in member.get("believed", {}).items()
            for suffix, key in (("", "mean"), (".sd", "se"))
        }
        for member in front["members"]
    }
    return Ending(metrics, artifacts, believed)


def _scores(front: Front) -> Iterator[tuple[str, float]]:
    volume = front["hypervolume"]["validation"]
    for key in ("value", "low", "high"):
        yield f"validation.hypervolume.{key}", volume[key]
    for member in front["members"]:
        for pick in member["picks"]:
            for objective, estimate in (member["test"] or {}).items():
                key = f"test.{pick.replace(':', '.')}.{objective}"
                yield key, estimate["mean"]
                if "tokens" in estimate:
                    yield f"{key}.tokens", estimate["tokens"]


def _race(front: Front) -> Iterator[tuple[str, float]]:
    race = front.get("race") or {}
    for key in ("items", "seconds"):
        if key in race:
            yield f"race.{key}", race[key]
    for why, number in race.get("left", {}).items():
        yield f"race.left.{why}", number


def _calibration(front: Front) -> Iterator[tuple[str, float]]:
    belief = front.get("belief") or {"calibration": {}}
    if "by_model" in belief:
        yield "belief.by_model", float(belief["by_model"])
    for name, one in belief["calibration"].items():
        for key in ("n", "mean_square", "within_95", "excess"):
            yield f"calibration.{name}.{key}", one[key]
