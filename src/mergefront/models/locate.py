"""Where models lie: the names that a user writes, and the folders that they stand for.

`ModelNames` is what configurations and recipes hold. `locate_models` turns it into `ModelFolders`:
plain strings, which may cross process boundaries. Not here: opening the folders (`sources`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from mergefront.config import Alias, Donor, VocabularyMode
from mergefront.errors import UserError
from mergefront.yaml_file import Strict
from mergefront.zoo import model_folder

_DOWNLOADED: Final = (  # no pickles
    *("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py"),
    *("LICENSE*", "NOTICE*"),
)
NO_GGUF: Final = (
    "use the repository in safetensors from which the GGUF was made: it is quantised as a rule, "
    "and its tensors have other names"
)
"""The hint where a model is a GGUF file."""
# Many repositories hold their weights twice, in the trainer's layout beside that of transformers.
_SECOND_COPIES: Final = ["original/*", "consolidated*", "checkpoint-*/*"]


class ModelNames(Strict):
    """The models of a recipe, as the user wrote them; the donors' order is the sum's order."""

    receiver: str = Field(min_length=1)
    revision: str | None = None
    base: str | None = None
    donors: dict[Alias, Donor] = Field(default_factory=dict)
    vocabulary: VocabularyMode = "receiver"

    @model_serializer(mode="wrap")
    def _without_default_vocabulary(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the default out, so that recipes hash as they did before there was a choice."""
        plain: dict[str, Any] = handler(self)
        if self.vocabulary == "receiver":
            plain.pop("vocabulary", None)
        return plain


@dataclass(frozen=True)
class DonorFolders:
    """A donor's folder, its own base's if it names one, and its adapter's if it is one."""

    model: str
    base: str | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class ModelFolders:
    """The folders of all models, as plain strings; the donors' order is the sum's order."""

    receiver: str
    base: str | None
    donors: Mapping[str, DonorFolders]
    vocabulary: VocabularyMode = "receiver"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ModelFolders:
        """Undo `to_dict`."""
        donors = {alias: DonorFolders(**donor) for alias, donor in plain["donors"].items()}
        return cls(**{**plain, "donors": donors})


def locate_models(names: ModelNames) -> ModelFolders:
    """Return the folders of all models; hub models are downloaded unless they are here already.

    Raises:
        UserError: if a model cannot be found.
    """
    return ModelFolders(
        receiver=str(locate_model(names.receiver, names.revision)),
        base=_locate_optional(names.base),
        donors={
            alias: DonorFolders(
                model=str(locate_model(donor.model, donor.revision)),
                base=_locate_optional(donor.base),
                adapter=_locate_optional(donor.adapter, donor.adapter_revision),
            )
            for alias, donor in names.donors.items()
        },
        vocabulary=names.vocabulary,
    )


def _locate_optional(name: str | None, revision: str | None = None) -> str | None:
    return None if name is None else str(locate_model(name, revision))


def locate_model(name: str, revision: str | None = None) -> Path:
    """Return the folder of a model: `zoo:<name>`, an existing folder, or a Hugging Face hub id.

    A hub id may carry its revision, `owner/name@revision`. A hub model is taken from the local
    cache or downloaded, without any pickle.

    Raises:
        UserError: if there is no such folder and the hub has no such model or cannot be reached.
    """
    if name.startswith("zoo:"):
        return model_folder(name.removeprefix("zoo:"))
    folder = Path(name).expanduser()
    if folder.is_dir() and name:
        return folder
    if folder.is_file():
        raise UserError(
            f"model {name!r}: a file, expected a model's folder",
            hint=NO_GGUF if folder.suffix == ".gguf" else "give the folder that it lies in",
        )
    repository, _, pinned_revision = name.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository) or name.startswith((".", "/", "~")):
        raise UserError(
            f"model {name!r}: no such folder",
            hint="give a folder, a hub id such as Qwen/Qwen2-VL-7B-Instruct, or zoo:vlm",
        )
    return _download(name, repository, revision or pinned_revision or None)


def _download(name: str, repository: str, revision: str | None) -> Path:
    """Return the local snapshot of a hub repository; `name` is what the user wrote."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(_DOWNLOADED),
                ignore_patterns=_SECOND_COPIES,
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as problem:
        first_line = str(problem).strip().splitlines()[:1]
        raise UserError(
            f"model {name!r}: neither a folder here nor obtainable from the hub "
            f"({type(problem).__name__}: {' '.join(first_line)})",
            hint="check the name, the revision, the network and, for gated models, your HF login",
        ) from problem


def downloaded_files(files: Iterable[str]) -> list[str]:
    """Return those files of a hub repository (paths in it) that `locate_model` downloads."""
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    return list(
        filter_repo_objects(files, allow_patterns=list(_DOWNLOADED), ignore_patterns=_SECOND_COPIES)
    )
