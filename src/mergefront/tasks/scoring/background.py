"""Answers are marked in a thread while the engine still generates others."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence

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
        self._thread = threading.Thread(target=self._run, name="marking", daemon=True)
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
        self._mark({p: a for p, a in enumerate(answers) if p not in self._scores})
        return [self._scores[place] for place in range(len(answers))]

    def stop(self) -> None:
        """End the thread after it has marked what is in the queue."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        """Mark answers in batches, each of all that is queued, until None comes."""
        ended = False
        while not ended:
            entries = [self._queue.get()]
            while not self._queue.empty():  # no other thread takes from it
                entries.append(self._queue.get())
            ended = None in entries
            try:
                self._mark(dict(entry for entry in entries if entry is not None))
            except BaseException as error:  # `scores` raises it in the thread that waits
                self._error = error
                return

    def _mark(self, answers: Mapping[int, Answer]) -> None:
        scores = score_all([self._items[place] for place in answers], list(answers.values()))
        self._scores.update(zip(answers, scores, strict=True))
