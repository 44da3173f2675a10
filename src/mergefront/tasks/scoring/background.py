"""Answers are marked in a thread while the engine still generates others."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from mergefront.records import Answer, Item, Score
from mergefront.tasks.scoring.mark import score_all


class BackgroundScorer:
    """Takes answers in any order, as an engine finishes them; gives scores in the items' order.

    Use it once: pass `take` to `Engine.generate`, then call `scores`.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._queue: queue.SimpleQueue[tuple[int, Answer] | None] = queue.SimpleQueue()
        self._scores: dict[int, Score] = {}
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._mark, name="marking", daemon=True)
        self._thread.start()

    def take(self, place: int, answer: Answer) -> None:
        """Queue the finished answer to item number `place`."""
        self._queue.put((place, answer))

    def scores(self, answers: Sequence[Answer]) -> list[Score]:
        """Wait until all is marked; return all scores in input order.

        Answers that `take` never got are marked now.

        Raises:
            ValueError: there are not as many answers as items.
        """
        self.stop()
        if self._error is not None:
            raise self._error
        if len(answers) != len(self._items):
            raise ValueError(f"{len(answers)} answers to {len(self._items)} items")
        rest = [place for place in range(len(answers)) if place not in self._scores]
        scores = score_all([self._items[p] for p in rest], [answers[p] for p in rest])
        self._scores.update(zip(rest, scores, strict=True))
        return [self._scores[place] for place in range(len(answers))]

    def stop(self) -> None:
        """End the thread after it has marked what is in the queue."""
        self._queue.put(None)
        self._thread.join()

    def _mark(self) -> None:
        """Mark answers in batches, each of all that is queued, until None comes."""
        ended = False
        while not ended:
            batch = []
            entry = self._queue.get()
            while entry is not None:
                batch.append(entry)
                try:
                    entry = self._queue.get_nowait()
                except queue.Empty:
                    break
            ended = entry is None
            try:
                places = [place for place, _ in batch]
                scores = score_all(
                    [self._items[place] for place in places], [answer for _, answer in batch]
                )
                self._scores.update(zip(places, scores, strict=True))
            except BaseException as error:  # `scores` raises it in the thread that waits
                self._error = error
                return
