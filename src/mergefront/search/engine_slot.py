"""The one engine of a search: replaced when it fails, and asked whose fault a failure is.

A model whose engine fails gets a second try in a fresh engine. If that fails too, the receiver is
asked a few items in a third one, as a control. Only if the control succeeds is the failure the
model's own (`CandidateError`). Otherwise it is the engine's (`EngineError`): it ends the search,
and nothing is held against the model.

Not here: engines (`engine`), what is recorded about a model that failed (`loop`, `finish`).

Reading order: `EngineSlot.attempt`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from mergefront.engine import Engine
from mergefront.errors import CandidateError, EngineError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

MAX_FAILURES: Final = 3
"""Engines that may fail to start in a row, and models that may fail in a row, before the engine is
taken for broken."""

RESTART_SECONDS: Final = (0.0, 10.0, 60.0)
"""Pauses before the tries to start a new engine: a device may free its memory late."""


class EngineSlot:
    """The one engine of a search: started at once, and started anew after it was dropped."""

    def __init__(self, start: Callable[[], Engine]) -> None:
        """Start the engine. Raises EngineError at once if it does not start."""
        self._start = start
        before = time.monotonic()
        self._engine: Engine | None = start()
        self.start_seconds = time.monotonic() - before
        """What the engine took to start at first, its check of the questions included."""
        self._failures_in_a_row = 0

    def engine(self) -> Engine:
        """Return the live engine.

        Raises:
            EngineError: a new one was needed, and MAX_FAILURES in a row did not start.
        """
        if self._engine is None:
            self._engine = self._restart()
        return self._engine

    def drop(self) -> None:
        """Close the engine."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def attempt(
        self, name: str, task: Callable[[], Result], control: Callable[[], object]
    ) -> Result:
        """Run a task of the model `name`; if its engine fails, once more in a fresh one.

        `control` has the receiver asked; it should succeed in every engine that works.

        Raises:
            CandidateError: the task failed in two engines, and the control succeeded in a third.
            EngineError: the engine is broken: new ones do not start, the control fails as well, or
                MAX_FAILURES models in a row failed.
        """
        self.engine()  # outside of the try: a start that fails is not the model's fault
        try:
            result = task()
        except EngineError as error:
            logger.warning("%s: %s; trying a fresh engine", name, error.message)
            self.drop()
            result = self._second_attempt(name, task, control)
        self._failures_in_a_row = 0
        return result

    def _second_attempt(
        self, name: str, task: Callable[[], Result], control: Callable[[], object]
    ) -> Result:
        self.engine()
        try:
            return task()
        except EngineError as error:
            logger.warning("%s: %s; asking the receiver in a fresh engine", name, error.message)
            self.drop()
            self._failures_in_a_row += 1
            self.engine()
            try:
                control()
            except EngineError as control_error:
                self.drop()
                raise broken_engine(control_error) from control_error
            if self._failures_in_a_row >= MAX_FAILURES:
                raise broken_engine(error) from error
            raise CandidateError(error.message, hint=error.hint) from error

    def _restart(self) -> Engine:
        for place, pause in enumerate(RESTART_SECONDS):
            time.sleep(pause)
            try:
                return self._start()
            except EngineError as error:
                logger.warning("the engine does not start: %s", error.message)
                if place + 1 == len(RESTART_SECONDS):
                    raise broken_engine(error) from error
        raise AssertionError("unreachable: the last failure is raised")


def broken_engine(error: EngineError) -> EngineError:
    """Return the error that ends a search whose engine is broken; `error` is the last failure."""
    advice = (
        "look at the memory and the errors of the device, and at `engine` in the configuration; "
        "then start the same command again: it goes on from here, and asks this model once more"
    )
    return EngineError(
        f"{MAX_FAILURES} engines in a row failed, the last with: {error.message}",
        hint=f"{error.hint}; {advice}" if error.hint else advice,
    )
