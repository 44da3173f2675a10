"""What can be known of a model without its weights: config.json, tensor headers, bytes, card.

A model that is here (a folder, the zoo, the hub's local cache) is read from disk; of one that is
not, the hub is asked for config.json and the headers of its safetensors files, never for tensors.
Not here: what the facts mean for a merge (`backbone`, `cost`).

Reading order: `ModelFacts`, `look_up`, `Hub`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal

from mergefront.errors import CheckpointError
from mergefront.models.checkpoint import PICKLES, Checkpoint
from mergefront.models.locate import downloaded_files, locate_model
from mergefront.models.safetensors import TensorHeader

if TYPE_CHECKING:
    from huggingface_hub import HfApi

State = Literal["here", "cached", "hub", "unknown"]

_TIMEOUT: Final = 15.0
_OFFLINE: Final = "the hub was not asked (--offline)"
_GATED: Final = "gated: accept its licence on the hub and log in (hf auth login)"


@dataclass(frozen=True)
class ModelFacts:
    """One model of a run. What could not be learnt is None, and `trouble` says why.

    `state`: here (a folder or the zoo), cached (in the hub's local cache), hub (asked just now),
    unknown. `broken`: the model cannot be used as it is. `card_bases`: ancestors that its card
    names. `n_bytes`: weight files, of which `to_download` are not here.
    """

    role: str
    model: str
    state: State
    config: Mapping[str, Any] | None = None
    headers: Mapping[str, TensorHeader] | None = None
    n_bytes: int | None = None
    to_download: int | None = None
    commit: str | None = None
    card_bases: tuple[str, ...] = ()
    trouble: str = ""
    broken: bool = False

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The headers as an opened checkpoint; its tensors cannot be read unless it is here."""
        if self.config is None or self.headers is None:
            return None
        return Checkpoint(Path(self.model), dict(self.config), self.headers)


@dataclass
class Hub:
    """The Hugging Face hub, asked for descriptions only.

    After the first connection that fails it asks no more: `silent` says why.
    """

    endpoint: str | None = None
    silent: str = ""
    _api: HfApi | None = field(default=None, repr=False)

    def facts(
        self, role: str, name: str, revision: str | None, *, adapter: bool = False
    ) -> ModelFacts:
        """Describe a model (or adapter) of the hub; what the hub refuses is said in `trouble`."""
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
        from huggingface_hub.errors import HTTPError as ConnectionFailed  # type: ignore[attr-defined]

        shown = _shown(name, revision)
        if self.silent:
            return ModelFacts(role, shown, "unknown", trouble=self.silent)
        try:
            return self._ask(role, name, revision, adapter)
        except GatedRepoError:
            return ModelFacts(role, shown, "unknown", trouble=_GATED)
        except RevisionNotFoundError:
            said = f"the hub has no revision {revision!r} of it"
            return ModelFacts(role, shown, "unknown", trouble=said, broken=True)
        except RepositoryNotFoundError:
            said = "the hub has no such model, or it is private and you are not logged in"
            return ModelFacts(role, shown, "unknown", trouble=said, broken=True)
        except (HfHubHTTPError, ConnectionFailed, OfflineModeIsEnabled, OSError) as problem:
            self.silent = f"the hub cannot be reached ({type(problem).__name__})"
            return ModelFacts(role, shown, "unknown", trouble=self.silent)

    def _ask(self, role: str, name: str, revision: str | None, adapter: bool) -> ModelFacts:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError

        if self._api is None:
            self._api = HfApi(endpoint=self.endpoint)
        info = self._api.model_info(name, revision=revision, files_metadata=True, timeout=_TIMEOUT)
        sizes = {one.rfilename: one.size or 0 for one in info.siblings or ()}
        weights = sum(
            sizes[file] for file in downloaded_files(sizes) if file.endswith(".safetensors")
        )
        facts: dict[str, Any] = {
            "n_bytes": weights,
            "to_download": weights,
            "commit": info.sha,
            "card_bases": _card_bases(info.card_data),
        }
        shown = _shown(name, revision)
        if problem := _refused(sizes, weights, adapter):
            return ModelFacts(role, shown, "hub", trouble=problem, broken=True, **facts)
        if adapter:
            return ModelFacts(role, shown, "hub", **facts)
        try:
            file = self._api.hf_hub_download(name, "config.json", revision=info.sha)
            facts["config"] = json.loads(Path(file).read_text(encoding="utf-8"))
            headers, trouble = self._headers(name, info.sha)
        except GatedRepoError:
            return ModelFacts(role, shown, "hub", trouble=_GATED, **facts)
        return ModelFacts(role, shown, "hub", headers=headers, trouble=trouble, **facts)

    def _headers(
        self, name: str, commit: str | None
    ) -> tuple[Mapping[str, TensorHeader] | None, str]:
        from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError
        from huggingface_hub.utils.tqdm import disable_progress_bars

        assert self._api is not None
        disable_progress_bars()  # stderr is ours
        try:
            found = self._api.get_safetensors_metadata(name, revision=commit, timeout=_TIMEOUT)
        except (NotASafetensorsRepoError, SafetensorsParsingError) as problem:
            return None, f"its tensor headers cannot be read ({type(problem).__name__})"
        return {
            tensor: TensorHeader(tensor, entry.dtype, tuple(entry.shape), Path(file))
            for file, described in found.files_metadata.items()
            for tensor, entry in described.tensors.items()
        }, ""


def look_up(role: str, model: str, revision: str | None, hub: Hub | None) -> ModelFacts:
    """Learn what can be known of a model by its name: `zoo:NAME`, a folder or a hub id.

    Args:
        role: what it is in the run, for messages: "receiver", "donor x".
        hub: where to ask for what is not here; None: nowhere.
    """
    name, _, pinned = model.partition("@")
    if model.startswith("zoo:") or Path(model).expanduser().is_dir():
        return _opened(role, model, "here", locate_model(model))
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        said = "no such folder, and no hub id (owner/name)"
        return ModelFacts(role, model, "unknown", trouble=said, broken=True)
    revision = revision or pinned or None
    cached = _in_cache(name, revision)
    if cached is not None:
        facts = _opened(role, _shown(name, revision), "cached", cached)
        if not facts.broken:
            return facts
    if hub is not None:
        facts = hub.facts(role, name, revision)
        if facts.state == "hub" or facts.broken:
            return facts
        trouble = facts.trouble
    else:
        trouble = _OFFLINE
    config = None if cached is None else _config(cached)
    return ModelFacts(role, _shown(name, revision), "unknown", config=config, trouble=trouble)


def look_up_adapter(role: str, name: str, revision: str | None, hub: Hub | None) -> ModelFacts:
    """Learn what can be known of a LoRA adapter: whether it is there, and its bytes."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
        weights = sum(size for file, size in sizes.items() if file.endswith(".safetensors"))
        problem = _refused(sizes, weights, adapter=True)
        return ModelFacts(
            role,
            name,
            "here",
            n_bytes=weights,
            to_download=0,
            trouble=problem,
            broken=bool(problem),
        )
    if hub is None:
        return ModelFacts(role, _shown(name, revision), "unknown", trouble=_OFFLINE)
    return hub.facts(role, name, revision, adapter=True)


def _opened(role: str, shown: str, state: State, folder: Path) -> ModelFacts:
    """Facts of a model on disk; one that cannot be opened is broken."""
    try:
        found = Checkpoint.open(folder)
    except CheckpointError as problem:
        return ModelFacts(role, shown, state, trouble=str(problem), broken=True)
    files = {header.file for header in found.headers.values()}
    return ModelFacts(
        role,
        shown,
        state,
        config=found.config,
        headers=found.headers,
        n_bytes=sum(file.stat().st_size for file in files),
        to_download=0,
        commit=folder.name if state == "cached" else None,
    )


def _in_cache(name: str, revision: str | None) -> Path | None:
    """The snapshot folder in the hub's cache that has the model's config.json."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(
        name, "config.json", revision=revision, cache_dir=constants.HF_HUB_CACHE
    )
    return Path(found).parent if isinstance(found, str) else None


def _config(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _refused(sizes: Mapping[str, int], weights: int, adapter: bool) -> str:
    """Why a repository's files cannot serve as a source; empty if they may."""
    names = [PurePosixPath(file) for file in sizes]
    needed = "adapter_config.json" if adapter else "config.json"
    if needed not in sizes:
        if not adapter and "adapter_config.json" in sizes:
            return "it holds an adapter, not a model: name it as the donor's `adapter`"
        return f"it has no {needed}"
    if weights:
        return ""
    pickles = sorted(str(name) for name in names if name.suffix in PICKLES)
    if pickles:
        return (
            f"only pickled weights ({pickles[0]}), which are never read: load it with transformers "
            "in a sandbox and save_pretrained, then name that folder"
        )
    return "it has no *.safetensors weights"


def _card_bases(card: Any) -> tuple[str, ...]:
    """The `base_model` entry of a model card: one name, several, or none."""
    named = None if card is None else card.get("base_model")
    if isinstance(named, str):
        return (named,)
    return tuple(str(one) for one in named) if isinstance(named, list) else ()


def _shown(name: str, revision: str | None) -> str:
    return name if revision is None else f"{name}@{revision[:12]}"
