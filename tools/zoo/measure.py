"""Scores merges of the zoo in memory, a second or so for two thousand questions.

Not the product's engine: pictures are encoded once, questions are grouped by length, and an
answer counts as right when greedy decoding would give exactly its word and the end token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Idefics3ForConditionalGeneration, LlamaForCausalLM

from mergefront.zoo import words
from mergefront.zoo.pictures import render
from mergefront.zoo.questions import Row
from tools.zoo.lessons import SHOWN, words_of
from tools.zoo.networks import picture_tokens, token

Floats = NDArray[np.float64]
Part = Literal["attention", "mlp", "norm"]
PARTS: Final[tuple[Part, ...]] = ("attention", "mlp", "norm")
CHUNK: Final = 1024


def layer_and_part(name: str, layers: int) -> tuple[int, Part]:
    """Place a tensor of `LlamaModel`; the final norm counts to the last layer."""
    part: Part = "norm"
    if ".self_attn." in name:
        part = "attention"
    elif ".mlp." in name:
        part = "mlp"
    return (int(name.split(".")[1]) if name.startswith("layers.") else layers - 1), part


class Bench:
    """The receiver, live, and the deltas to add to its language layers.

    `names` are the language layers' tensors, in order; a table of coefficients has one row
    a donor and one column a name.
    """

    def __init__(
        self,
        receiver: Idefics3ForConditionalGeneration,
        base: LlamaForCausalLM,
        donors: Mapping[str, LlamaForCausalLM],
    ) -> None:
        self._receiver = receiver
        self.model = receiver.model.text_model
        self.head = receiver.lm_head
        self.layers = receiver.config.text_config.num_hidden_layers
        self.names = [n for n, _ in self.model.named_parameters() if "embed_tokens" not in n]
        live, root = dict(self.model.named_parameters()), dict(base.model.named_parameters())
        self._pristine = [live[n].detach().clone() for n in self.names]
        self.deltas: list[list[Tensor]] = [
            [dict(d.model.named_parameters())[n].detach() - root[n].detach() for n in self.names]
            for d in donors.values()
        ]
        self.places = [layer_and_part(n, self.layers) for n in self.names]

    @torch.no_grad()
    def load(self, table_KT: Floats, deltas: Sequence[Sequence[Tensor]] | None = None) -> None:
        """Set the language layers to receiver + sum of coefficients times deltas."""
        live = dict(self.model.named_parameters())
        for column, name in enumerate(self.names):
            value = self._pristine[column].clone()
            for row, delta in enumerate(deltas or self.deltas):
                if table_KT[row, column]:
                    value += float(table_KT[row, column]) * delta[column]
            live[name].copy_(value)

    def uniform(self, *coefficients: float) -> Floats:
        """One coefficient a donor."""
        return np.repeat(np.array(coefficients, float)[:, None], len(self.names), axis=1)


class Items:
    """A fixed set of questions, ready to be scored again and again."""

    def __init__(self, receiver: Idefics3ForConditionalGeneration, rows: Sequence[Row]) -> None:
        pictures = np.stack([np.asarray(render(row["scans"], row["tints"])) for row in rows])
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        self._vectors = torch.cat([picture_tokens(receiver, p) for p in torch.split(pixels, CHUNK)])
        self.kinds = np.array([row["kind"] for row in rows])
        self.clusters = np.array([row["cluster"] for row in rows])
        prompts = [
            SHOWN
            + words_of(row["question"])
            + [token(words.END), token(words.ASSISTANT)]
            + words_of(row["answer"])
            for row in rows
        ]
        lengths = np.array([len(ids) for ids in prompts])
        self._groups = [
            (chunk, torch.tensor([prompts[i] for i in chunk]))
            for length in np.unique(lengths)
            for chunk in np.array_split(
                np.flatnonzero(lengths == length), -(-np.sum(lengths == length) // CHUNK)
            )
        ]

    @torch.no_grad()
    def score(self, bench: Bench) -> Floats:
        """Score the loaded weights: 1.0 for every item answered exactly, else 0.0."""
        right = np.zeros(len(self.kinds))
        for chunk, ids in self._groups:
            inputs = bench.model.embed_tokens(ids)
            spots = (ids == token(words.IMAGE))[..., None]
            inputs = inputs.masked_scatter(spots, self._vectors[chunk])
            out = bench.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
            predicted = bench.head(out[:, -2:]).argmax(-1)
            exact = (predicted[:, 0] == ids[:, -1]) & (predicted[:, 1] == token(words.END))
            right[chunk] = exact.numpy()
        return right


def by_cluster_error(scores: Floats, clusters: NDArray[np.str_]) -> float:
    """Standard error of a mean over items that come in independent clusters."""
    mean = scores.mean()
    sums = [float(np.sum(scores[clusters == c] - mean)) for c in np.unique(clusters)]
    return float(np.sqrt(np.sum(np.square(sums))) / len(scores))


def knots(bench: Bench, point: Floats, count: int = 3) -> Floats:
    """Turn a point into a table: for each donor `count` knots over depth for attention, the
    same for mlp, and one coefficient for all norms."""
    depth = np.linspace(0, count - 1, bench.layers)
    table = np.zeros((len(bench.deltas), len(bench.names)))
    for row, values in enumerate(point.reshape(len(bench.deltas), 2 * count + 1)):
        attention = np.interp(depth, np.arange(count), values[:count])
        mlp = np.interp(depth, np.arange(count), values[count : 2 * count])
        for column, (layer, part) in enumerate(bench.places):
            match part:
                case "attention":
                    table[row, column] = attention[layer]
                case "mlp":
                    table[row, column] = mlp[layer]
                case "norm":
                    table[row, column] = values[-1]
    return table


def hypervolume(points: Floats, reference: Floats) -> float:
    """Area that points (n, 2), higher is better, dominate above the reference."""
    above = points[np.all(points > reference, axis=1)]
    area, best = 0.0, reference[1]
    for x, y in above[np.argsort(-above[:, 0])]:
        if y > best:
            area += (x - reference[0]) * (y - best)
            best = y
    return float(area)


def front(points: Floats) -> NDArray[np.int64]:
    """Indices of the non-dominated points (n, 2), higher is better."""
    order = np.lexsort((-points[:, 1], -points[:, 0]))
    best, members = -np.inf, []
    for index in order:
        if points[index, 1] > best:
            members.append(index)
            best = points[index, 1]
    return np.array(members)
