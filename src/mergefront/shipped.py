"""Where the configurations and search spaces that come with mergefront lie.

A wheel carries them inside the package (shipped/); a checkout has them at its top level.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mergefront.errors import ConfigError

Kind = Literal["configs", "search_spaces"]

_PACKAGE = Path(__file__).parent


def folder(kind: Kind) -> Path:
    """The folder with the shipped files of a kind."""
    packaged = _PACKAGE / "shipped" / kind
    return packaged if packaged.is_dir() else _PACKAGE.parent.parent / kind


def names(kind: Kind) -> list[str]:
    """Names of the shipped files of a kind, without suffix, sorted."""
    return sorted(path.stem for path in folder(kind).glob("*.yaml"))


def find(kind: Kind, name: str, relative_to: Path) -> Path:
    """A YAML file given by path, or a shipped one by name.

    Raises:
        ConfigError: neither exists; names the shipped ones.
    """
    path = relative_to / name
    if path.is_file():
        return path
    shipped = folder(kind) / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    raise ConfigError(
        f"{name}: no such file, and no shipped {kind.removesuffix('s').replace('_', ' ')} of "
        "that name",
        hint=f"shipped: {', '.join(names(kind))}; or give the path of a YAML file",
    )
