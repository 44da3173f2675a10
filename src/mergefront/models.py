"""Which models a merge is made of: as the user names them, and as they are found on disk.

`Models` is what configs and recipes hold; `located` turns it into `ModelRefs`, folders as plain
strings that may cross process boundaries. Not here: opening them (`merging.sources`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from mergefront.checkpoint import locate
from mergefront.config import Donor, Strict

RESERVED: Final = frozenset({"receiver", "base", "zero", "tied", "each"})


def _alias(alias: str) -> str:
    if alias in RESERVED or not alias.isidentifier():
        raise ValueError(
            f"{alias!r} cannot name a donor: use letters, digits and _, "
            f"and none of {', '.join(sorted(RESERVED))}"
        )
    return alias


class Models(Strict):
    """The models of a recipe, as the user wrote them; the donors' order is the sum's order."""

    receiver: str = Field(min_length=1)
    revision: str | None = None
    base: str | None = None
    donors: dict[Annotated[str, AfterValidator(_alias)], Donor] = Field(default_factory=dict)


@dataclass(frozen=True)
class DonorRef:
    """A donor's folder, and its own base's if it names one."""

    model: str
    base: str | None = None


@dataclass(frozen=True)
class ModelRefs:
    """Located folders of all models, as plain strings; the donors' order is the sum's order."""

    receiver: str
    base: str | None
    donors: Mapping[str, DonorRef]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `donors` is a list, so that its order survives any encoding."""
        donors = [[alias, one.model, one.base] for alias, one in self.donors.items()]
        return {"receiver": self.receiver, "base": self.base, "donors": donors}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ModelRefs:
        """Undo `to_dict`."""
        donors = {alias: DonorRef(model, base) for alias, model, base in plain["donors"]}
        return cls(plain["receiver"], plain["base"], donors)


def located(models: Models) -> ModelRefs:
    """Find every model; hub models are downloaded unless they are here already.

    Raises:
        UserError: if one cannot be found.
    """
    return ModelRefs(
        receiver=str(locate(models.receiver, models.revision)),
        base=None if models.base is None else str(locate(models.base)),
        donors={
            alias: DonorRef(
                model=str(locate(donor.model, donor.revision)),
                base=None if donor.base is None else str(locate(donor.base)),
            )
            for alias, donor in models.donors.items()
        },
    )
