"""Data sets read from a hub by the real clients over HTTP: whole, streamed, files, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fixtures_dataset_hub import COMMIT, serving_datasets
from fixtures_perception import build_perception
from fixtures_tasks import build_reasoning
from mergefront.errors import UserError
from mergefront.files import cache_root
from mergefront.tasks import load_task, pool_of, prefetch
from mergefront.tasks.task_file import LIBRARY

LOOK = """
import dataclasses, json, logging, sys
from pathlib import Path
from mergefront.errors import UserError
from mergefront.tasks import load_task, pool_of, prefetch
logging.basicConfig(level=logging.WARNING)
for name in sys.argv[1:]:
    task = load_task(Path(name))
    glance = pool_of(task, Path(name).parent, 2) if task.name == "streamed" else None
    try:
        kept = prefetch(task)
        pool = pool_of(task, Path(name).parent)
    except UserError as error:
        print(json.dumps({"error": str(error)}))
        continue
    items = [i for s in ("search", "validation", "test") for i in pool.take(s)]
    print(json.dumps({"card": pool.card(), "sha256": kept.sha256, "n_rows": kept.n_rows,
                      "glance": glance and [glance.size(s) for s in glance.card()["items"]],
                      "items": sorted([i.id, i.question, len(i.images)] for i in items)}))
"""


def look(url: str, home: Path, *files: Path, offline: bool) -> tuple[list[dict[str, Any]], str]:
    """What a fresh process makes of task files, and what it warns of."""
    env = {name: value for name, value in os.environ.items() if name != "MERGEFRONT_DATASETS"}
    env |= {"HF_ENDPOINT": url, "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": str(int(offline))}
    env |= {"MERGEFRONT_CACHE": str(home / "cache")}
    command = [sys.executable, "-c", LOOK, *map(str, files)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.slow
def test_a_hub_is_read_once_and_then_not_needed(tmp_path: Path) -> None:
    build_reasoning(tmp_path / "hub")
    whole = LIBRARY / "we_math.yaml"
    streamed = tmp_path / "streamed.yaml"
    pinned = f"revision: {COMMIT}\n  streaming: true\n"
    text = whole.read_text().replace("name: we_math", "name: streamed")
    streamed.write_text(
        text.replace(text[text.index("revision:") : text.index("  split:")], pinned)
    )
    files = LIBRARY / "visulogic.yaml"
    with serving_datasets(tmp_path / "hub") as url:
        first, warned = look(url, tmp_path, whole, streamed, files, offline=False)
    assert f"not pinned; its latest commit is {COMMIT}: give it as data.revision" in warned
    assert "task streamed: the hub dataset" not in warned
    assert "task visulogic: not verified when the task file was written" in warned
    assert [one["card"]["revision"] for one in first] == [COMMIT] * 3
    assert first[0]["sha256"] == first[1]["sha256"]  # streamed or whole, the same content
    assert [one["n_rows"] for one in first] == [3, 3, 2]
    assert sum(first[1]["glance"]) == 2  # before it was in the cache
    assert all(images == 1 for one in first for _, _, images in one["items"])

    mmvp = LIBRARY / "mmvp.yaml"
    nowhere = "http://127.0.0.1:9"
    again, warned = look(nowhere, tmp_path, whole, streamed, files, mmvp, offline=True)
    assert again[:3] == first
    assert "not verified" not in warned
    assert "MMVP cannot be read (train)" in again[3]["error"]
    assert "mergefront tasks fetch mmvp" in again[3]["error"]


def test_the_cache_is_named_by_content_and_refuses_damage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    build_perception(tmp_path / "datasets")
    monkeypatch.setenv("MERGEFRONT_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setenv("MERGEFRONT_CACHE", str(tmp_path / "cache"))
    task = load_task(LIBRARY / "ai2d.yaml")
    first = prefetch(task)
    assert first is not None
    assert prefetch(task) == first
    assert [p.name for p in (cache_root() / "items").iterdir()] == [first.sha256]
    monkeypatch.delenv("MERGEFRONT_DATASETS")
    (first.folder / "images.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"ai2d is damaged: .*images\.bin is not \d+ bytes"):
        pool_of(task, LIBRARY)
