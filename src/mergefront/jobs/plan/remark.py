"""What `mergefront plan` has to say beside its tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Remark:
    """Something to know before a search; an `error` says that the search cannot work as it is.

    `subject` is a field of the configuration or a model's role, `hint` says what to do.
    """

    level: Level
    subject: str
    message: str
    hint: str = ""
