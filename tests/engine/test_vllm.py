"""vLLM on the CPU, for real: the contract, its caches, its processes and its loader.

Starts are what costs here: about 15 s for the first engine, 3 s for each further one in this
process, and 30-60 s for the one with processes of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
import torch

from engine_contract import SETTINGS, Case, EngineContract, EveryMethod, Kind, make_items, png
from fixtures_models import tensors_of
from mergefront import files
from mergefront.config import ItemCounts, RunConfig
from mergefront.engine import open_engine
from mergefront.engine.inplace import tensor_hash
from mergefront.engine.layout import uniform_rows
from mergefront.errors import EngineError
from mergefront.merging.plan import plan_of
from mergefront.merging.recipe import Recipe
from mergefront.models.locate import locate_models
from mergefront.models.sources import Sources
from mergefront.records import Item
from mergefront.runs.reopen import models_of
from mergefront.tasks import item_set
from mergefront.yaml_file import load_yaml

pytest.importorskip("vllm", reason="vLLM is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.engine]


def vllm_of(case: Case) -> Any:
    """The engine with its private fields, which no Protocol has."""
    return case.engine


BEFORE = {
    name: os.environ.get(name)
    for name in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS", "VLLM_ENABLE_V1_MULTIPROCESSING")
}
EVERYTHING = ("*", "embedding", "head")


class TestFloat32Untied(EngineContract):
    """fp32 in-process, with all that is vLLM's own."""

    def test_without_the_reset_answers_would_be_stale(
        self, case: Case, items: list[Item], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = case.recipe(0.5, 0.1), case.recipe(0.1, 0.5)
        truth = case.ask(two, items)
        case.ask(one, items)
        monkeypatch.setattr(case.engine, "_drop_prefixes", lambda: None)
        case.load(one)
        monkeypatch.setattr(case.engine, "_salt", "same")
        case.engine.generate(items)
        case.load(two)
        monkeypatch.setattr(case.engine, "_salt", "same")
        assert case.engine.generate(items) != truth
        monkeypatch.undo()
        assert case.ask(two, items) == truth

    def test_images_are_encoded_once_however_many_candidates(self, case: Case) -> None:
        # vLLM's own encoder cache holds 4096 embeddings here: 1024 images of 4
        items = [
            replace(item, images=(png(9000 + i),))
            for i, item in enumerate(make_items(1100, length=3))
        ]
        before = case.engine.tower_passes()
        for coefficient in (0.1, 0.2):
            case.ask(case.recipe(coefficient, 0.0), items)
        assert case.engine.tower_passes() - before == len(items)

    def test_a_failed_load_forbids_answers_until_the_next(
        self, case: Case, items: list[Item], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = case.ask(case.recipe(0.5, 0.5), items)
        monkeypatch.setattr(vllm_of(case)._llm, "reset_prefix_cache", lambda: False)
        with pytest.raises(EngineError, match="did not drop its prefix cache"):
            case.load(case.recipe(0.5, 0.5))
        with pytest.raises(EngineError, match="weights are undefined"):
            case.engine.generate(items)
        monkeypatch.undo()
        assert case.ask(case.recipe(0.5, 0.5), items) == answers

    def test_an_interrupt_leaves_no_questions_behind(
        self, case: Case, items: list[Item], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = case.ask(case.recipe(0.5, 0.5), items)
        inner = vllm_of(case)._llm.llm_engine
        step, steps = inner.step, []

        def interrupted() -> object:
            steps.append(1)
            if len(steps) == 2:
                raise KeyboardInterrupt
            return step()

        monkeypatch.setattr(inner, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            case.engine.generate(items)
        monkeypatch.undo()
        assert not inner.has_unfinished_requests()
        assert case.engine.generate(items) == answers
        assert case.ask(case.recipe(0.5, 0.5), items) == answers

    @pytest.mark.parametrize("reason", ["abort", "error", "repetition", None])
    def test_an_answer_that_was_broken_off_is_no_answer(
        self,
        case: Case,
        items: list[Item],
        monkeypatch: pytest.MonkeyPatch,
        reason: str | None,
    ) -> None:
        answers = case.ask(case.recipe(0.5, 0.5), items)
        inner = vllm_of(case)._llm.llm_engine
        step = inner.step

        def aborting() -> list[Any]:
            outputs = step()
            for output in outputs:
                output.outputs[0].finish_reason = reason
            return list(outputs)

        monkeypatch.setattr(inner, "step", aborting)
        with pytest.raises(EngineError, match=rf"item q0: vLLM broke off its answer \({reason}\)"):
            case.engine.generate(items)
        monkeypatch.undo()
        assert case.engine.generate(items) == answers

    def test_a_question_that_vllm_loses_is_no_answer(
        self, case: Case, items: list[Item], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = case.ask(case.recipe(0.5, 0.5), items)
        inner = vllm_of(case)._llm.llm_engine
        step = inner.step
        monkeypatch.setattr(inner, "step", lambda: list(step())[1:])
        with pytest.raises(EngineError, match=r"item q\d+: vLLM broke off its answer \(nothing\)"):
            case.engine.generate(items)
        monkeypatch.undo()
        assert case.engine.generate(items) == answers

    def test_a_failed_start_is_an_engine_error(self, case: Case, items: list[Item]) -> None:
        answers = case.ask(case.recipe(0.5, 0.5), items)
        settings = case.settings.model_copy(update={"max_model_len": 100_000})
        with pytest.raises(EngineError, match=r"vLLM did not start on .*vlm"):
            open_engine(settings, case.sources.folders)
        assert case.engine.generate(items) == answers

    def test_torch_is_left_as_it_was(self, case: Case) -> None:
        assert torch.set_num_threads.__module__ != "vllm.v1.worker.cpu_worker"
        now = {name: os.environ.get(name) for name in BEFORE}
        assert now == BEFORE


class TestBfloat16EngineTied(EngineContract):
    """A bf16 engine on a fp32 checkpoint with a tied head, embedding merged too."""

    KIND: ClassVar[Kind] = Kind(tied=True, groups=("*", "embedding"))
    SETTINGS = SETTINGS.model_copy(update={"dtype": "bfloat16"})


class TestBfloat16Checkpoint(EveryMethod, EngineContract):
    """A fp32 engine on a bf16 checkpoint, embedding and head merged too."""

    KIND: ClassVar[Kind] = Kind(dtype=torch.bfloat16, groups=EVERYTHING)

    def written_hashes(self, case: Case, folder: Path) -> dict[str, str]:
        """What the model's own loader makes of the checkpoint, without another engine."""

        def loaded(worker: Any) -> dict[str, str]:
            live = worker.mergefront_model
            fresh = {name: p.data.clone() for name, p in live._parameters.items()}
            live._load_into(fresh, tensors_of(folder).items())
            return {name: tensor_hash(tensor) for name, tensor in fresh.items()}

        found: dict[str, str] = vllm_of(case)._llm.collective_rpc(loaded)[0]
        return found


class TestOwnProcess(EngineContract):
    """The core in a process of its own; checkpoints are opened in this one: same layout."""

    KIND: ClassVar[Kind] = Kind(dtype=torch.bfloat16, tied=True)
    SETTINGS = SETTINGS.model_copy(update={"dtype": "bfloat16", "multiprocess": True})
    FRESH = SETTINGS.model_copy(update={"multiprocess": False})

    def test_images_are_encoded_once(self, case: Case) -> None:
        items = [replace(item, images=(png(9000 + i),)) for i, item in enumerate(make_items(40))]
        before = case.engine.tower_passes()
        for coefficient in (0.1, 0.2, 0.3):
            case.ask(case.recipe(coefficient, 0.0), items)
        assert case.engine.tower_passes() - before == len(items)

    def test_an_interrupt_of_the_terminal_does_not_reach_the_core(
        self, case: Case, items: list[Item], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = case.ask(case.recipe(0.5, 0.5), items)
        cores = psutil.Process().children(recursive=True)  # all that Ctrl-C reaches but ourselves
        assert len(cores) >= len(multiprocessing.active_children()) == 1
        inner = vllm_of(case)._llm.llm_engine
        step = inner.step

        def interrupting() -> object:
            for core in cores:
                core.send_signal(signal.SIGINT)
            return step()

        monkeypatch.setattr(inner, "step", interrupting)
        assert case.engine.generate(items) == answers
        monkeypatch.undo()
        assert case.engine.generate(items) == answers
        assert all(core.is_running() for core in cores)
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_children_started_deaf_inherit_it_and_still_end_by_sigterm(tmp_path: Path) -> None:
    """Also when the resource tracker, whose start unblocks the signal, was not running yet."""
    code = """
import multiprocessing, signal, sys
from mergefront.engine.launch import _deaf_children
def mask(pipe):
    pipe.send(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    pipe.recv()
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with _deaf_children():
        child = context.Process(target=mask, args=(theirs,))
        child.start()
    deaf, alive = ours.recv(), child.is_alive()
    child.terminate()
    child.join(20)
    ours_free = signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    sys.exit(str((deaf, alive, ours_free, child.exitcode)))
"""
    script = tmp_path / "deaf.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr.strip() == str((True, True, True, -signal.SIGTERM.value))


def test_nothing_of_vllm_reaches_stdout(tmp_path: Path) -> None:
    """stdout is data: a start and an answer print nothing there."""
    code = (
        "from pathlib import Path; import engine_contract as c\n"
        f"case = c.open_case(Path({str(tmp_path)!r}), c.Kind(), c.SETTINGS)\n"
        "case.ask(case.recipe(0.5, 0.5), c.make_items(4)); case.engine.close()\n"
    )
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == ""


def test_uniform_rows_finds_runs_and_refuses_mixed_rows() -> None:
    codes = torch.tensor([[1, 1], [1, 1], [2, 2], [0, 0]])
    assert uniform_rows("w", codes) == [((0, 2), 1), ((2, 3), 2)]
    assert uniform_rows("w", torch.zeros(3)) == []
    assert uniform_rows("w", torch.tensor([3, 3])) == [((0, 2), 3)]
    assert uniform_rows("w", torch.tensor(4)) == [((0, 1), 4)]
    with pytest.raises(EngineError, match="parameter w mixes tensors within a row"):
        uniform_rows("w", torch.tensor([[1, 2], [1, 1]]))


@dataclass(frozen=True)
class Feature:
    identifier: str


@dataclass(frozen=True)
class Request:
    """What vLLM's encoder cache manager reads of a request."""

    request_id: str
    mm_features: tuple[Feature, ...]

    def get_num_encoder_embeds(self, input_id: int) -> int:
        return 4


def test_pinned_images_survive_a_cyclic_pass_larger_than_the_cache() -> None:
    from mergefront.engine.encoder_cache import PinningEncoderCacheManager

    manager = PinningEncoderCacheManager(cache_size=8, pinned_size=20)

    def encoded(turn: int) -> int:
        misses = 0
        for number in range(10):
            request = Request(f"{turn}-{number}", (Feature(f"image{number}"),))
            if not manager.check_and_update_cache(request, 0):
                assert manager.can_allocate(request, 0, 100, 0)
                manager.allocate(request, 0)
                misses += 1
            manager.free(request)
        return misses

    assert [encoded(turn) for turn in range(3)] == [10, 5, 5]
    manager.reset()
    assert [encoded(turn) for turn in range(2)] == [10, 5]


def test_same_answers_as_transformers_on_the_zoo() -> None:
    """Real questions, a real model: the receiver and a merge of both donors."""
    config = load_yaml(files.find_yaml("configs", "digits"), RunConfig)
    models = models_of(config)
    counts = ItemCounts(search=150, validation=1, test=1)
    items = item_set(config.objective_tasks, counts, Path()).flat("search")
    assert len(items) == 300
    recipes = [
        Recipe("task_arithmetic", models),
        Recipe("task_arithmetic", models, {name: {"*": 0.5} for name in models.donors}),
    ]
    sources = Sources.open(locate_models(recipes[0].models))
    answers = {}
    for kind in ("vllm", "transformers"):
        settings = SETTINGS.model_copy(update={"kind": kind})
        engine = open_engine(settings, sources.folders)
        try:
            for number, recipe in enumerate(recipes):
                engine.load(plan_of(recipe, sources))
                answers[kind, number] = engine.generate(items)
        finally:
            engine.close()
    assert answers["vllm", 0] == answers["transformers", 0]
    assert answers["vllm", 1] == answers["transformers", 1]
    assert answers["vllm", 0] != answers["vllm", 1]
    assert sum(answer.finished for answer in answers["vllm", 1]) > 250
