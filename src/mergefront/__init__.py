"""mergefront: an evolutionary merge-search optimizer for vision-language models.

What `__all__` names is the Python API (docs/api.md); everything else may change between versions.
A name is imported when it is first used, so that `import mergefront` itself needs no torch.

Reading order of the packages, from the ground up: `records` and `config` (what a run is), `models`
and `merging` (where a coefficient becomes a weight), `space` (where a point becomes coefficients),
`engine` and `tasks` (where a recipe becomes answers and an answer a score), `search` (the main
loop), `runs` (where scores become a front).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergefront.config import Donor, EngineConfig, RunConfig, load_run_config
    from mergefront.engine import Engine, open_engine
    from mergefront.errors import MergefrontError, UserError
    from mergefront.jobs.export import merge
    from mergefront.merging.plan import plan_of
    from mergefront.merging.recipe import Recipe
    from mergefront.models.locate import ModelNames, locate_models
    from mergefront.models.sources import Sources
    from mergefront.records import Answer, Evaluation, Item
    from mergefront.runs.compare import compare_profiles, read_profile
    from mergefront.runs.directory import RunDirectory
    from mergefront.runs.front import Front, Member, read_front
    from mergefront.runs.reference import open_run
    from mergefront.search.finish import finish
    from mergefront.search.loop import RunningSearch, start_search
    from mergefront.search.setup import PreparedSearch, prepare_search

__all__ = [
    "Answer",
    "Donor",
    "Engine",
    "EngineConfig",
    "Evaluation",
    "Front",
    "Item",
    "Member",
    "MergefrontError",
    "ModelNames",
    "PreparedSearch",
    "Recipe",
    "RunConfig",
    "RunDirectory",
    "RunningSearch",
    "Sources",
    "UserError",
    "compare_profiles",
    "finish",
    "load_run_config",
    "locate_models",
    "merge",
    "open_engine",
    "open_run",
    "plan_of",
    "prepare_search",
    "read_front",
    "read_profile",
    "start_search",
]

_MODULES = {
    "Answer": "records",
    "Donor": "config",
    "Engine": "engine",
    "EngineConfig": "config",
    "Evaluation": "records",
    "Front": "runs.front",
    "Item": "records",
    "Member": "runs.front",
    "MergefrontError": "errors",
    "ModelNames": "models.locate",
    "PreparedSearch": "search.setup",
    "Recipe": "merging.recipe",
    "RunConfig": "config",
    "RunDirectory": "runs.directory",
    "RunningSearch": "search.loop",
    "Sources": "models.sources",
    "UserError": "errors",
    "compare_profiles": "runs.compare",
    "finish": "search.finish",
    "load_run_config": "config",
    "locate_models": "models.locate",
    "merge": "jobs.export",
    "open_engine": "engine",
    "open_run": "runs.reference",
    "plan_of": "merging.plan",
    "prepare_search": "search.setup",
    "read_front": "runs.front",
    "read_profile": "runs.compare",
    "start_search": "search.loop",
}


def __getattr__(name: str) -> Any:
    """Import a name of the API from its module when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("mergefront")
    if name not in _MODULES:
        raise AttributeError(f"module 'mergefront' has no attribute {name!r}")
    return getattr(import_module(f"mergefront.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the names of the API."""
    return [*__all__, "__version__"]
