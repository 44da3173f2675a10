"""The models that can be scored: a model folder or hub id, a recipe, or a candidate of a run."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from mergefront.config import EngineConfig
from mergefront.engine import Engine, open_engine
from mergefront.errors import RunError, UserError
from mergefront.merging.plan import Plan, plan_of
from mergefront.merging.recipe import Recipe
from mergefront.models.checkpoint import Checkpoint, architecture_of
from mergefront.models.locate import locate_model, locate_models
from mergefront.models.sources import Sources
from mergefront.runs.directory import RECEIVER, RunDirectory
from mergefront.runs.reference import find_run, open_run, split_reference
from mergefront.runs.reopen import models_of, reopen_candidate, run_space
from mergefront.yaml_file import load_yaml

KINDS = ("vllm", "transformers")


@dataclass(frozen=True)
class ScoredModel:
    """A model to score: either a `folder` that is served as it is, or a `recipe` to build.

    A candidate of a run has its `run` and its name there as `member`.
    """

    name: str
    settings: EngineConfig
    folder: Path | None = None
    recipe: Recipe | None = None
    run: RunDirectory | None = None
    member: str = ""

    def open(self) -> Engine:
        """Start an engine that can serve this model, and those that share the engine.

        Raises:
            UserError: a model is missing or unreadable.
            EngineError: the engine does not start.
        """
        model = locate_models(self.recipe.models) if self.recipe else self.folder
        assert model is not None
        return open_engine(self.settings, model)

    def plan(self) -> Plan | None:
        """Plan the recipe; None for a folder, which is served as it is.

        Raises:
            UserError: the recipe does not fit its models.
        """
        if self.recipe is None:
            return None
        return plan_of(self.recipe, Sources.open(locate_models(self.recipe.models)))

    def shares_engine(self, other: ScoredModel) -> bool:
        """Return whether one engine can serve both models, one after the other."""
        sources = [(m.recipe and m.recipe.models, m.folder, m.settings) for m in (self, other)]
        return sources[0] == sources[1]


def engine_settings(choice: str | None, default: EngineConfig | None = None) -> EngineConfig:
    """Return the engine's settings: for a kind, for a YAML file, or the default.

    A YAML file has the fields of a run's `engine`. Without a choice and a default, vLLM serves
    where it is installed, else transformers.

    Raises:
        ConfigError: the file is faulty.
        UserError: neither a kind nor a file.
    """
    installed = importlib.util.find_spec("vllm") is not None
    settings = default or EngineConfig(kind="vllm" if installed else "transformers")
    if choice is None:
        return settings
    if choice in KINDS:
        return settings.model_copy(update={"kind": choice})
    if Path(choice).suffix in {".yaml", ".yml"}:
        return load_yaml(Path(choice), EngineConfig)
    raise UserError(
        f"--engine {choice!r}: expected {' or '.join(KINDS)}, or a YAML file",
        hint="a file holds the fields of a run's `engine:`, such as max_model_len: 8192",
    )


def find_model(reference: str, runs: Path, engine: str | None = None) -> ScoredModel:
    """Return the model that a reference names.

    A reference is read as the first of these that fits: recipe.json; zoo:NAME; a run (RUN means
    RUN:knee; RUN:best:OBJECTIVE, RUN:17, RUN:receiver); a model folder; a hub id.

    Raises:
        UserError: it names none of these, or a model without a vision tower.
    """
    path = Path(reference)
    if path.suffix == ".json":
        if not path.is_file():
            raise UserError(f"{path}: no such recipe file", hint="check the path")
        return ScoredModel(reference, engine_settings(engine), recipe=Recipe.read(path))
    run, pick = split_reference(reference)
    if run != "zoo" and find_run(runs, run):
        return _candidate(open_run(runs, run), pick, engine)
    if run != "zoo" and ":" in reference and not path.exists():
        raise RunError(
            f"{reference}: there is no run {run!r} under {runs}",
            hint="name a directory under --runs, or give a recipe.json, a model folder, a hub id "
            "or zoo:vlm",
        )
    folder = locate_model(reference)
    config = Checkpoint.open(folder).config
    if "vision_config" not in config:
        kind = architecture_of(config, "an unknown model")
        raise UserError(
            f"{reference}: this is {kind}, which has no vision tower (no vision_config in "
            "config.json)",
            hint="score takes vision-language models; a text donor is scored merged, as a recipe",
        )
    return ScoredModel(reference, engine_settings(engine), folder=folder)


def receiver_of(model: ScoredModel) -> ScoredModel:
    """Return the receiver that a candidate or a recipe was made from.

    Raises:
        UserError: the model was not merged.
    """
    if model.recipe is None:
        raise UserError(
            f"--against receiver: {model.name} is a model folder, it has no receiver",
            hint="name the model to compare with",
        )
    recipe = model.recipe
    receiver_recipe = Recipe(recipe.method, recipe.models, {}, recipe.parameters)
    run = model.run
    name = f"{run.config.name}:receiver" if run else f"{recipe.models.receiver} (receiver)"
    return ScoredModel(
        name, model.settings, recipe=receiver_recipe, run=run, member=RECEIVER if run else ""
    )


def _candidate(run: RunDirectory, pick: str, engine: str | None) -> ScoredModel:
    settings = engine_settings(engine, run.config.engine)
    if pick == RECEIVER:
        space, _ = run_space(run)
        receiver_recipe = Recipe(
            space.spec.method, models_of(run.config), {}, space.spec.start_parameters
        )
        name = f"{run.config.name}:receiver"
        return ScoredModel(name, settings, recipe=receiver_recipe, run=run, member=RECEIVER)
    candidate = reopen_candidate(run, pick)
    label = candidate.label if pick.isdigit() else f"{candidate.label} (#{candidate.number})"
    return ScoredModel(
        label, settings, recipe=candidate.recipe, run=run, member=str(candidate.number)
    )
