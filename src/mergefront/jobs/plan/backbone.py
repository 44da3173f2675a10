"""Do the language models of receiver, donors and bases fit together? Judged without weights.

Configs are compared field by field (a field that a config leaves out has the default of its
model type), and, where the tensors' headers are known, every tensor is paired as a search would.

Reading order: `Backbone`, `judge`, `lineage`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Final

from mergefront.errors import PairingError
from mergefront.jobs.plan.facts import ModelFacts
from mergefront.jobs.plan.remark import Remark
from mergefront.models.anatomy import dissect
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.pairing import pair_tensors
from mergefront.models.tower import text_config


@dataclass(frozen=True)
class Backbone:
    """A language model's sizes as its config says; None where it does not say."""

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
    "uses: expect less of its attention deltas, and smaller coefficients",
    "rope_scaling": "its rotary frequencies are scaled otherwise",
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
    "activation": ("hidden_act", "hidden_activation"),
    "positions": ("max_position_embeddings",),
}


def backbone_of(config: Mapping[str, Any]) -> Backbone:
    """Read the language model's sizes from a config.json, of a VLM or an LLM."""
    text = text_config(config)
    found: dict[str, Any] = {
        name: _field(text, keys, nested=text is not config) for name, keys in _KEYS.items()
    }
    rope = text.get("rope_parameters") or {}
    scaling = text.get("rope_scaling") or rope
    found["rope_theta"] = rope.get("rope_theta") or _field(
        text, ("rope_theta",), nested=text is not config
    )
    kind = str(scaling.get("rope_type", scaling.get("type"))) if scaling else "None"
    found["rope_scaling"] = None if kind in _PLAIN_ROPE else kind
    if found["kv_heads"] is None:
        found["kv_heads"] = found["heads"]
    if found["head_dim"] is None and found["hidden"] and found["heads"]:
        found["head_dim"] = found["hidden"] // found["heads"]
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    found["tied_head"] = tied if isinstance(tied, bool) else None
    return Backbone(**found)


def judge(
    receiver: ModelFacts, other: ModelFacts, moved: Collection[str], *, by_token: bool = False
) -> tuple[str, list[Remark]]:
    """Say whether a donor (or base) has the receiver's backbone: (verdict, remarks).

    Args:
        moved: parts that the search space moves; embedding and head only matter if among them.
        by_token: rows of embedding and head are matched by token, so vocabularies may differ.
    """
    if other.broken or receiver.broken:
        return "cannot be used" if other.broken else "not compared", []
    if receiver.config is None or other.config is None:
        return "unknown: a config.json is missing", []
    mine, theirs = backbone_of(receiver.config), backbone_of(other.config)
    remarks = _differences(mine, theirs, other.role, moved, by_token)
    a, b = receiver.checkpoint, other.checkpoint
    paired = ""
    if not any(remark.level == "error" for remark in remarks):
        if a is None or b is None:
            paired = "by its config; tensors not seen"
        else:
            paired, problems = _paired(a, b, other.role)
            remarks += problems
    if any(remark.level == "error" for remark in remarks):
        return "does not fit", remarks
    doubts = any(remark.level == "warning" for remark in remarks)
    return f"{'fits, with doubts' if doubts else 'fits'}: {paired}", remarks


def lineage(donor: ModelFacts, base: ModelFacts) -> list[Remark]:
    """Say where donor and base do not look like child and ancestor, by config and card."""
    remarks = []
    if donor.card_bases and not any(_same_model(base.model, one) for one in donor.card_bases):
        remarks.append(
            Remark(
                "warning",
                donor.role,
                f"its card names {', '.join(donor.card_bases)} as ancestor, the configuration "
                f"takes its delta from {base.model}",
                "name its true ancestor as this donor's `base`",
            )
        )
    if donor.config is None or base.config is None:
        return remarks
    child, parent = backbone_of(donor.config), backbone_of(base.config)
    if None not in (child.rope_theta, parent.rope_theta) and child.rope_theta != parent.rope_theta:
        remarks.append(
            Remark(
                "warning",
                donor.role,
                f"its rope_theta is {child.rope_theta:g}, that of {base.role} "
                f"{parent.rope_theta:g}: that base may not be its ancestor",
                "check the donor's model card",
            )
        )
    if donor.model == base.model:
        remarks.append(
            Remark(
                "error",
                donor.role,
                "donor and base are the same model: its delta is zero",
                "name the model that the donor was fine-tuned from",
            )
        )
    return remarks


