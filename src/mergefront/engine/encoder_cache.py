"""Encoded images stay in vLLM for the whole run, within a memory budget.

vLLM keeps encoder outputs for a few thousand tokens only and evicts the oldest. A larger question
set, asked candidate after candidate, would therefore never hit. This manager, plugged in through
vLLM's own `ec_manager_config`, pins every image it sees until the budget is spent. Later images
share vLLM's ordinary cache. The budget is counted in embeddings: bytes divided by hidden size and
element size (models with deep-stack features hold more for each embedding).
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.encoder_cache_manager import EncoderCacheManager

PIN = "mergefront-pin"
"""A request id that never finishes: an entry that it references is never evicted."""


class PinningEncoderCacheManager(EncoderCacheManager):  # type: ignore[misc]
    """vLLM's encoder cache plus `pinned_size` embeddings that are never evicted."""

    def __init__(self, cache_size: int, pinned_size: int) -> None:
        super().__init__(cache_size=cache_size + pinned_size)
        self.pinned_size = pinned_size
        self.pinned = 0

    @classmethod
    def create_manager(cls, *, cache_size: int, vllm_config: Any) -> PinningEncoderCacheManager:
        """Build the manager from `manager_config={"bytes": n}`; called by vLLM's scheduler."""
        budget = vllm_config.ec_manager_config.manager_config["bytes"]
        model = vllm_config.model_config
        width = model.get_inputs_embeds_size() * model.dtype.itemsize
        return cls(cache_size, budget // width)

    def allocate(self, request: Any, input_id: int) -> None:
        super().allocate(request, input_id)
        # vLLM evicts only entries that no request references. A reference by a request that never
        # finishes is thus a pin, and needs no change to vLLM's own bookkeeping.
        key = request.mm_features[input_id].identifier
        size = self.num_embeds_by_hash[key]
        if PIN not in self.cached[key] and self.pinned + size <= self.pinned_size:
            self.cached[key].add(PIN)
            self.pinned += size

    def reset(self) -> None:
        super().reset()
        self.pinned = 0
