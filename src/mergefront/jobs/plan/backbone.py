"""Do the language models of receiver, donors and bases fit together? Judged without weights.

Configs are compared field by field; a field that a config leaves out has the default of its model
type. Where the tensors' headers are known, every tensor is paired as a search pairs them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Final

from mergefront.errors import PairingError
from mergefront.jobs.plan.facts import ModelFacts, Remark
from mergefront.models.anatomy import Anatomy, dissect
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.pairing import pair_tensors
from mergefront.models.tower import text_config


@dataclass(frozen=True)
class Backbone:
    """A language model's sizes as its config states them; None where it does not."""

    layers: int | None = None
    hidden: int | None = None
    intermediate: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    vocab: int | None = None
    rope_theta: float | None = None
    rope_scaling: str | None = None
    activation: str | None = None
    positions: int | None = None
    tied_head: bool | None = None


_MUST_EQUAL: Final = ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim")
_SHOULD_EQUAL: Final = {
    "rope_theta": "its attention was trained under other rotary frequencies than the receiver "
    "uses, so that its attention deltas may help less and need smaller coefficients",
    "rope_scaling": "its rotary frequencies are scaled in another way",
    "activation": "its MLPs use another activation function",
}
_PLAIN_ROPE: Final = ("default", "mrope", "None")
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "intermediate": ("intermediate_size",),
    "heads": ("num_attention_heads",),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "vocab": ("vocab_size",),
    "rope_theta": ("rope_theta",),
    "activation": ("hidden_act", "hidden_activation"),
    "positions": ("max_position_embeddings",),
}


def backbone_of(config: Mapping[str, Any]) -> Backbone:
    """Read the language model's sizes from a config.json, of a VLM or an LLM."""
    text = text_config(config)
    # A config nested in a VLM's leaves out what is the default of its model type.
    defaults = _defaults(str(text.get("model_type", ""))) if text is not config else {}
    sizes: dict[str, Any] = {}
    for name, keys in _KEYS.items():
        values = (values.get(key) for values in (text, defaults) for key in keys)
        sizes[name] = next((value for value in values if value is not None), None)
    rope = text.get("rope_parameters") or {}
    scaling = text.get("rope_scaling") or rope
    sizes["rope_theta"] = rope.get("rope_theta") or sizes["rope_theta"]
    kind = str(scaling.get("rope_type", scaling.get("type"))) if scaling else "None"
    sizes["rope_scaling"] = None if kind in _PLAIN_ROPE else kind
    if sizes["kv_heads"] is None:
        sizes["kv_heads"] = sizes["heads"]
    if sizes["head_dim"] is None and sizes["hidden"] and sizes["heads"]:
        sizes["head_dim"] = sizes["hidden"] // sizes["heads"]
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    sizes["tied_head"] = tied if isinstance(tied, bool) else None
    return Backbone(**sizes)


def compare_backbones(
    receiver: ModelFacts, model: ModelFacts, moved: Collection[str], *, by_token: bool = False
) -> tuple[str, list[Remark]]:
    """Say whether a donor (or base) has the receiver's backbone: (verdict, remarks).

    Args:
        moved: parts that the search space moves; embedding and head are compared only if they are
            among these.
        by_token: rows of embedding and head are matched by token, so that vocabularies may differ.
    """
    if model.broken or receiver.broken:
        return "cannot be used" if model.broken else "not compared", []
    if receiver.config is None or model.config is None:
        return "unknown: a config.json is missing", []
    backbones = (backbone_of(receiver.config), backbone_of(model.config))
    remarks = list(_differences(*backbones, model.role, moved, by_token))
    levels = {remark.level for remark in remarks}
    if "error" in levels:
        return "does not fit", remarks
    pairing = "by its config; tensors not seen"
    if receiver.checkpoint is not None and model.checkpoint is not None:
        try:  # pair every tensor as a search does
            anatomies = (_anatomy(receiver.checkpoint), _anatomy(model.checkpoint))
            pairs = pair_tensors(*anatomies, receiver.checkpoint, model.checkpoint)
        except PairingError as error:
            return "does not fit", [
                *remarks,
                Remark("error", model.role, error.message, error.hint),
            ]
        pairing = f"all {len(pairs)} tensors pair"
    return f"{'fits, with doubts' if 'warning' in levels else 'fits'}: {pairing}", remarks


