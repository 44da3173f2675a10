"""What can be known of a model without its weights: config.json, tensor headers, bytes, card.

A model on this machine (a folder, the zoo, the hub's local cache) is read from disk. Of any other
the hub is asked for config.json and the headers of its safetensors files, never for tensors. Not
here: what the facts mean for a merge (`backbone`, `cost`), which they say as `Remark`s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal

from mergefront.errors import CheckpointError
from mergefront.json_file import parse_json
from mergefront.models.checkpoint import PICKLES, Checkpoint
from mergefront.models.locate import downloaded_files, locate_model
from mergefront.models.safetensors import TensorHeader

if TYPE_CHECKING:
    from huggingface_hub import HfApi

State = Literal["here", "cached", "hub", "unknown"]

Level = Literal["error", "warning", "note"]

_TIMEOUT: Final = 15.0
_OFFLINE: Final = "the hub was not asked (--offline)"
_GATED: Final = "gated: accept its licence on the hub and log in (hf auth login)"


@dataclass(frozen=True)
class Remark:
    """Something to know before a search; an `error` says that the search cannot work as it is.

    `subject` is a field of the configuration or a model's role, `hint` says what to do.
    """

    level: Level
    subject: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class ModelFacts:
    """One model of a run. What could not be learnt is None, and `trouble` says why.

    `role` names the model in messages ("receiver", "donor x"). `state` says where the facts are
    from: here (a folder or the zoo), cached (the hub's local cache), hub (asked just now), unknown.
    A `broken` model cannot be used as it is. `card_bases` are the ancestors that its card names.
    The weight files have `n_bytes`, of which `to_download` are not on this machine.
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
        """The headers as a checkpoint, None if unknown; its tensors may not be on this machine."""
        if self.config is None or self.headers is None:
            return None
        return Checkpoint(Path(self.model), dict(self.config), self.headers)


@dataclass
class Hub:
    """The Hugging Face hub, asked for descriptions of models only.

    The first connection that fails is the last one that is tried; `unreachable` says why.
    """

    endpoint: str | None = None
    unreachable: str = ""

    @cached_property
    def _api(self) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint)

    def facts(
        self, role: str, name: str, revision: str | None, *, adapter: bool = False
    ) -> ModelFacts:
        """Describe a model or an adapter; what the hub refuses stands in `trouble`."""
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
        from huggingface_hub.errors import HTTPError as ConnectionFailed  # type: ignore[attr-defined]

        trouble, broken = self.unreachable, False
        if not self.unreachable:
            try:
                return self._ask(role, name, revision, adapter)
            except GatedRepoError:
                trouble = _GATED
            except RevisionNotFoundError:
                trouble, broken = f"the hub has no revision {revision!r} of it", True
            except RepositoryNotFoundError:
                trouble = "the hub has no such model, or it is private and you are not logged in"
                broken = True
            except (HfHubHTTPError, ConnectionFailed, OfflineModeIsEnabled, OSError) as problem:
                trouble = f"the hub cannot be reached ({type(problem).__name__})"
                self.unreachable = trouble
        return ModelFacts(role, _label(name, revision), "unknown", trouble=trouble, broken=broken)

    def _ask(self, role: str, name: str, revision: str | None, adapter: bool) -> ModelFacts:
        from huggingface_hub.errors import GatedRepoError

        info = self._api.model_info(name, revision=revision, files_metadata=True, timeout=_TIMEOUT)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        weights = sum(
            sizes[file] for file in downloaded_files(sizes) if file.endswith(".safetensors")
        )
        trouble = _file_trouble(sizes, weights, adapter)
        facts = ModelFacts(
            role,
            _label(name, revision),
            "hub",
            n_bytes=weights,
            to_download=weights,
            commit=info.sha,
            card_bases=_card_bases(info.card_data),
            trouble=trouble,
            broken=bool(trouble),
        )
        if facts.broken or adapter:
            return facts
        try:
            file = self._api.hf_hub_download(name, "config.json", revision=info.sha)
            facts = replace(facts, config=parse_json(Path(file).read_bytes()))
            headers, trouble = self._headers(name, info.sha)
        except GatedRepoError:
            return replace(facts, trouble=_GATED)
        return replace(facts, headers=headers, trouble=trouble)

    def _headers(
        self, name: str, commit: str | None
    ) -> tuple[Mapping[str, TensorHeader] | None, str]:
        from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()  # the command line prints its own progress on stderr
        try:
            metadata = self._api.get_safetensors_metadata(name, revision=commit, timeout=_TIMEOUT)
        except (NotASafetensorsRepoError, SafetensorsParsingError) as problem:
            return None, f"its tensor headers cannot be read ({type(problem).__name__})"
        return {
            tensor: TensorHeader(tensor, entry.dtype, tuple(entry.shape), Path(file))
            for file, described in metadata.files_metadata.items()
            for tensor, entry in described.tensors.items()
        }, ""


