"""One training loop for every model of the zoo: cross-entropy on answer tokens only."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM
from transformers.models.llama import LlamaModel

from tools.zoo.lessons import IGNORED, Batch, Teacher

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """Length and rate of a phase of training.

    Attributes:
        steps: batches seen.
        rate: peak learning rate, after a short linear warm-up, before a cosine descent.
        rows: scenes a batch.
        noise: standard deviation of Gaussian noise on the told scene's embeddings, as a share
            of theirs, so that what is learnt about words also holds for pictures
            (Reference: NEFTune, arXiv:2310.05914).
    """

    steps: int
    rate: float
    rows: int = 32
    noise: float = 0.4


def answer_loss(model: LlamaModel, head: torch.nn.Linear, batch: Batch, inputs: Tensor) -> Tensor:
    """Mean cross-entropy over the batch's answer tokens; `inputs` are (B, T, hidden) embeddings."""
    out = model(
        inputs_embeds=inputs,
        attention_mask=batch.mask(),
        position_ids=batch.positions_BT,
        use_cache=False,
    ).last_hidden_state
    due = batch.labels_BT != IGNORED
    return cross_entropy(head(out[due]), batch.labels_BT[due])


def blur(inputs: Tensor, batch: Batch, noise: float) -> Tensor:
    """Add noise to the embeddings of the scene (`inputs` are (B, T, hidden))."""
    scene = (batch.segments_BT == 0)[..., None]
    return inputs + scene * torch.randn_like(inputs) * (noise * inputs.detach().std())


def descend(
    parameters: Iterable[Parameter] | list[dict[str, object]],
    loss: Callable[[], Tensor],
    schedule: Schedule,
    name: str,
) -> None:
    """Minimise `loss()` (a fresh batch each call) with AdamW; progress is logged."""
    optimizer = torch.optim.AdamW(
        parameters, lr=schedule.rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    began, smooth = time.monotonic(), 0.0
    for step in range(schedule.steps):
        warm = min(1.0, (step + 1) / max(1, min(100, schedule.steps // 10)))
        factor = warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / schedule.steps)))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        value = loss()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        for group in optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        optimizer.step()
        smooth = value.item() if step == 0 else 0.98 * smooth + 0.02 * value.item()
        if (step + 1) % 100 == 0 or step + 1 == schedule.steps:
            spent = time.monotonic() - began
            log.info("%s: step %d loss %.3f %.0f s", name, step + 1, smooth, spent)


def teach_text(
    model: LlamaForCausalLM,
    teacher: Teacher,
    schedule: Schedule,
    name: str,
    trains: Callable[[str], bool] = lambda _: True,
) -> None:
    """Train a language model on told scenes; `trains` says which parameters move."""
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(trains(key))

    def loss() -> Tensor:
        batch = teacher.told_batch(schedule.rows)
        inputs = blur(model.model.embed_tokens(batch.ids_BT), batch, schedule.noise)
        return answer_loss(model.model, model.lm_head, batch, inputs)

    descend([p for p in model.parameters() if p.requires_grad], loss, schedule, name)
