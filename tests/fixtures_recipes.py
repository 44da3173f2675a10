"""The groups of a small receiver, and the models of a recipe on it."""

from __future__ import annotations

from mergefront.config import Donor
from mergefront.models.anatomy import GroupIndex
from mergefront.models.locate import ModelNames
from mergefront.records import Group, Part


def receiver_groups(layers: int = 3, *, tied: bool = False) -> tuple[Group, ...]:
    def one(name: str, layer: int | None, part: Part) -> Group:
        return Group(name, layer, part, (f"{name}.weight",), "F32")

    parts: tuple[Part, ...] = ("attention", "mlp", "norm")
    return (
        one("embedding", None, "embedding"),
        *(one(f"{layer}.{part}", layer, part) for layer in range(layers) for part in parts),
        one("final.norm", None, "norm"),
        *(() if tied else (one("head", None, "head"),)),
    )


GROUPS = receiver_groups()
INDEX = GroupIndex(GROUPS)
MODELS = ModelNames(
    receiver="zoo:vlm",
    base="zoo:base",
    donors={"b": Donor(model="org/b", revision="abc"), "a": Donor(model="folder/a", base="x/y")},
)
