"""What an engine calls as each answer is finished."""

from __future__ import annotations

from collections.abc import Callable

from mergefront.records import Answer

Done = Callable[[int, Answer], None]
"""(place of the item, its answer); called in the engine's thread, in any order."""
