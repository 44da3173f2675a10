"""The model card (README.md) of an exported checkpoint.

`huggingface_hub` writes the metadata, `card.md.jinja` is the body. Not here: what the card says of
verification, which is in provenance.json (`export`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

# From its own module: the package's ModelCard would import the hub's whole client.
from huggingface_hub.repocard_data import ModelCardData

from mergefront.merging.recipe import Recipe
from mergefront.models.sources import Sources
from mergefront.runs.report.templates import open_template

if TYPE_CHECKING:
    from mergefront.runs.front import Front, Member, UnvalidatedCandidate

_TEMPLATE = Path(__file__).with_name("card.md.jinja")


def licences(sources: Sources) -> dict[str, str]:
    """Source -> the licence that its own model card names, or "unknown"."""
    names = {}
    for alias, source in sources.models.items():
        if alias in ("receiver", *sources.donors):
            names[alias] = _licence(source.checkpoint.folder)
            if source.adapter is not None:
                names[f"adapter of {alias}"] = _licence(source.adapter.folder)
    return names


def _licence(folder: Path) -> str:
    """Read the licence from a card by pattern, since a foreign card's metadata may be no YAML."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    match = re.search(r"^license(?:_name)?:\s*['\"]?([^'\"\n]+)", text, re.MULTILINE)
    return match.group(1).strip() if match else "unknown"


def model_card(
    recipe: Recipe,
    licence_of: Mapping[str, str],
    front: Front | None,
    member: Member | UnvalidatedCandidate | None,
    recast: tuple[str, str] | None = None,
    scored_in: str | None = None,
) -> str:
    """Return Markdown with YAML front matter: base models, licence, scores with intervals, recipe.

    Args:
        licence_of: source -> licence, as `licences` returns it.
        front: what is reported about the run; None for a recipe that was merged without a search.
        member: the candidate whose recipe it is.
        recast: (the floating type written, the receiver's own), where these differ.
        scored_in: the floating type in which the candidate was scored, where these weights are not
            known to be the same.
    """
    models = recipe.models
    based_on = [models.receiver]
    for donor in models.donors.values():
        based_on += [donor.model, *([donor.adapter] if donor.adapter else [])]
    known = set(licence_of.values())
    metadata = ModelCardData(
        base_model=based_on,
        license=known.pop() if len(known) == 1 and "unknown" not in known else "other",
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["merge", "mergefront"],
    )
    body = open_template(_TEMPLATE).render(
        recipe=recipe,
        licences=licence_of,
        front=front,
        member=member,
        left_early=member and any(score.partial > 0 for score in member.search.values()),
        recast=recast,
        scored_in=scored_in,
        version=version("mergefront"),
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}\n"
