"""Marking beside generation: answers are marked in a thread while others are still written."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from mergefront.records import Answer, Item, Score
from mergefront.tasks.scoring.mark import score_all

_END = None


class Beside:
    """Takes answers in any order, as an engine finishes them; gives scores in the items' order.

    Use it once: pass `take` to `Engine.generate`, then call `scores`.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._waiting: queue.SimpleQueue[tuple[int, Answer] | None] = queue.SimpleQueue()
        self._scores: dict[int, Score] = {}
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._mark, name="marking", daemon=True)
        self._thread.start()

    def take(self, place: int, answer: Answer) -> None:
        """The answer to item number `place` is finished."""
        self._waiting.put((place, answer))

    def scores(self, answers: Sequence[Answer]) -> list[Score]:
        """All scores, in input order, when the last is marked; those not taken are marked here.

        Raises:
            ValueError: there are not as many answers as items.
        """
        self.stop()
        if self._error is not None:
            raise self._error
        if len(answers) != len(self._items):
            raise ValueError(f"{len(answers)} answers to {len(self._items)} items")
        rest = [place for place in range(len(answers)) if place not in self._scores]
        made = score_all([self._items[p] for p in rest], [answers[p] for p in rest])
        self._scores.update(zip(rest, made, strict=True))
        return [self._scores[place] for place in range(len(answers))]

    def stop(self) -> None:
        """End the thread when it has marked what it was given."""
        self._waiting.put(_END)
        self._thread.join()

    def _mark(self) -> None:
        ended = False
        while not ended:
            batch = []
            entry = self._waiting.get()
            while entry is not _END:
                batch.append(entry)
                try:
                    entry = self._waiting.get_nowait()
                except queue.Empty:
                    break
            ended = entry is _END
            try:
                places = [place for place, _ in batch]
                made = score_all([self._items[p] for p in places], [one for _, one in batch])
                self._scores.update(zip(places, made, strict=True))
            except BaseException as error:  # told to whoever waits for the scores
                self._error = error
                return
