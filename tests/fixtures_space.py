"""Search spaces of two donors over the groups of a small receiver."""

from __future__ import annotations

from typing import Any

from fixtures_recipes import receiver_groups
from mergefront.space.file import SpaceSpec
from mergefront.space.space import Space
from mergefront.yaml_file import validate

DONORS = ("a", "b")
BODY = ["attention", "mlp", "norm"]


def spec(
    *lines: dict[str, Any],
    frozen: tuple[str, ...] = ("embedding", "head"),
    method: str = "linear",
) -> SpaceSpec:
    knobs = [{"parts": BODY, "low": 0.0, "high": 1.0} | line for line in lines]
    return validate({"method": method, "knobs": knobs, "frozen": frozen}, SpaceSpec, "my.yaml")


def space(*lines: dict[str, Any], layers: int = 6, **options: Any) -> Space:
    return Space.build(spec(*lines, **options), DONORS, receiver_groups(layers))
