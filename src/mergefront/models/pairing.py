"""Receiver tensor -> donor tensor: every one that can be merged, or one clear error says why not.

Tensors pair that have the same name within the same text layer (or are both the embedding, the
head, the final norm), whatever stands before it. Not here: what each tensor is (`anatomy`).

Reading order: `pair_tensors`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

from mergefront.errors import PairingError
from mergefront.models.anatomy import Anatomy, group_name
from mergefront.models.checkpoint import Checkpoint

Key = tuple[int | None, str]

_BACKBONE: Final = "a donor must have the receiver's language backbone, bias for bias"


def pair_tensors(
    receiver: Anatomy, donor: Anatomy, receiver_ckpt: Checkpoint, donor_ckpt: Checkpoint
) -> dict[str, str]:
    """Map every mergeable language tensor of the receiver to the donor's.

    Embedding and head are left out where only their numbers of rows differ (another vocabulary);
    a tied donor's embedding also serves as its head. A donor's other towers play no role.

    Raises:
        PairingError: depths, widths or a tensor's shape differ; a tensor lacks its counterpart on
            either side.
    """
    _check_sizes(receiver, donor, receiver_ckpt, donor_ckpt)
    where = f"donor {donor_ckpt.folder} does not fit receiver {receiver_ckpt.folder}"
    theirs = {donor.prefix_free_key(name): name for name in donor.mergeable_tensors()}
    if donor.tied_head:
        theirs.setdefault((None, "head.weight"), donor.language_tower.embedding)
    used: set[Key] = {(None, "head.weight")}  # an untied donor of a tied receiver: see check_heads
    pairs: dict[str, str] = {}
    for name in receiver.mergeable_tensors():
        key = receiver.prefix_free_key(name)
        used.add(key)
        other = theirs.get(key)
        if other is None:
            raise PairingError(
                f"{where}: it has no counterpart of {name!r}",
                hint=_stored_otherwise(receiver, donor, receiver_ckpt, donor_ckpt, name),
            )
        mine, found = receiver_ckpt.headers[name].shape, donor_ckpt.headers[other].shape
        if mine == found:
            pairs[name] = other
        elif receiver.places[name].part not in ("embedding", "head") or mine[1:] != found[1:]:
            raise PairingError(
                f"{where}: {other!r} is {list(found)}, the receiver's {name!r} is {list(mine)}",
                hint=_BACKBONE,
            )
    for key, other in theirs.items():
        if key not in used:
            raise PairingError(f"{where}: nothing there fits the donor's {other!r}", hint=_BACKBONE)
    return pairs


def _stored_otherwise(
    receiver: Anatomy, donor: Anatomy, receiver_ckpt: Checkpoint, donor_ckpt: Checkpoint, name: str
) -> str:
    """Return a hint: the same weights fused, split or named otherwise, or another backbone.

    It is the former if both sides have as many values in that part of that layer.
    """
    place = receiver.places[name]
    mine = [other for other, its in receiver.places.items() if its == place]
    theirs = [other for other, its in donor.places.items() if its == place]
    if not theirs or _values(receiver_ckpt, mine) != _values(donor_ckpt, theirs):
        return _BACKBONE
    what = group_name(place.layer, place.part)
    return (
        f"{what} has as many values there, but is stored as {_modules(donor, theirs)}, here as "
        f"{_modules(receiver, mine)}: convert the donor to the receiver's layout (fused and split "
        "projections, and other names, are not matched by guessing)"
    )


def _values(checkpoint: Checkpoint, names: Collection[str]) -> int:
    return sum(math.prod(checkpoint.headers[name].shape) for name in names)


def _modules(anatomy: Anatomy, names: Collection[str]) -> str:
    return ", ".join(sorted(anatomy.prefix_free_key(name)[1] for name in names))


def _check_sizes(
    receiver: Anatomy, donor: Anatomy, receiver_ckpt: Checkpoint, donor_ckpt: Checkpoint
) -> None:
    """Refuse other depths and widths before any single tensor is looked at."""
    for what, of in (("layers", _depth_of), ("width", _width_of)):
        mine, found = of(receiver), of(donor)
        if mine[0] != found[0]:
            raise PairingError(
                f"donor {donor_ckpt.folder} has {what} {found[0]} ({found[1]}), "
                f"receiver {receiver_ckpt.folder} has {mine[0]} ({mine[1]})",
                hint=_BACKBONE,
            )


def _depth_of(anatomy: Anatomy) -> tuple[int, str]:
    return anatomy.n_layers, f"{anatomy.language_tower.stack}.*"


def _width_of(anatomy: Anatomy) -> tuple[int, str]:
    return anatomy.language_tower.hidden, anatomy.language_tower.embedding
