"""In which order the trials of a study finished, whatever the clock said.

Proposals depend on that order, and so does the race. Optuna records only the wall clock of each
end, in local time: a clock that is set back, or the end of daylight saving, would change it. The
lines of a journal file cannot change places.

Not here: what is done with the order (`replay`), how the journal is opened (`runs.study`).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial, TrialState

FINISHED = (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)


class OrderedJournal(JournalFileBackend):
    """A journal file of one study that notes in which order its trials finished.

    `places` leads from a trial's id to its place.
    """

    def __init__(self, path: str, lock: BaseJournalFileLock) -> None:
        super().__init__(path, lock)
        self.places: dict[int, int] = {}
        self._trials = 0
        self._lines = 0

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yield the journal's records from a line on, and note those not seen before."""
        for line, log in enumerate(super().read_logs(log_number_from), start=log_number_from):
            if line == self._lines:
                self._note(log)
                self._lines += 1
            yield log

    def _note(self, log: dict[str, Any]) -> None:
        operation = log["op_code"]
        if operation == JournalOperation.CREATE_TRIAL:
            trial_id, self._trials = (
                self._trials,
                self._trials + 1,
            )  # ids count from 0, as in Optuna
        elif operation == JournalOperation.SET_TRIAL_STATE_VALUES:
            trial_id = log["trial_id"]
        else:
            return
        if log.get("state") in FINISHED:
            self.places.setdefault(trial_id, len(self.places))


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the finished trials in the order in which they finished.

    That is the order of an `OrderedJournal`; of another storage, that of the wall clock.
    """
    trials = study.get_trials(deepcopy=False, states=FINISHED)
    storage = study._storage
    if isinstance(storage, JournalStorage) and isinstance(storage._backend, OrderedJournal):
        places = storage._backend.places
        return sorted(trials, key=lambda trial: places[trial._trial_id])
    return sorted(trials, key=lambda t: (t.datetime_complete or t.datetime_start, t.number))
