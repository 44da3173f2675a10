"""Receiver tensor -> donor tensor, for all that can be merged; or an error says what does not fit.

Two tensors pair if they have the same name within the same text layer, whatever stands before it,
or if both are the embedding, the head or the final norm. Not here: what each tensor is (`anatomy`).
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
    donor_names = donor.names_by_key()
    # A tied receiver has no head to pair with that of an untied donor: `check_heads` judges that.
    used: set[Key] = {(None, "head.weight")}
    pairs: dict[str, str] = {}
    for name in receiver.mergeable_tensors():
        key = receiver.prefix_free_key(name)
        used.add(key)
        donor_name = donor_names.get(key)
        if donor_name is None:
            raise PairingError(
                f"{where}: it has no counterpart of {name!r}",
                hint=_stored_otherwise(receiver, donor, receiver_ckpt, donor_ckpt, name),
            )
        shape, donor_shape = receiver_ckpt.headers[name].shape, donor_ckpt.headers[donor_name].shape
        token_rows = receiver.places[name].part in ("embedding", "head")
        if shape == donor_shape:
            pairs[name] = donor_name
        elif not token_rows or shape[1:] != donor_shape[1:]:
            raise PairingError(
                f"{where}: {donor_name!r} is {list(donor_shape)}, the receiver's {name!r} is "
                f"{list(shape)}",
                hint=_BACKBONE,
            )
    for key, donor_name in donor_names.items():
        if key not in used:
            message = f"{where}: nothing there fits the donor's {donor_name!r}"
            raise PairingError(message, hint=_BACKBONE)
    return pairs


def _stored_otherwise(
    receiver: Anatomy, donor: Anatomy, receiver_ckpt: Checkpoint, donor_ckpt: Checkpoint, name: str
) -> str:
    """Return a hint: the donor stores the same weights otherwise, or it has another backbone.

    If both sides have as many values in that part of that layer, it stores them otherwise: fused,
    split, or under other names.
    """
    place = receiver.places[name]
    names = [key for key, tensor_place in receiver.places.items() if tensor_place == place]
    donor_names = [key for key, tensor_place in donor.places.items() if tensor_place == place]
    if not donor_names or _values(receiver_ckpt, names) != _values(donor_ckpt, donor_names):
        return _BACKBONE
    group = group_name(place.layer, place.part)
    return (
        f"{group} has as many values there, but is stored as {_modules(donor, donor_names)}, here "
        f"as {_modules(receiver, names)}: convert the donor to the receiver's layout (fused and "
        "split projections, and other names, are not matched by guessing)"
    )


def _values(checkpoint: Checkpoint, names: Collection[str]) -> int:
    return sum(math.prod(checkpoint.headers[name].shape) for name in names)


def _modules(anatomy: Anatomy, names: Collection[str]) -> str:
    return ", ".join(sorted(anatomy.prefix_free_key(name)[1] for name in names))


def _check_sizes(
    receiver: Anatomy, donor: Anatomy, receiver_ckpt: Checkpoint, donor_ckpt: Checkpoint
) -> None:
    """Refuse another depth or width before any single tensor is compared."""
    towers = receiver.language_tower, donor.language_tower
    depths, widths = [len(tower.layers) for tower in towers], [tower.hidden for tower in towers]
    stacks, embeddings = [f"{t.stack}.*" for t in towers], [t.embedding for t in towers]
    for size, (number, donor_number), (tensors, donor_tensors) in (
        ("layers", depths, stacks),
        ("width", widths, embeddings),
    ):
        if number != donor_number:
            raise PairingError(
                f"donor {donor_ckpt.folder} has {size} {donor_number} ({donor_tensors}), "
                f"receiver {receiver_ckpt.folder} has {number} ({tensors})",
                hint=_BACKBONE,
            )
