"""The contract of an engine: what every implementation does, and the laws that tests hold it to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from mergefront.records import Answer, Item, Seconds

if TYPE_CHECKING:
    from mergefront.merging.plan import Plan

OnAnswer = Callable[[int, Answer], None]
"""(place of the item, its answer); called in the engine's thread, in any order."""


class Engine(Protocol):
    """A live model that answers questions with the weights of the recipe loaded last.

    Before the first `load` it is the receiver. One thread at a time may use an engine; several
    engines may live in one process, one after the other.

    Laws, which `tests/engine_contract.py` holds every engine to:

    1. load(a), load(b), load(a) answers as the first load(a): candidates are always computed
       from pristine sources, never from the candidate before.
    2. An identity recipe leaves the receiver's own parameters, bit for bit; and so does every
       group that comes down to one source at weight one.
    3. After `load` no cached byte of other weights is used. Encoded images are kept: no recipe
       touches the vision tower or the connector.
    4. The checkpoint written from a recipe, opened afresh in an engine of the same layout and
       dtype, has the same parameter hashes and gives the same answers.
    5. `generate` answers in input order, greedily, and repeatably: it is a function of the
       weights and the items it is given.
    """

    @property
    def batch(self) -> int:
        """Questions that together take hardly longer than one alone; 1 on a CPU.

        It follows from settings and device alone, so that a resumed run divides items as before.
        """
        ...

    def load(self, plan: Plan) -> Seconds:
        """Build a planned recipe's weights in place and drop caches; fills `build` and `reset`.

        Raises:
            CandidateError: the recipe's values overflow, in every engine of this dtype.
            EngineError: the engine serves a fixed folder, the recipe is of other donors or
                cannot be expressed in this engine, or caches could not be dropped. After an
                error during the build the engine refuses to generate until a load succeeds.
        """
        ...

    def check(self, items: Sequence[Item]) -> None:
        """Check that every item can be asked, without asking.

        Its images decode, and its prompt with `max_tokens` of answer fits the context. Call it once
        for all items, before a long run. It keeps nothing, and changes neither weights nor answers.

        Raises:
            EngineError: an item cannot be asked, naming the first.
        """
        ...

    def generate(self, items: Sequence[Item], on_answer: OnAnswer | None = None) -> list[Answer]:
        """Answer N items, greedily, at most `item.max_tokens` tokens each, in input order.

        An item with labels is answered by its likeliest label (`labels`), with the labels'
        log-probabilities. `on_answer` is called with each answer as soon as it is complete, in any
        order.

        Raises:
            EngineError: an item's image cannot be read, its prompt does not fit, a label is no
                single token, or its answer was cut off by anything but `max_tokens`, naming the
                item; or the engine failed.
        """
        ...

    def parameter_hashes(self) -> dict[str, str]:
        """Return the SHA-256 of every parameter's bytes, by the engine's own parameter names.

        Of language model, connector and tower. Two engines of the same layout and dtype compare.
        """
        ...

    def tower_passes(self) -> int:
        """Images that the vision tower has encoded since the engine was opened."""
        ...

    def close(self) -> None:
        """Free everything; closing twice is allowed. Nothing else may be called after."""
        ...