def look_up(role: str, model: str, revision: str | None, hub: Hub | None) -> ModelFacts:
    """Learn what can be known of a model by its name: `zoo:NAME`, a folder or a hub id.

    `hub` is asked for what is not on this machine; with None, nothing is asked.
    """
    name, _, pinned = model.partition("@")
    if model.startswith("zoo:") or Path(model).expanduser().is_dir():
        return _facts_on_disk(role, model, "here", locate_model(model))
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        trouble = "no such folder, and no hub id (owner/name)"
        return ModelFacts(role, model, "unknown", trouble=trouble, broken=True)
    revision = revision or pinned or None
    cached = _in_cache(name, revision)
    if cached is not None:
        facts = _facts_on_disk(role, _label(name, revision), "cached", cached)
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
    return ModelFacts(role, _label(name, revision), "unknown", config=config, trouble=trouble)


def look_up_adapter(role: str, name: str, revision: str | None, hub: Hub | None) -> ModelFacts:
    """Learn what can be known of a LoRA adapter: whether it exists, and its bytes."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
        weights = sum(size for file, size in sizes.items() if file.endswith(".safetensors"))
        trouble = _file_trouble(sizes, weights, adapter=True)
        return ModelFacts(
            role,
            name,
            "here",
            n_bytes=weights,
            to_download=0,
            trouble=trouble,
            broken=bool(trouble),
        )
    if hub is None:
        return ModelFacts(role, _label(name, revision), "unknown", trouble=_OFFLINE)
    return hub.facts(role, name, revision, adapter=True)


def _facts_on_disk(role: str, label: str, state: State, folder: Path) -> ModelFacts:
    """Describe a model's folder; a model that cannot be opened is broken."""
    try:
        checkpoint = Checkpoint.open(folder)
    except CheckpointError as error:
        return ModelFacts(role, label, state, trouble=str(error), broken=True)
    files = {header.file for header in checkpoint.headers.values()}
    return ModelFacts(
        role,
        label,
        state,
        config=checkpoint.config,
        headers=checkpoint.headers,
        n_bytes=sum(file.stat().st_size for file in files),
        to_download=0,
        commit=folder.name if state == "cached" else None,
    )


def _in_cache(name: str, revision: str | None) -> Path | None:
    """Return the snapshot folder in the hub's cache that has the model's config.json, if any."""
    from huggingface_hub import constants, try_to_load_from_cache

    file = try_to_load_from_cache(
        name, "config.json", revision=revision, cache_dir=constants.HF_HUB_CACHE
    )
    return Path(file).parent if isinstance(file, str) else None


def _config(folder: Path) -> dict[str, Any] | None:
    try:
        content = parse_json((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _file_trouble(sizes: Mapping[str, int], weights: int, adapter: bool) -> str:
    """Say why a repository's files cannot serve as a source; empty if they can."""
    needed = "adapter_config.json" if adapter else "config.json"
    if needed not in sizes:
        if not adapter and "adapter_config.json" in sizes:
            return "it holds an adapter, not a model: name it as the donor's `adapter`"
        return f"it has no {needed}"
    if weights:
        return ""
    pickles = sorted(file for file in sizes if PurePosixPath(file).suffix in PICKLES)
    if pickles:
        return (
            f"it has only pickled weights ({pickles[0]}), which are never read: load it with "
            "transformers in a sandbox, save it with save_pretrained, then name that folder"
        )
    return "it has no *.safetensors weights"


def _card_bases(card: Any) -> tuple[str, ...]:
    """Read the `base_model` entry of a model card: one name, several, or none."""
    names = None if card is None else card.get("base_model")
    if isinstance(names, str):
        return (names,)
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _label(name: str, revision: str | None) -> str:
    return name if revision is None else f"{name}@{revision[:12]}"