def _differences(
    mine: Backbone, theirs: Backbone, role: str, moved: Collection[str], by_token: bool
) -> list[Remark]:
    remarks = []
    for one in fields(Backbone):
        ours, found = getattr(mine, one.name), getattr(theirs, one.name)
        if ours == found or (one.name != "rope_scaling" and None in (ours, found)):
            continue
        said = f"{one.name.replace('_', ' ')} is {_plain(found)}, the receiver's {_plain(ours)}"
        if one.name in _MUST_EQUAL:
            hint = "a donor must have the receiver's language backbone"
            remarks.append(Remark("error", role, said, hint))
        elif one.name in _SHOULD_EQUAL:
            remarks.append(Remark("warning", role, f"{said}: {_SHOULD_EQUAL[one.name]}"))
        elif one.name in ("vocab", "tied_head")[by_token:] and {"embedding", "head"} & set(moved):
            hint = "freeze them: `frozen: [embedding, head]`"
            said += ": embedding and head cannot be merged"
            remarks.append(Remark("error", role, said, hint))
        elif one.name == "vocab":
            remarks.append(Remark("note", role, f"{said}: embedding and head stay the receiver's"))
    return remarks


def _paired(receiver: Checkpoint, other: Checkpoint, role: str) -> tuple[str, list[Remark]]:
    """Pair every tensor as a search would."""
    try:
        mine, theirs = _dissected(receiver), _dissected(other)
        pairs = pair_tensors(mine, theirs, receiver, other)
    except PairingError as problem:
        return "", [Remark("error", role, problem.message, problem.hint)]
    return f"all {len(pairs)} tensors pair", []


def _dissected(checkpoint: Checkpoint) -> Any:
    """The anatomy of a checkpoint of which, maybe, only headers are known.

    A head beside a tied config is compared with the embedding, for which tensors are needed; one
    that is not here is taken at its config's word.
    """
    if any(header.file.is_file() for header in checkpoint.headers.values()):
        return dissect(checkpoint)
    text = text_config(checkpoint.config)
    if text.get("tie_word_embeddings", checkpoint.config.get("tie_word_embeddings")):
        kept = {
            name: header
            for name, header in checkpoint.headers.items()
            if not name.endswith("lm_head.weight")
        }
        checkpoint = Checkpoint(checkpoint.folder, checkpoint.config, kept)
    return dissect(checkpoint)


def _field(text: Mapping[str, Any], keys: tuple[str, ...], *, nested: bool) -> Any:
    """A field under any of its names; what a nested config leaves out is its type's default."""
    for key in keys:
        if text.get(key) is not None:
            return text[key]
    defaults = _defaults(str(text.get("model_type", ""))) if nested else {}
    return next((defaults[key] for key in keys if defaults.get(key) is not None), None)


@cache
def _defaults(model_type: str) -> Mapping[str, Any]:
    """Default fields of a transformers model type; empty for one it does not know."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

    if model_type not in CONFIG_MAPPING_NAMES:
        return {}
    values: dict[str, Any] = CONFIG_MAPPING[model_type]().to_dict()
    rope = values.get("rope_parameters") or {}
    return values | {"rope_theta": values.get("rope_theta", rope.get("rope_theta"))}


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _same_model(configured: str, card: str) -> bool:
    """Compare names as far as they go: a folder's last part counts, a revision does not."""
    last = configured.partition("@")[0].rstrip("/").rpartition("/")[2].lower()
    named = card.rstrip("/").rpartition("/")[2].lower()
    return last.removeprefix("meta-") == named.removeprefix("meta-")
