"""A run's projection into MLflow (3.17): can be deleted, switched off or rebuilt at any time.

One parent run for the search holds the configuration, series over candidates (step = number) and
artifacts; a child run for each candidate holds its knob values and scores, so that MLflow's own
scatter and parallel-coordinate views work. Nothing is read back from MLflow but what it already
has of this run.

`Tracker` projects while a search runs, in a thread of its own: the search only queues records, and
a server that cannot be reached costs one warning. `rebuild` projects a run that exists. Both add
only what MLflow lacks, so an earlier projection may have been interrupted anywhere. All writes are
in `mlflow`, the only module that knows MLflow.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from mergefront.errors import UserError
from mergefront.records import Evaluation
from mergefront.redaction import without_secrets
from mergefront.runs.tracking.mlflow import (
    CANDIDATE_TAG,
    RUN_TAG,
    Ending,
    MlflowCard,
    Projection,
    ending_of,
)

__all__ = ["CANDIDATE_TAG", "RUN_TAG", "Ending", "MlflowCard", "Tracker", "ending_of", "rebuild"]

logger = logging.getLogger(__name__)


class Tracker:
    """Projects a running search. No method raises if MLflow fails, and none waits for MLflow but
    `finish` and `close`, which wait at most `patience` seconds.

    After a failure nothing more is sent until `finish`, which tries once to add all that MLflow
    lacks.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        card: MlflowCard,
        known: Sequence[Evaluation] = (),
        *,
        patience: float = 60.0,
    ) -> None:
        """Start in the background: create or find the parent run, add what it lacks of `known`."""
        self._projection = Projection(uri, experiment, card)
        self._evaluations = list(known)
        self._patience = patience
        self._warned = False
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._queue.put(lambda: self._projection.add_missing(list(known)))
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def candidate(self, evaluation: Evaluation) -> None:
        """Queue a finished candidate, failed or not."""
        self._evaluations.append(evaluation)
        self._queue.put(lambda: self._projection.add(evaluation))

    def finish(self, ending: Ending) -> bool:
        """End the run as finished; returns whether MLflow now has everything."""
        done = threading.Event()
        self._queue.put(lambda: self._end(ending, done))
        self._stop()
        return done.is_set()

    def close(self) -> None:
        """Stop without an end: the run can be resumed. MLflow shows it as killed."""
        self._queue.put(lambda: None if self._warned else self._projection.end("KILLED"))
        self._stop()

    def _end(self, ending: Ending, done: threading.Event) -> None:
        if self._warned:
            self._projection.reconnect()
        self._warned = False
        self._projection.add_missing(self._evaluations)
        self._projection.conclude(ending)
        done.set()

    def _stop(self) -> None:
        self._queue.put(None)
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._warn("it took too long to answer")

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                job()
            except Exception as error:  # whatever MLflow throws must not reach the search
                self._warn(_first_line(error))

    def _warn(self, reason: str) -> None:
        if not self._warned:
            logger.warning(
                "MLflow at %s cannot be used: %s. The search goes on without it.",
                without_secrets(self._projection.uri),
                reason,
            )
        self._warned = True
        self._projection.broken = True


def rebuild(
    uri: str, experiment: str, card: MlflowCard, evaluations: Sequence[Evaluation], ending: Ending
) -> str:
    """Project a run that exists, adding only what MLflow lacks; return the parent run's id.

    Raises:
        UserError: MLflow cannot be used; says why.
    """
    projection = Projection(uri, experiment, card)
    try:
        projection.add_missing(evaluations)
        projection.conclude(ending)
    except Exception as error:  # MLflow raises a dozen kinds, from SQLAlchemy's to requests'
        raise UserError(
            f"MLflow at {without_secrets(uri)} cannot be used: {_first_line(error)}",
            hint="check tracking.uri; a run's files hold no password: give it in "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or in MLFLOW_TRACKING_TOKEN",
        ) from error
    return projection.parent


def _first_line(error: Exception) -> str:
    lines = without_secrets(str(error)).splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
