"""Pairing and exporting in a line each, and a checkpoint's bytes to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fixtures_models import tensors_of
from mergefront.config import Donor
from mergefront.merging import build
from mergefront.merging.recipe import Recipe
from mergefront.models.anatomy import Anatomy, dissect
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.locate import ModelNames, locate_models
from mergefront.models.pairing import pair_tensors
from mergefront.models.sources import Sources


def read(folder: Path) -> tuple[Checkpoint, Anatomy]:
    checkpoint = Checkpoint.open(folder)
    return checkpoint, dissect(checkpoint)


def paired(receiver: Path, donor: Path) -> dict[str, str]:
    mine, theirs = read(receiver), read(donor)
    return pair_tensors(mine[1], theirs[1], mine[0], theirs[0])


def recipe_of(receiver: Path, donor: Path, *parts: str) -> Recipe:
    """The donor whole in `parts`, groups or patterns."""
    models = ModelNames(receiver=str(receiver), donors={"donor": Donor(model=str(donor))})
    return Recipe("linear", models, {"donor": dict.fromkeys(parts, 1.0)})


def export(recipe: Recipe, out: Path) -> dict[str, Any]:
    out.mkdir()
    return build.write(Sources.open(locate_models(recipe.models)), recipe, out)


def bytes_of(folder: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    return {
        name: (t.dtype, tuple(t.shape), t.contiguous().view(torch.uint8).numpy().tobytes())
        for name, t in tensors_of(folder).items()
    }
