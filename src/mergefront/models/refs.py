"""Which models a merge is made of: as the user names them, and as they are found on disk.

`Models` is what configs and recipes hold; `located` turns it into `ModelRefs`, folders as plain
strings that may cross process boundaries. Not here: opening them (`merging.sources`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from mergefront.config import Donor, Strict, VocabularyMode, check_alias
from mergefront.models.checkpoint import locate


class Models(Strict):
    """The models of a recipe, as the user wrote them; the donors' order is the sum's order."""

    receiver: str = Field(min_length=1)
    revision: str | None = None
    base: str | None = None
    donors: dict[Annotated[str, AfterValidator(check_alias)], Donor] = Field(default_factory=dict)
    vocabulary: VocabularyMode = "receiver"

    @model_serializer(mode="wrap")
    def _without_default_vocabulary(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the default out, so that recipes hash as they did before there was a choice."""
        plain: dict[str, Any] = handler(self)
        if self.vocabulary == "receiver":
            plain.pop("vocabulary", None)
        return plain


@dataclass(frozen=True)
class DonorRef:
    """A donor's folder, its own base's if it names one, and its adapter's if it is one."""

    model: str
    base: str | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class ModelRefs:
    """Located folders of all models, as plain strings; the donors' order is the sum's order."""

    receiver: str
    base: str | None
    donors: Mapping[str, DonorRef]
    vocabulary: VocabularyMode = "receiver"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `donors` is a list, so that its order survives any encoding."""
        donors = [[alias, one.model, one.base, one.adapter] for alias, one in self.donors.items()]
        return {
            "receiver": self.receiver,
            "base": self.base,
            "donors": donors,
            "vocabulary": self.vocabulary,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ModelRefs:
        """Undo `to_dict`."""
        donors = {alias: DonorRef(*folders) for alias, *folders in plain["donors"]}
        return cls(plain["receiver"], plain["base"], donors, plain["vocabulary"])


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
                adapter=None
                if donor.adapter is None
                else str(locate(donor.adapter, donor.adapter_revision)),
            )
            for alias, donor in models.donors.items()
        },
        vocabulary=models.vocabulary,
    )