def lineage_remarks(donor: ModelFacts, base: ModelFacts) -> Iterator[Remark]:
    """Say where config and card of a donor do not look like those of a child of its base."""
    if donor.card_bases and not any(_same_model(base.model, name) for name in donor.card_bases):
        message = (
            f"its model card names {', '.join(donor.card_bases)} as its ancestor, but the "
            f"configuration takes its delta from {base.model}"
        )
        hint = "name its true ancestor as this donor's `base`"
        yield Remark("warning", donor.role, message, hint)
    if donor.config is None or base.config is None:
        return
    child, parent = backbone_of(donor.config), backbone_of(base.config)
    if None not in (child.rope_theta, parent.rope_theta) and child.rope_theta != parent.rope_theta:
        message = (
            f"its rope_theta is {child.rope_theta:g}, that of the {base.role} is "
            f"{parent.rope_theta:g}: that base may not be its ancestor"
        )
        yield Remark("warning", donor.role, message, "check the donor's model card")
    if donor.model == base.model:
        message = "donor and base are the same model, so that its delta is zero"
        hint = "name the model that the donor was fine-tuned from"
        yield Remark("error", donor.role, message, hint)


def _differences(
    receiver: Backbone, model: Backbone, role: str, moved: Collection[str], by_token: bool
) -> Iterator[Remark]:
    for field in fields(Backbone):
        name = field.name
        expected, found = getattr(receiver, name), getattr(model, name)
        if expected == found or (name != "rope_scaling" and None in (expected, found)):
            continue
        message = (
            f"{name.replace('_', ' ')} is {_plain(found)}, the receiver's is {_plain(expected)}"
        )
        if name in _MUST_EQUAL:
            hint = "a donor must have the receiver's language backbone"
            yield Remark("error", role, message, hint)
        elif name in _SHOULD_EQUAL:
            yield Remark("warning", role, f"{message}: {_SHOULD_EQUAL[name]}")
        elif name in ("vocab", "tied_head")[by_token:] and {"embedding", "head"} & set(moved):
            hint = "freeze them in the search space: `frozen: [embedding, head]`"
            yield Remark("error", role, f"{message}: embedding and head cannot be merged", hint)
        elif name == "vocab":
            yield Remark("note", role, f"{message}: embedding and head stay the receiver's")


def _anatomy(checkpoint: Checkpoint) -> Anatomy:
    """Classify the tensors of a checkpoint whose weights may not be on this machine.

    Where a tied config comes with a head, `dissect` compares the head's values with the
    embedding's. Without the weights, the config is believed.
    """
    if any(header.file.is_file() for header in checkpoint.headers.values()):
        return dissect(checkpoint)
    text = text_config(checkpoint.config)
    if text.get("tie_word_embeddings", checkpoint.config.get("tie_word_embeddings")):
        headers = {
            name: header
            for name, header in checkpoint.headers.items()
            if not name.endswith("lm_head.weight")
        }
        checkpoint = Checkpoint(checkpoint.folder, checkpoint.config, headers)
    return dissect(checkpoint)


@cache
def _defaults(model_type: str) -> Mapping[str, Any]:
    """Return the default config of a model type; empty if transformers does not know the type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

    if model_type not in CONFIG_MAPPING_NAMES:
        return {}
    values: dict[str, Any] = CONFIG_MAPPING[model_type]().to_dict()
    rope = values.get("rope_parameters") or {}
    return values | {"rope_theta": values.get("rope_theta", rope.get("rope_theta"))}


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _same_model(configured: str, card: str) -> bool:
    """Compare the last part of both names, without revision, case and "meta-"."""
    last = configured.partition("@")[0].rstrip("/").rpartition("/")[2].lower()
    card_name = card.rstrip("/").rpartition("/")[2].lower()
    return last.removeprefix("meta-") == card_name.removeprefix("meta-")
